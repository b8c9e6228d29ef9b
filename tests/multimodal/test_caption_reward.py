"""The self-critical reward: end-of-sequence is a scored word, and nothing after it counts."""

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from core.interfaces import Samples
from multimodal.pipeline import CaptioningPipeline
from multimodal.reward import CiderReward, bad_ending_rate
from multimodal.trainers import CaptioningTrainer

WORDS = ["<eos>", "a", "red", "bird", "with", "hat", "blue", "fish"]
CORPUS = [["a red bird with a hat"], ["a blue fish"], ["a red fish"], ["a blue bird"]]


def decode(ids):
    return " ".join(WORDS[id] for id in ids if id)


def samples(*rows):
    longest = max(map(len, rows))
    tokens = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.arange(longest) < torch.tensor([len(row) for row in rows])[:, None]
    return Samples(tokens, mask, torch.zeros(tokens.shape), torch.tensor([0 in row for row in rows]))


@pytest.fixture
def reward():
    return CiderReward(CORPUS, decode, eos_id=0)


FULL = [1, 2, 3, 4, 1, 5, 0]


def test_a_caption_equal_to_its_reference_has_the_most(reward):
    assert reward(samples(FULL), [CORPUS[0]]).item() == pytest.approx(10)


def test_the_end_is_a_scored_word(reward):
    finished, cut, early = reward(samples(FULL, FULL[:-1], [1, 2, 3, 4, 1, 0]), [CORPUS[0]] * 3).tolist()
    assert finished > cut
    assert finished > early
    # Without the end among the words, stopping at "with a" would cost no more than the words that are missing.
    assert reward.words(FULL)[-1] == "<end>"
    assert reward.words(FULL[:-1]) == ["a", "red", "bird", "with", "a", "hat"]


def test_nothing_after_the_first_end_counts(reward):
    plain, followed = reward(samples(FULL, [*FULL, 6, 7, 0]), [CORPUS[0]] * 2).tolist()
    assert plain == followed


def test_document_frequencies_are_those_of_the_corpus_not_of_the_batch(reward):
    alone = reward(samples(FULL), [CORPUS[0]])
    together = reward(samples(FULL, [1, 6, 7, 0]), [CORPUS[0], CORPUS[1]])
    assert alone[0] == together[0]


def test_every_caption_needs_its_references(reward):
    with pytest.raises(ValueError, match="1 captions but references for 2"):
        reward(samples(FULL), [CORPUS[0], CORPUS[1]])


def test_bad_endings():
    assert bad_ending_rate(["a bird with a", "a bird", "bird in the", ""]) == 0.5
    with pytest.raises(ValueError, match="no captions"):
        bad_ending_rate([])


def test_the_example_raises_the_reward(
    runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRILLIUM_CACHE", str(tmp_path / "cache"))
    manifest = runs.write_media(tmp_path / "data", ["image"])
    CaptioningTrainer(runs.config(manifest, tmp_path / "run", steps=6), quiet=True, report=False).train()
    example = Path(__file__).parents[2] / "examples" / "self_critical.py"
    options = ["--steps", "80", "--batch-size", "6", "--lr", "1e-3"]
    monkeypatch.setattr(sys, "argv", [str(example), str(tmp_path / "run"), str(tmp_path / "after"), *options])
    runpy.run_path(str(example), run_name="__main__")
    printed = capsys.readouterr().out
    rewards = [float(found) for found in re.findall(r"mean reward ([\d.]+)", printed)]
    assert len(rewards) == 8
    assert rewards[-1] > rewards[0] + 2, printed
    before, after = (float(found) for found in re.findall(r"CIDEr-D ([\d.]+)", printed))
    assert after >= before, printed
    assert CaptioningPipeline.load(tmp_path / "after")
