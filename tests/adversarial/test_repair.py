"""Repair: exact posteriors on vocabularies so small that all can be added up, then whole runs and the command."""

import itertools
import json
import math
import random
from pathlib import Path

import pytest
import torch

from adversarial.commands import COMMANDS
from adversarial.config import GANConfig
from adversarial.labels import LabelledTokens, split_label
from adversarial.oracle import Oracle
from adversarial.repair import BLANK, GAP, NO_LABEL, Candidate, Channel, Repairer, repair
from adversarial.repair_evaluation import Damaged, Truth, commonest_word, repair_row, share_of
from adversarial.trainers import GANTrainer
from core.config import ModelConfig, OptimConfig
from core.nn.lstm import LSTM
from core.text.tokenizer import WordTokenizer

ORACLE = Oracle.random(3, vocab_size=5, width=4, length=4)
ALL = [list(row) for row in itertools.product(range(5), repeat=4)]
LOGPROB = {tuple(row): -4 * float(ORACLE.nll(torch.tensor([row]))) for row in ALL}


def posterior(observed: list[int], channel: Channel) -> dict[tuple[int, ...], float]:
    """log p(x) + log p(y | x) of every sequence that is possible, added up by hand."""
    found = {}
    for row in ALL:
        score = LOGPROB[tuple(row)]
        for meant, seen in zip(row, observed):
            if seen == GAP:
                continue
            if channel.noise:
                chance = channel.noise / 5 + (1 - channel.noise) * (meant == seen)
                score += math.log(chance)
            elif meant != seen:
                score = -math.inf
        if score > -math.inf:
            found[tuple(row)] = score
    return found


@pytest.mark.parametrize("observed", [[GAP, 2, 0, 4], [1, GAP, GAP, 3], [GAP, GAP, GAP, GAP], [1, 2, 3, 4]])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_with_room_for_all_candidates_the_search_is_the_exact_posterior(observed: list[int], noise: float) -> None:
    channel = Channel(range(5), noise)
    expected = posterior(observed, channel)
    found = repair(ORACLE.network, observed, channel, bos_id=0, width=625)
    assert {tuple(candidate.tokens) for candidate in found} == set(expected)
    for candidate in found:
        assert candidate.logprob == pytest.approx(expected[tuple(candidate.tokens)], abs=1e-4)
    values = [candidate.logprob for candidate in found]
    assert values == sorted(values, reverse=True)


def test_one_gap_needs_no_more_room_than_there_are_words() -> None:
    channel = Channel(range(5))
    found = repair(ORACLE.network, [3, GAP, 1, 2], channel, bos_id=0, width=5)
    total = sum(math.exp(value) for value in posterior([3, GAP, 1, 2], channel).values())
    assert len(found) == 5
    assert sum(math.exp(candidate.logprob) for candidate in found) == pytest.approx(total, rel=1e-4)
    assert share_of(found, [3, 4, 1, 2]) == pytest.approx(LOGPROB[3, 4, 1, 2] - math.log(total), abs=1e-4)
    assert share_of(found, [0, 0, 0, 0]) == -math.inf


def test_what_the_channel_says_adds_up_to_1_over_what_can_be_observed() -> None:
    channel = Channel([1, 2, 3, 4], 0.4)
    chances = torch.stack([channel.logprobs(seen, 5, torch.device("cpu")).exp() for seen in range(1, 5)])
    torch.testing.assert_close(chances.sum(0)[1:], torch.ones(4))
    assert torch.equal(channel.logprobs(0, 5, torch.device("cpu")).isfinite(), torch.tensor([1, 0, 0, 0, 0]) > 0)
    with pytest.raises(ValueError, match="noise must be at least 0 and below 1, got 1"):
        Channel([1, 2], 1)


def test_damage_has_its_rates_and_spares_what_is_no_word() -> None:
    channel, rng = Channel(range(10), 0.25), random.Random(0)
    seen = [channel.damage([*range(10), 99], rng, gaps=2) for _ in range(2000)]
    assert all(row.count(GAP) == 2 and row[-1] == 99 for row in seen)
    changed = sum(token != place for row in seen for place, token in enumerate(row[:10]) if token != GAP)
    assert changed / (2000 * 8) == pytest.approx(0.25 * 0.9, abs=0.015)
    assert channel.damage([5], rng, gaps=9) == [GAP]


def test_a_verdict_changes_the_order_and_is_part_of_the_score() -> None:
    channel = Channel(range(5))
    plain = repair(ORACLE.network, [GAP, 2, 0, 4], channel, bos_id=0)
    last = plain[-1].tokens[0]
    judged = repair(
        ORACLE.network, [GAP, 2, 0, 4], channel, bos_id=0,
        verdict=lambda sentences: 50.0 * (sentences.tokens_BT[:, 0] == last),
    )  # fmt: skip
    assert judged[0].tokens[0] == last
    assert judged[0].logprob == pytest.approx(plain[-1].logprob + 50, abs=1e-4)


def test_scores_of_a_repair_by_hand() -> None:
    damaged = Damaged([[1, 2, 3, 4], [0, 0, 1, 1]], [[1, GAP, 3, 0], [0, 0, GAP, 1]], Channel(range(5), 0.2))
    found = [[Candidate([1, 2, 0, 0], 0.0)], [Candidate([0, 0, 1, 1], 0.0)]]
    row = repair_row("mine", damaged, found, everything=False, truth=None)
    assert row["exact"]["value"] == 0.5
    assert row["restored"]["value"] == pytest.approx(2 / 3)  # the 2 and the 1, not the 4
    assert row["harmed"]["value"] == pytest.approx(1 / 5)  # the 3
    assert row["edits"]["value"] == 1.0
    floor = commonest_word(damaged, [[3, 3, 1]])
    assert [candidates[0].tokens for candidates in floor] == [[1, 3, 3, 0], [0, 0, 3, 1]]


