"""Latent noise: what z changes, that likelihoods know the z of a sentence, and that every estimator passes it on."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from adversarial.config import GANConfig
from adversarial.corpus import load_corpus
from adversarial.evaluation import LATENT_DRAWS, SAMPLING_SEED, TextEvaluation
from adversarial.generator import Generator, Sentences, build_generator, draw_latent, draw_samples, token_losses
from adversarial.trainers import GANTrainer
from core.config import ModelConfig
from core.errors import RunError

V, BOS, EOS = 7, 1, 2


def settings(network: str) -> dict[str, Any]:
    return {"network": network, "model": ModelConfig(width=32, num_layers=1, num_heads=1, max_length=32), "latent": 3}


@pytest.fixture(params=["transformer", "lstm", "relational"])
def model(request: pytest.FixtureRequest) -> Generator:
    torch.manual_seed(0)
    model = build_generator(GANConfig(**settings(request.param)), V)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def test_sentences_are_scored_with_the_noise_that_they_were_drawn_with(model: Generator) -> None:
    latent = draw_latent(model, 50)
    assert latent.shape == (50, 3)
    samples = draw_samples(model, 50, max_tokens=6, bos_id=BOS, eos_id=EOS, latent_BZ=latent)
    sentences = Sentences.of(samples, latent)
    length = sentences.tokens_BT.shape[1]
    own = -token_losses(model, sentences, BOS) * sentences.mask_BT
    torch.testing.assert_close(own, samples.logprobs_BT[:, :length], rtol=1e-3, atol=1e-4)
    turned = dataclasses.replace(sentences, latent_BZ=latent.roll(1, 0))
    assert ((token_losses(model, turned, BOS) + own).abs() * sentences.mask_BT).max() > 0.01
    part = Sentences.join(sentences.part(0, 20), sentences.rows(torch.arange(20, 50))).padded(9)
    assert torch.equal(part.latent_BZ, latent)
    assert Sentences.join(part, Sentences(part.tokens_BT, part.mask_BT)).latent_BZ is None


def test_without_noise_nothing_changes() -> None:
    model = build_generator(GANConfig(network="lstm"), V)
    assert draw_latent(model, 5) is None
    assert not any("noise" in name for name, _ in model.named_parameters())


def test_the_nll_of_a_text_is_the_mean_over_draws_of_z(tmp_path: Path) -> None:
    config = GANConfig(train_lines=50, held_out_lines=5, out=tmp_path, **settings("lstm"))
    corpus = load_corpus(config)
    evaluation = TextEvaluation(corpus, config, torch.device("cpu"))
    model = build_generator(config, corpus.tokenizer.vocab_size)
    found = evaluation.likelihoods(model)
    assert torch.equal(found, evaluation.likelihoods(model))
    source = torch.Generator().manual_seed(SAMPLING_SEED)
    batch = Sentences.from_lists(corpus.encode(corpus.held_out), torch.device("cpu"))
    model.eval()
    chances = torch.zeros(5, dtype=torch.float64)
    for _ in range(LATENT_DRAWS):
        drawn = dataclasses.replace(batch, latent_BZ=draw_latent(model, 5, source))
        chances += (-(token_losses(model, drawn, corpus.tokenizer.bos_id) * batch.mask_BT).sum(1).double()).exp()
    torch.testing.assert_close(found[:, 0], math.log(LATENT_DRAWS) - chances.log())


@pytest.mark.parametrize(
    "method",
    [
        {}, {"estimator": "gumbel", "network": "relational", "judge": "representations"},
        {"estimator": "rollouts", "judge": "cnn", "network": "transformer"},
        {"estimator": "dense", "judge": "tokens"}, {"estimator": "importance", "judge": "cnn", "replay": 0.3},
        {"estimator": "clipped", "generator_steps": 2}, {"estimator": "cooperative", "judge": "mediator"},
    ],
    ids=lambda method: method.get("estimator", "straight_through"),
)  # fmt: skip
def test_every_estimator_trains_with_noise(method: dict[str, Any], tmp_path: Path) -> None:
    config = GANConfig(
        out=tmp_path / "run", train_lines=60, held_out_lines=10, eval_samples=10, steps=4, mle_fraction=0.5,
        batch_size=8, threads=1, device="cpu", discriminator_warmup=0.0, num_rollouts=2, penalty=0.0,
        **(settings("lstm") | method),
    )  # fmt: skip
    trainer = GANTrainer(config, quiet=True)
    assert math.isfinite(trainer.train()["nll"])
    before = trainer.mle_start().noise.weight
    assert not torch.equal(before, trainer.task.model.noise.weight)  # the game moves it
    again = GANTrainer.load(config.out)
    assert again.task.evaluate() == trainer.task.evaluate()


def test_an_exact_curve_is_refused(tmp_path: Path) -> None:
    config = GANConfig(
        out=tmp_path / "run", source="oracle", train_lines=20, held_out_lines=5, eval_samples=5, steps=2, batch_size=4,
        threads=1, device="cpu", mle_fraction=1.0, **settings("lstm"),
    )  # fmt: skip
    trainer = GANTrainer(config, quiet=True)
    trainer.train()
    with pytest.raises(RunError, match="latent noise, with which no likelihood is exact"):
        trainer.frontier()
