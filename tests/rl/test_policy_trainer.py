"""The public trainer: runs, resume, scores, transcripts, other environments, the `play` command."""

import dataclasses
import json
import shutil
from pathlib import Path

import gymnasium
import pytest
import torch
from gymnasium.spaces import Text

from core.cli import main
from core.config import ModelConfig, OptimConfig
from core.errors import RunError
from core.training.log import TIME_FIELDS
from core.training.trainer import Trainer
from rl.evaluation import share_score
from rl.interface import EnvironmentMismatch
from rl.trainers import PolicyTrainer

LAKE = {"env": "trillium/FrozenLake-v0", "env_kwargs": {"horizon": 6}}


def train(config, **changes):
    trainer = PolicyTrainer(dataclasses.replace(config, **changes), quiet=True, report=False)
    return trainer, trainer.train()


def lines(out):
    """The metrics of a run, without the time that they took."""
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name not in TIME_FIELDS} for record in records]


def weights(trainer):
    return {name: p.detach() for name, p in trainer.task.model.module.named_parameters()}


@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm": "reinforce"},
        {"algorithm": "ppo", "minibatches": 2, **LAKE},
        {"algorithm": "ppo", "network": "lstm", "context": "history", "env": "tests/Counting-v0"},
    ],
)
def test_a_resumed_run_is_the_run_that_never_stopped(config, tmp_path, changes):
    optim = OptimConfig(lr=1e-2, schedule="cosine", ema_decay=0.9)
    changes = {**changes, "optim": optim, "log_every": 1, "eval_every": 2, "checkpoint_every": 2, "keep": 5, "steps": 4}
    straight, scores = train(config, **changes)
    # The same run as it stood after two steps, its metrics included, went on from there.
    cut = tmp_path / "cut"
    shutil.copytree(config.out, cut)
    (newest,) = [folder for folder in (cut / "checkpoints").iterdir() if "4" in folder.name]
    shutil.rmtree(newest)
    (cut / "eval.json").unlink()
    resumed, again = train(config, out=cut, **changes)
    assert again == scores
    assert lines(cut) == lines(config.out)
    for name, value in weights(straight).items():
        assert value.equal(weights(resumed)[name]), name


def test_a_run_leaves_scores_rows_and_transcripts(config):
    _, scores = train(config, **LAKE)
    stored = json.loads((config.out / "eval.json").read_text())
    assert stored["metrics"] == pytest.approx(scores)
    rows = {row["name"]: row for row in stored["rows"]}
    exact = [f"{name} (exact)" for name in ("before RL", "before RL, greedy", "model", "model, greedy")]
    assert list(rows) == ["random", "before RL", "model", "model, greedy", *exact, "optimum"]
    assert rows["optimum"]["return"] == 1
    assert rows["model (exact)"]["regret"] == pytest.approx(1 - rows["model (exact)"]["return"])
    assert 0 <= rows["model (exact)"]["return"] <= 1
    for name in ("random", "before RL", "model"):
        cell = rows[name]["return"]
        assert cell["low"] <= cell["value"] <= cell["high"]
        assert rows[name]["valid"]["value"] == 1
    assert rows["model"]["return"]["value"] == pytest.approx(scores["return"])
    assert rows["model, greedy"]["solved"]["value"] == pytest.approx(scores["solved_greedy"])
    (sampled,) = [json.loads(line) for line in next((config.out / "samples").glob("*.jsonl")).read_text().splitlines()][
        :1
    ]
    assert sampled["transcript"][0] == {"role": "environment", "text": "r0c0:"}
    assert isinstance(sampled["reward"], float)
    assert sampled["ok"] == (sampled["reward"] == 1)


def test_the_row_before_training_is_the_fresh_policy(config):
    _, fresh = train(config, steps=0, **LAKE)
    train(config, out=config.out.with_name("trained"), steps=3, **LAKE)
    rows = json.loads((config.out.with_name("trained") / "eval.json").read_text())["rows"]
    before = next(row for row in rows if row["name"] == "before RL")
    assert before["return"]["value"] == pytest.approx(fresh["return"])
    assert before["turns"]["value"] == pytest.approx(fresh["turns"])


