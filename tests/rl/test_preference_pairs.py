"""From scores and episodes to pairs, and from a policy's episodes to a policy that was trained on them."""

import dataclasses
import json
import math

import pytest

from core.config import ModelConfig, OptimConfig
from core.errors import RunError
from rl.preferences.commands import pairs as pairs_command
from rl.preferences.config import PreferenceConfig
from rl.preferences.examples import Encoder, read_examples
from rl.preferences.pairs import pairs_from_rollout, pairs_from_scores, play_starts, preferred
from rl.preferences.trainers import PreferenceTrainer
from rl.trainers import PolicyTrainer


def test_best_against_worst_by_hand():
    found = pairs_from_scores(["p", "q", "p", "p", "q"], ["a", "b", "c", "d", "e"], [1.0, 5.0, 3.0, 2.0, 5.0])
    assert found == [{"prompt": "p", "chosen": "c", "rejected": "a", "margin": 2.0}]  # of q's both score the same


def test_all_pairs_with_a_least_margin():
    scores = [0.0, 1.0, 3.0]
    assert preferred([0, 0, 0], scores, choose="all") == [(1, 0), (2, 0), (2, 1)]
    assert preferred([0, 0, 0], scores, choose="all", min_margin=2.0) == [(2, 0), (2, 1)]
    assert preferred([0, 0, 0], scores, min_margin=3.5) == []
    assert preferred([0, 1, 2], scores, choose="all") == []


def test_a_completion_is_not_preferred_to_itself():
    assert pairs_from_scores(["p", "p"], ["same", "same"], [1.0, 0.0]) == []


def test_wrong_scores_are_refused():
    with pytest.raises(ValueError, match="the score of completion 1 is nan"):
        pairs_from_scores(["p", "p"], ["a", "b"], [0.0, math.nan])
    with pytest.raises(ValueError, match="got 2 completions and 1 scores"):
        pairs_from_scores(["p", "p"], ["a", "b"], [0.0])
    with pytest.raises(ValueError, match="repeat each prompt"):
        pairs_from_scores(["p"], ["a", "b"], [0.0, 1.0])
    with pytest.raises(ValueError, match="min_margin must be finite"):
        preferred([0], [0.0], min_margin=math.nan)
    with pytest.raises(ValueError, match="choose must be"):
        preferred([0], [0.0], choose="some")


def trained(config, **changes):
    trainer = PolicyTrainer(dataclasses.replace(config, **changes), quiet=True, report=False)
    trainer.train()
    return trainer


def test_pairs_of_episodes_have_the_very_tokens(config):
    trainer = trained(config, steps=1, env="tests/Counting-v0", env_kwargs={"length": 1, "longest": 3})
    (rollout,) = play_starts(trainer, 6, 5)
    assert rollout.num_episodes == 30
    rows = pairs_from_rollout(rollout, trainer.tokenizer, by_seed=True, choose="all")
    assert rows
    played = {(tuple(c), tuple(t)) for c, t in zip(rollout.contexts, rollout.samples.lists())}
    for row in rows:
        assert row["margin"] > 0
        for side in ("chosen", "rejected"):
            assert (tuple(row["prompt_ids"]), tuple(row[f"{side}_ids"])) in played
            assert trainer.tokenizer.decode(row[f"{side}_ids"]) == row[side]
        assert "chosen_mask" not in row
    best = pairs_from_rollout(rollout, trainer.tokenizer)
    assert len({row["prompt"] for row in best}) == len(best)
    assert any(row["chosen_ids"][-1] == trainer.tokenizer.eos_id for row in rows)  # the end was sampled, so it is there


def test_episodes_that_began_alike_can_be_told_apart_by_their_seed(config):
    trainer = trained(config, steps=1, env="tests/Counting-v0", env_kwargs={"legal": "+ -"}, context="history")
    (rollout,) = play_starts(trainer, 12, 8)  # 12 seeds, and three texts that an episode begins with
    assert 3 < len(pairs_from_rollout(rollout, trainer.tokenizer, by_seed=True)) <= 12
    assert len(pairs_from_rollout(rollout, trainer.tokenizer)) == 3


