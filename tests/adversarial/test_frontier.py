"""Curves over temperatures and rejection, on oracles so small that densities can be added up."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from adversarial.commands import COMMANDS
from adversarial.config import GANConfig
from adversarial.frontier import (
    Point,
    draw_sequences,
    held_out_nll,
    interpolate,
    lowest,
    rejection_points,
    sequence_logprobs,
    temperature_points,
    text_points,
)
from adversarial.oracle import Oracle
from adversarial.trainers import GANTrainer
from core.config import ModelConfig
from core.errors import RunError
from core.nn.lstm import LSTM

ORACLE = Oracle.random(3, vocab_size=5, width=4, length=2)
ALL = torch.tensor(list(itertools.product(range(5), repeat=2)))


@pytest.fixture
def model() -> LSTM:
    torch.manual_seed(1)
    model = LSTM(5, 4, 4, dropout=0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def test_the_oracle_is_its_own_frontier_at_temperature_1():
    held_out = ORACLE.sample(20_000, seed=5)
    (point,) = temperature_points(ORACLE.network, ORACLE, held_out, factors=[1.0], samples=20_000)
    entropy = float(-(ORACLE.nll(ALL) * 2).neg().exp() @ (ORACLE.nll(ALL) * -2) / 2)
    assert point.x == pytest.approx(entropy, abs=0.02)
    assert point.y == pytest.approx(entropy, abs=0.02)
    assert point.setting == "temperature 1/1"


def test_held_out_nll_at_a_temperature_is_that_of_the_tempered_softmax(model):
    found = held_out_nll(model, ALL, [1.0, 2.0])
    model.eval()
    with torch.no_grad():
        begin = torch.cat((torch.zeros_like(ALL[:, :1]), ALL[:, :1]), 1)
        logits = model.logits(model(begin))
    for factor, value in zip((1.0, 2.0), found.tolist()):
        expected = torch.nn.functional.cross_entropy(factor * logits.flatten(0, 1), ALL.flatten())
        assert value == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(sequence_logprobs(model, ALL).exp().sum(), torch.tensor(1.0))


def test_scoring_changes_neither_mode_nor_later_draws(model):
    model.train()
    held_out_nll(model, ALL)
    assert model.training
    first, logprobs = draw_sequences(model, 50, 2, seed=1)
    torch.testing.assert_close(logprobs, sequence_logprobs(model, first), rtol=1e-4, atol=1e-5)
    assert torch.equal(first, draw_sequences(model, 50, 2, seed=1)[0])
    assert not torch.equal(first, draw_sequences(model, 50, 2, seed=2)[0])


def test_what_rejection_keeps_has_a_density_that_adds_up_to_1(model):
    total = 0.0
    for sequence in ALL:
        (point,) = rejection_points(
            model, ORACLE, sequence[None], exponents=[0.7], samples=1000, proposals=4000, seed=2
        )
        total += math.exp(-2 * point.y)
    assert total == pytest.approx(1, abs=0.03)


def test_rejection_with_exponent_0_is_the_generator_itself_and_hopeless_ones_are_left_out(model):
    held_out = ORACLE.sample(500, seed=9)
    (same,) = rejection_points(model, ORACLE, held_out, exponents=[0.0], proposals=3000, samples=3000)
    assert same.y == pytest.approx(float(held_out_nll(model, held_out)), rel=1e-5)
    drawn, _ = draw_sequences(model, 3000, 2)
    assert same.x == pytest.approx(float(ORACLE.nll(drawn).mean()), rel=1e-4)
    assert rejection_points(model, ORACLE, held_out, exponents=[1e4], proposals=1000, samples=10_000) == []


def test_a_lower_temperature_buys_quality_with_diversity():
    held_out = ORACLE.sample(3000, seed=5)
    points = temperature_points(ORACLE.network, ORACLE, held_out, factors=[1.0, 1.5, 2.0], samples=3000)
    assert points[0].x > points[1].x > points[2].x
    assert points[0].y < points[1].y < points[2].y


def test_curves_are_compared_where_they_reach():
    temperature = [Point("a", 2.0, 5.0), Point("b", 1.0, 7.0)]
    rejection = [Point("c", 1.5, 5.5), Point("d", 1.0, 8.0)]
    np.testing.assert_allclose(interpolate(temperature, [1.0, 1.25, 2.0, 3.0]), [7.0, 6.5, 5.0, np.nan])
    np.testing.assert_allclose(lowest([temperature, rejection, []], [1.0, 1.5, 2.0, 0.5]), [7.0, 5.5, 5.0, np.nan])


def test_text_without_an_oracle_is_measured_by_overlap():
    sentences = {1.0: ["a b", "c"], 2.0: ["a"]}
    varied, same = text_points(sentences.__getitem__, lambda factor, texts: (len(texts), factor), factors=[1.0, 2.0])
    assert varied == Point("temperature 1/1", 2, 1.0)
    assert same == Point("temperature 1/2", 1, 2.0)


def test_the_command_writes_table_numbers_and_picture(tmp_path: Path, capsys):
    shape = ModelConfig(width=8, num_layers=1, num_heads=1, max_length=32)
    for source in ("oracle", "grammar"):
        out = tmp_path / source
        config = GANConfig(
            out=out, source=source, train_lines=40, held_out_lines=20, eval_samples=20, steps=3, mle_fraction=0.7,
            network="lstm", model=shape, batch_size=8, threads=1, device="cpu", discriminator_warmup=0.0,
        )  # fmt: skip
        GANTrainer(config, quiet=True, report=False).train()
        assert COMMANDS["frontier"]([str(out), "-n", "20", "--device", "cpu"]) == 0
        stored = json.loads((out / "frontier.json").read_text())
        assert stored["axes"] == (["nll_oracle", "nll_test"] if source == "oracle" else ["self_bleu_5", "bleu_5"])
        assert {"model", "MLE start"} <= set(stored["curves"])
        assert "samples:20 a point" in stored["signature"]
        assert ("oracle:seed 0" in stored["signature"]) == (source == "oracle")
        assert (out / "frontier.png").stat().st_size > 5000
        assert "temperature 1/1" in capsys.readouterr().out
    with pytest.raises(RunError, match="not a run directory"):
        COMMANDS["frontier"]([str(tmp_path / "nowhere")])