def test_a_report_is_written(config):
    PolicyTrainer(dataclasses.replace(config, **LAKE), quiet=True).train()
    page = (config.out / "report.html").read_text()
    assert "before RL" in page
    assert "r0c0:" in page


@pytest.mark.parametrize("network", ["transformer", "lstm"])
def test_a_stored_run_plays_as_before(config, tmp_path, network):
    trainer, scores = train(config, algorithm="ppo", network=network, **LAKE)
    loaded = Trainer.load(config.out, device="cpu")
    assert isinstance(loaded, PolicyTrainer)
    assert loaded.evaluate() == pytest.approx(scores, abs=1e-6)
    assert loaded.play(episodes=3, seed=5).transcript(2) == trainer.play(episodes=3, seed=5).transcript(2)
    folder = loaded.save(tmp_path / "saved")
    assert {"model.safetensors", "critic.safetensors", "tokenizer.json", "config.json"} <= {
        p.name for p in folder.iterdir()
    }
    torch.manual_seed(0)
    first = loaded.sample(2)
    torch.manual_seed(0)
    assert loaded.sample(2) == first
    assert len(first) == 2


def test_a_policy_plays_other_environments_whose_letters_it_knows(config):
    trainer, _ = train(config, steps=1, **LAKE)
    played = trainer.play("trillium/FrozenLake-v0", {"slippery": True, "horizon": 3}, episodes=4)
    assert max(torch.bincount(played.episode_N)) <= 3
    assert set(trainer.known_returns()) == {"optimum", "random"}
    with pytest.raises(EnvironmentMismatch, match="vocabulary lacks 'abd'"):
        trainer.play("trillium/Copy-v0")
    with pytest.raises(ValueError, match="cannot make the environment 'nowhere/Nothing-v0'"):
        trainer.play("nowhere/Nothing-v0")
    with pytest.raises(ValueError, match=r"with \{'depth': 3\}"):
        trainer.play("trillium/Copy-v0", {"depth": 3})


