"""BabyAI's instructions: the grammar knows all that the levels say, and nothing else; scores of a run on them."""

import json
from pathlib import Path

import pytest

pytest.importorskip("minigrid")

from adversarial.commands import COMMANDS
from adversarial.config import GANConfig
from adversarial.corpus import load_corpus
from adversarial.missions import mission_grammar, missions
from adversarial.trainers import GANTrainer
from core.config import ModelConfig, OptimConfig
from core.sampling import Sampling


def test_the_grammar_by_example() -> None:
    grammar = mission_grammar()
    good = [
        "go to the red ball",
        "pick up a key behind you",
        "open the door on your left",
        "put the red key next to a box in front of you and open a door , then go to the grey object",
        "go to a door after you pick up the ball and go to a ball",
    ]
    bad = [
        "go to red ball",
        "pick up the door",  # a door cannot be carried
        "open the box",
        "go to the ball red",
        "put the key next to",
        "go to a box , then go to a box , then go to a box",
        "go to a box and go to a box and go to a box",
        "",
    ]
    assert [grammar.accepts(line) for line in good] == [True] * len(good)
    assert [grammar.accepts(line) for line in bad] == [False] * len(bad)


@pytest.mark.parametrize("level", ["Synth", "SynthLoc", "SynthSeq", "PickupDist", "OpenTwoDoors", "PutNextLocal"])
def test_the_grammar_accepts_what_levels_say(level: str) -> None:
    found = missions(level, 15, seed=0)
    assert len(found) == 15
    assert found == missions(level, 15, seed=0) != missions(level, 15, seed=1)


def test_an_unknown_level_is_named() -> None:
    with pytest.raises(ValueError, match=r"level must be one of BabyAI's, got 'Nowhere'; there are: .*GoToLocal"):
        missions("Nowhere", 1, seed=0)


def test_a_run_counts_what_is_valid_and_what_is_covered(tmp_path: Path) -> None:
    shape = ModelConfig(width=32, num_layers=1, num_heads=1, max_length=32)
    config = GANConfig(
        out=tmp_path / "run", source="babyai", level="PutNextLocal", train_lines=150, held_out_lines=200,
        eval_samples=150, steps=250, mle_fraction=0.98, network="lstm", model=shape, batch_size=16, threads=1,
        device="cpu", discriminator_warmup=0.0, mle=OptimConfig(lr=1e-2),
    )  # fmt: skip
    corpus = load_corpus(config)
    trainer = GANTrainer(config, quiet=True)
    scores = trainer.train()
    assert scores["valid"] > 0.5
    texts = trainer.evaluation.generate(trainer._task.model, 150)
    unseen = set(corpus.held_out) - set(corpus.train)
    assert scores["coverage"] == len(unseen & set(texts)) / len(unseen) > 0
    # What coverage is on average, against that of many draws.
    many = trainer.evaluation.generate(trainer._task.model, 6000, Sampling(temperature=1 / 1.3))
    drawn = [trainer.evaluation.coverage(many[start : start + 150]) for start in range(0, 6000, 150)]
    expected = trainer.evaluation.expected_coverage(trainer._task.model, 150, 1.3)
    assert expected == pytest.approx(sum(drawn) / len(drawn), abs=0.02)
    rows = {row["name"]: row for row in json.loads((tmp_path / "run" / "eval.json").read_text("utf-8"))["rows"]}
    assert rows["training text (ceiling)"]["valid"]["value"] == 1
    assert "nll" not in rows["training text (ceiling)"]  # nobody knows how probable the levels make their missions
    assert COMMANDS["frontier"]([str(tmp_path / "run"), "-n", "50", "--device", "cpu"]) == 0
    stored = json.loads((tmp_path / "run" / "frontier.json").read_text("utf-8"))
    assert stored["axes"] == ["coverage", "valid"]
    assert stored["signature"].startswith("BabyAI PutNextLocal|coverage: expected|held-out:200|samples:50 a point")


def test_missions_longer_than_the_context_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"SynthSeq has missions of \d+ words: raise max_tokens to at least \d+"):
        load_corpus(GANConfig(out=tmp_path, source="babyai", level="SynthSeq", train_lines=30, max_tokens=8))