def test_many_episodes_are_played_in_parts_that_make_no_difference(config, monkeypatch):
    trainer = trained(config, steps=1, env="tests/Counting-v0", env_kwargs={"legal": "+ -"}, context="history")
    (whole,) = play_starts(trainer, 3, 4)
    monkeypatch.setattr("rl.preferences.pairs.AT_ONCE", 9)  # two starts of four episodes
    parts = list(play_starts(trainer, 3, 4))
    assert [part.num_episodes for part in parts] == [8, 4]
    rows = [row for part in parts for row in pairs_from_rollout(part, trainer.tokenizer, by_seed=True)]
    assert rows == pairs_from_rollout(whole, trainer.tokenizer, by_seed=True)


def test_episodes_of_several_turns_tell_the_policys_tokens(config, tmp_path):
    trainer = trained(config, steps=1, env="tests/Counting-v0", env_kwargs={"legal": "+ -"}, context="history")
    (rollout,) = play_starts(trainer, 4, 4)
    rows = pairs_from_rollout(rollout, trainer.tokenizer)
    assert rows
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for pair, row in zip(Encoder(trainer.tokenizer, 64).pairs(read_examples(path)), rows):
        own = [token for token, kept in zip(pair.chosen.tokens, pair.chosen.mask) if kept]
        said = trainer.tokenizer.decode(own)
        assert set(said) <= set("+-")
        assert len(said) == 3
        others = [token for token, kept in zip(pair.chosen.tokens, pair.chosen.mask) if not kept]
        assert set(trainer.tokenizer.decode(others)) <= set("0123456789-")
        assert row["margin"] == (said.count("+") - said.count("-")) - _sum(trainer, pair.rejected)
    short = trained(config, out=config.out.with_name("short"), steps=1, env="tests/Counting-v0")
    (rollout,) = play_starts(short, 2, 4)
    with pytest.raises(ValueError, match="--context history"):
        pairs_from_rollout(rollout, short.tokenizer)


def _sum(trainer, completion):
    said = trainer.tokenizer.decode([t for t, kept in zip(completion.tokens, completion.mask) if kept])
    return said.count("+") - said.count("-")


def test_from_a_policys_episodes_to_pairs_to_a_better_policy_and_back_into_rl(config, tmp_path, capsys):
    """Counting-v0 pays for every plus: a policy that is as good as random learns it from its own episodes."""
    run, out = config.out, tmp_path / "pairs.jsonl"
    model = ModelConfig(width=32, num_layers=1, num_heads=1, max_length=64)
    trained(config, steps=0, env="tests/Counting-v0", context="history", model=model)
    assert pairs_command([str(run), str(out), "--starts", "48", "-n", "6", "--choose", "all", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert f"{len(out.read_text().splitlines())} pairs from 48 starts of 6 episodes" in said
    trainer = PreferenceTrainer(
        PreferenceConfig(
            out=tmp_path / "dpo", data=out, init_from=run, beta=0.1, steps=60, batch_size=16, threads=1, device="cpu",
            optim=OptimConfig(lr=3e-3),
        ),
        quiet=True, report=False,
    )  # fmt: skip
    scores = trainer.train()
    assert scores["accuracy"] > 0.9
    before, after = (
        PolicyTrainer(
            dataclasses.replace(
                config, out=tmp_path / f"rl-{start.name}", init_from=start, steps=0, eval_episodes=64,
                env="tests/Counting-v0", context="history",
            ),
            quiet=True, report=False,
        ).train()["return"]
        for start in (run, tmp_path / "dpo")
    )  # fmt: skip
    assert abs(before) < 1.5
    assert after > before + 0.8


@pytest.mark.parametrize(
    ("options", "said"),
    [(["-n", "1"], "at least 2 episodes"), (["--seed", "-1"], "--seed"), (["--choose", "any"], "--choose")],
)
def test_a_wrong_pairs_command_ends_with_one_line(options, said, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        pairs_command(["nothing", str(tmp_path / "out.jsonl"), *options])
    assert stop.value.code == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert said in error


def test_without_differences_nothing_is_written(config, tmp_path):
    trained(config, steps=0, env="tests/Counting-v0", env_kwargs={"legal": "+"}, context="history")
    with pytest.raises(RunError, match="no start had episodes of different returns"):
        pairs_command([str(config.out), str(tmp_path / "pairs.jsonl"), "--starts", "2", "-n", "2", "--device", "cpu"])
    assert not (tmp_path / "pairs.jsonl").exists()