def test_an_environment_without_a_known_optimum_needs_nothing_but_text(config):
    trainer, scores = train(config, env="tests/Counting-v0")
    assert "return" in scores
    assert "regret" not in scores
    rows = json.loads((config.out / "eval.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["random", "before RL", "model", "model, greedy"]
    assert "ok" not in trainer.sample(1)[0]


def test_an_environment_that_reads_no_text_is_refused_before_anything_is_written(config):
    with pytest.raises(ValueError, match="cannot make the environment 'Pendulum-v1'"):
        train(config, env="Pendulum-v1")
    assert not config.out.exists()


def test_an_environment_of_gymnasium_is_played_as_text(config):
    trainer, _ = train(config, env="FrozenLake-v1", max_turns=5)
    transcript = trainer.sample(1)[0]["transcript"]
    assert transcript[0]["text"].startswith("0")
    assert transcript[1]["text"] in {"0", "1", "2", "3"}


def test_a_policy_starts_from_a_hugging_face_folder(config, tmp_path):
    first, _ = train(config, steps=2)
    from core.pretrained.huggingface import save_hf

    model, tokenizer = first.export_parts()
    save_hf(model, tmp_path / "folder", tokenizer)
    second, scores = train(
        config, out=tmp_path / "second", init_from=tmp_path / "folder", algorithm="ppo", steps=0, model=ModelConfig()
    )
    for name, value in weights(first).items():
        assert value.equal(weights(second)[name]), name
    assert scores["return"] == pytest.approx(first.evaluate()["return"])
    critic = second.task.critic.module.model
    assert critic.model.embed_tokens.weight.equal(second.task.model.module.model.embed_tokens.weight)
    assert critic is not second.task.model.module
    lstm, _ = train(config, out=tmp_path / "lstm", network="lstm", steps=0)
    with pytest.raises(RunError, match="only a Transformer"):
        lstm.export_parts()


def test_an_environment_in_a_users_module(config, tmp_path, monkeypatch):
    (tmp_path / "my_game.py").write_text(
        "import gymnasium\n"
        "from rl.envs.copying import CopyEnv\n"
        "gymnasium.register(id='mine/Game-v0', entry_point=lambda **k: CopyEnv(length=1, alphabet='xy', **k))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    _, scores = train(config, env="my_game:mine/Game-v0", steps=1)
    assert scores["valid"] >= 0


def test_gymnasium_wrappers_keep_the_known_returns(config):
    gymnasium.register(
        id="tests/Limited-v0",
        entry_point="rl.envs.frozen_lake:FrozenLakeTextEnv",
        max_episode_steps=4,
        kwargs={"horizon": 9},
    )
    trainer, scores = train(config, env="tests/Limited-v0", steps=1)
    assert "regret" in scores
    assert max(torch.bincount(trainer.play(episodes=8).episode_N)) <= 4
    assert isinstance(trainer.task.player.interface.action_space, Text)


def test_wilsons_interval_by_hand():
    # 0 of 10: centre = (z^2/20) / (1 + z^2/10) = .1388, half-width the same.
    found = share_score(0, 10)
    assert (found.value, found.low) == (0, pytest.approx(0, abs=1e-9))
    assert found.high == pytest.approx(0.2775, abs=1e-4)


def test_the_play_command(config, capsys):
    train(config, steps=1, **LAKE)
    run = str(config.out)
    assert main(["play", run, "-n", "2", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "episode 2: return" in printed
    assert "environment  r0c0:" in printed
    assert "over 2 episodes, optimum 1, random 0.00" in printed
    options = ["play", run, "trillium/FrozenLake-v0", "--env-kwargs", '{"horizon": 1}', "--json", "--greedy", "-n", "1"]
    assert main(options) == 0
    (record,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(record["transcript"]) <= 3


def test_a_person_plays_in_the_policys_place(monkeypatch, capsys):
    """Down, a word that is no action, and the way to the goal; then the input ends in the second episode."""
    answers = iter(["D", "jump", "D", "R", "R", "D", "R"])

    def answer(prompt):
        assert prompt == "your action (L, D, R, U): "
        try:
            return next(answers)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", answer)
    assert main(["play", "you", "trillium/FrozenLake-v0", "-n", "2"]) == 0
    said = capsys.readouterr().out
    assert "[S]F F F" in said
    assert "reward -0.1 (invalid: nothing changed)" in said
    assert "return 0.9" in said
    assert said.endswith("stopped\n")
    assert main(["play", "you"]) == 2
    assert "say what to play" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["nothing-here"], "no such folder"),
        (["RUN", "nowhere/Nothing-v0"], "cannot make the environment"),
        (["RUN", "trillium/Copy-v0"], "vocabulary lacks"),
        (["RUN", "Pendulum-v1"], "cannot make the environment"),
        (["RUN", "--env-kwargs", "{"], "--env-kwargs"),
        (["RUN", "--env-kwargs", "[1]"], "--env-kwargs"),
        (["RUN", "-n", "0"], "above 0"),
        (["RUN", "--seed", "-1"], "--seed"),
    ],
)
def test_a_wrong_play_command_ends_with_one_line(stored_run, capsys, options, said):
    assert main(["play", *(str(stored_run) if word == "RUN" else word for word in options)]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1
    assert said in errors[0]


@pytest.fixture(scope="module")
def stored_run(tmp_path_factory) -> Path:
    from rl.config import PolicyConfig

    out = tmp_path_factory.mktemp("play") / "run"
    tiny = ModelConfig(width=16, num_layers=1, num_heads=1, max_length=64)
    config = PolicyConfig(out=out, model=tiny, steps=1, batch_size=4, eval_episodes=4, threads=1, device="cpu", **LAKE)
    train(config)
    return out
