"""Cooperative training: the mediator's mixture, and a generator that follows it."""

import copy
from typing import Any

import pytest
import torch

from adversarial.config import GANConfig
from adversarial.estimators.cooperative import cooperative_step, mediator_loss
from adversarial.estimators.game import Game
from adversarial.generator import Generator, Sentences, build_generator, draw_samples, token_losses
from core.config import ModelConfig

V, BOS, EOS, LENGTH = 7, 1, 2, 4
REAL = Sentences.from_lists([[3, 4, EOS], [5, EOS], [3, 3, 3, EOS], [6, EOS]], torch.device("cpu"))
FAKE = Sentences.from_lists([[4, EOS], [6, 6, 6, EOS]], torch.device("cpu"))


@pytest.fixture(params=["transformer", "lstm"])
def model(request: pytest.FixtureRequest) -> Generator:
    torch.manual_seed(0)
    shape = ModelConfig(width=16, num_layers=1, num_heads=2, max_length=16)
    model = build_generator(GANConfig(network=request.param, model=shape, max_tokens=LENGTH), V)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def game(model: Generator, mediator: Generator, **changes: Any) -> Game:
    config = GANConfig(estimator="cooperative", judge="mediator", adversarial_weight=1.0, **changes)

    def sample(count: int) -> Any:
        return Sentences.of(draw_samples(model, count, max_tokens=LENGTH, bos_id=BOS, eos_id=EOS))

    return Game(model, mediator, lambda *_: torch.zeros(()), config, BOS, EOS, LENGTH, sample, 0.0, {})


def mean_nll(model: Generator, sentences: Sentences) -> float:
    losses = token_losses(model, sentences, BOS)
    return float(losses[sentences.mask_BT].mean())


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_the_mediator_s_loss_weighs_real_and_generated_tokens(model: Generator, weight: float) -> None:
    expected = (mean_nll(model, REAL) + weight * mean_nll(model, FAKE)) / (1 + weight)
    assert mediator_loss(model, REAL, FAKE, weight, BOS).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("divergence", ["forward", "reverse"])
def test_a_generator_that_agrees_with_its_mediator_learns_nothing(model: Generator, divergence: str) -> None:
    players = game(model, copy.deepcopy(model), divergence=divergence)
    loss, metrics = cooperative_step(players, REAL)
    assert metrics["loss/generator"] == pytest.approx(0, abs=1e-5)
    loss.backward()
    assert max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None) < 1e-5
    assert all(p.grad is None for p in players.judge.parameters())
    assert players.judge.training


@pytest.mark.parametrize("divergence", ["forward", "reverse"])
def test_a_generator_comes_to_its_mediator(model: Generator, divergence: str) -> None:
    mediator = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in mediator.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    players = game(model, mediator, divergence=divergence)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    seen = []
    for _ in range(60):
        loss, metrics = cooperative_step(players, Sentences.join(REAL, REAL, REAL, REAL))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(metrics["loss/generator"])
    assert sum(seen[-5:]) < 0.2 * sum(seen[:5])
