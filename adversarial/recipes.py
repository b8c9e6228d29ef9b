"""Runs that are known to work. A recipe returns a config; `trillium list` shows what its docstring says."""

import dataclasses
from pathlib import Path
from typing import Any

from adversarial.config import GANConfig
from core.config import ModelConfig, OptimConfig


def gan(**changes: Any) -> GANConfig:
    """A text GAN: MLE, then a discriminator, on sentences of a small grammar or on your own file (`--text FILE`).

    Command: trillium train adversarial:gan
    Runtime: 46 seconds on one CPU core
    Expected: 83 % of the sentences are grammatical, 49 % before the GAN phase; held-out NLL 1.83 nats (bound 1.80)

    MLE for as many steps (`--mle-fraction 1`) is better still here, 88 % and 1.82: the GAN phase keeps a likelihood
    term, and on a grammar this regular that term is what teaches most.
    """
    config = GANConfig(
        out=Path("runs/gan"),
        held_out_lines=1000,
        threads=1,  # networks this small only lose time when they are split over threads
    )
    return dataclasses.replace(config, **changes)


def cooperative(**changes: Any) -> GANConfig:
    """Cooperative training: two LSTMs learn the oracle's text by MLE; one then follows the other, its mediator.

    Command: trillium train adversarial:cooperative
    Runtime: 19 minutes on one CPU core
    Expected: held-out NLL 7.37, 7.40 before the game (the oracle's own 5.82); NLL_oracle 9.21 and 9.08

    The mediator goes on learning from real and generated sequences, the generator from the mediator's distributions and
    from real ones. `trillium frontier runs/cooperative` shows the gain at every temperature; it is largest at low ones.
    `--oracle FILE` takes the classic oracle, `--text FILE` your own text.
    """
    once = OptimConfig(optimizer="adam", betas=(0.9, 0.99), max_grad_norm=5.0)
    config = GANConfig(
        out=Path("runs/cooperative"),
        source="oracle",
        held_out_lines=10_000,
        eval_samples=10_000,
        network="lstm",
        model=ModelConfig(width=128, num_layers=1, max_length=128, dropout=0.6),
        batch_size=128,
        steps=3725,
        mle_fraction=3125 / 3725,
        mle=dataclasses.replace(once, lr=3e-3, warmup_steps=50),
        select_every=300,
        estimator="cooperative",
        judge="mediator",
        fake_weight=0.5,
        adversarial_weight=0.8,
        mle_weight=0.2,
        adversarial_dropout=0.3,
        discriminator_warmup=0.0,
        penalty=0.0,
        optim=dataclasses.replace(once, lr=1e-3),
        discriminator=dataclasses.replace(once, lr=3e-4),
        precision="bf16",
        threads=1,
    )
    return dataclasses.replace(config, **changes)