def test_the_oracle_regrets_nothing_and_others_do() -> None:
    sentences = ORACLE.sample(40, seed=1).tolist()
    damaged = Damaged.of(sentences, Channel(range(5)), gaps=1, seed=0)
    truth = Truth(ORACLE, [repair(ORACLE.network, seen, damaged.channel, bos_id=0) for seen in damaged.observed])
    own = repair_row("oracle", damaged, truth.found, everything=True, truth=truth)
    assert own["regret"]["value"] == own["nll_gap"]["value"] == 0
    blind = Oracle.random(8, vocab_size=5, width=4, length=4)
    others = [repair(blind.network, seen, damaged.channel, bos_id=0) for seen in damaged.observed]
    row = repair_row("another", damaged, others, everything=True, truth=truth)
    assert row["regret"]["value"] > 0.1
    assert row["nll_gap"]["value"] > 0.1
    with pytest.raises(ValueError, match="no sentence was damaged"):
        Damaged.of(sentences, Channel(range(5)), gaps=0, seed=0)


def test_a_text_becomes_tokens_and_gaps() -> None:
    tokenizer = WordTokenizer.train(["a man rides a horse .", "a dog runs ."])
    repairer = Repairer(tokenizer, ORACLE.network)
    ids = [tokenizer.token_to_id(word) for word in ("a", "horse", ".")]
    observed = repairer.observed(f"a {BLANK} horse.", unknown_is_gap=False)
    assert observed == [ids[0], GAP, *ids[1:], tokenizer.eos_id]
    assert repairer.observed("a zebra", unknown_is_gap=False) == [ids[0], tokenizer.unk_id, tokenizer.eos_id]
    assert repairer.observed("a zebra", unknown_is_gap=True) == [ids[0], GAP, tokenizer.eos_id]
    assert repairer.words == list(range(4, tokenizer.vocab_size))
    with pytest.raises(ValueError, match="nothing to repair"):
        repairer.observed("  ", unknown_is_gap=False)


def test_a_missing_label_is_found_and_no_gap_is_filled_with_one() -> None:
    tokens = LabelledTokens(WordTokenizer.train(["a b c"]), ["x", "y"])
    model = LSTM(tokens.vocab_size, 4, 4)
    repairer = Repairer(tokens, model, width=100)
    assert repairer.observed("y\ta b", unknown_is_gap=False)[0] == tokens.label_id("y")
    assert repairer.observed("a b", unknown_is_gap=False)[0] == NO_LABEL
    found = dict(repairer.candidates(f"a {BLANK} c"))
    assert {split_label(line)[0] for line in found} == {"x", "y"}
    assert {split_label(line)[1] for line in found} == {"a a c", "a b c", "a c c"}
    assert sum(found.values()) == pytest.approx(1)
    with pytest.raises(ValueError, match="no label 'z': the run has x, y"):
        repairer.candidates("z\ta b")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run on the grammar that has learned something."""
    out = tmp_path_factory.mktemp("repair") / "run"
    config = GANConfig(
        out=out, train_lines=400, held_out_lines=40, eval_samples=40, steps=260, mle_fraction=0.96, network="lstm",
        model=ModelConfig(width=32, num_layers=1, max_length=32), batch_size=32, threads=1, device="cpu",
        mle=OptimConfig(lr=1e-2), discriminator_warmup=0.0,
    )  # fmt: skip
    GANTrainer(config, quiet=True).train()
    return out


def test_a_trained_generator_repairs_better_than_the_commonest_word(run, capsys) -> None:
    assert COMMANDS["repair"]([str(run), "--held-out", "40", "--width", "200", "--json"]) == 0
    rows = {row["name"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert set(rows) == {"generator and discriminator", "generator", "MLE start", "commonest word (floor)"}
    assert rows["generator"]["restored"]["value"] > rows["commonest word (floor)"]["restored"]["value"] + 0.1
    assert rows["generator"]["nll"]["value"] < math.log(len(GANTrainer.load(run).corpus.grammar.words))
    assert COMMANDS["repair"]([str(run), "--held-out", "10", "--noise", "0.2", "--gaps", "0"]) == 0
    table = capsys.readouterr().out
    assert "harmed" in table
    assert "commonest word (floor)" in table


def test_the_command_repairs_texts(run, capsys) -> None:
    text = next(line for line in GANTrainer.load(run).corpus.train if len(line.split()) > 4)
    words = text.split()
    words[2] = BLANK
    assert COMMANDS["repair"]([str(run), " ".join(words), "--best", "2", "--plain"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == " ".join(words)
    assert len(shown) == 3
    assert BLANK not in shown[1]
    assert COMMANDS["repair"]([str(run), " ".join(words), "--json"]) == 0
    item = json.loads(capsys.readouterr().out)
    assert len(item["repaired"]) == 3
    assert 0 < item["repaired"][0]["share"] <= 1


@pytest.mark.parametrize(
    "arguments", [[], ["a ___", "--held-out", "3"], ["a ___", "--noise", "1"], ["--held-out", "3", "--gaps", "0"]]
)
def test_wrong_options_are_refused(run, arguments, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        COMMANDS["repair"]([str(run), *arguments])
    assert stop.value.code == 2
    assert "trillium repair" in capsys.readouterr().err
