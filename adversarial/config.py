"""Settings of a text GAN. Imports no torch, so that the command line starts fast."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from core.config import ModelConfig, OptimConfig, RunConfig, require


@dataclass(frozen=True, kw_only=True)
class GANConfig(RunConfig):
    """Train a generator of sentences: first by maximum likelihood (MLE), then against a discriminator."""

    trainer: ClassVar[str] = "adversarial.trainers:GANTrainer"

    text: Path | None = None
    """Your own text, one sentence a line (JSON lines, CSV and Parquet with a `text` field too). `None`: sentences of a
    small grammar, for which it can be decided exactly whether a generated sentence is right."""
    grammar_lines: int = 10_000
    """Sentences drawn from the grammar to train on, when there is no `text`."""
    held_out_fraction: float = 0.1
    """Share of the different lines of `text` that is kept for scores and never trained on; at most 2000 lines."""
    max_tokens: int = 24
    """Longest sentence in words, end-of-sequence counted, in training and in generation."""
    max_long_fraction: float = 0.05
    """Stop when more than this share of the lines is longer than `max_tokens`; fewer are left out and counted."""
    min_count: int = 1
    """Words that occur less often in the training text become the unknown word."""
    max_vocabulary: int = 20_000
    """Most words, special tokens included; rarer ones become the unknown word."""

    network: Literal["transformer", "lstm"] = "transformer"
    """What the generator is, and the body of the discriminator; an LSTM takes width and num_layers from `model`."""
    model: ModelConfig = field(default_factory=lambda: ModelConfig(width=64, num_layers=2, num_heads=2, max_length=128))
    """Shape of the generator; its vocabulary size comes from the text."""
    mle_fraction: float = 0.4
    """Share of `steps` that is plain MLE; the rest is adversarial. 1 trains a language model, the baseline."""
    mle: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=3e-3, betas=(0.9, 0.98), warmup_steps=20, weight_decay=0.05)
    )
    """The generator's optimiser in the MLE phase; its schedule spans that phase."""
    discriminator: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=1e-3, betas=(0.9, 0.99), schedule="constant", weight_decay=0.01)
    )
    """The discriminator's optimiser; its schedule spans the adversarial phase."""
    discriminator_steps: int = 1
    """Discriminator updates for each generator update."""
    discriminator_warmup: float = 0.2
    """Share of the adversarial phase in which the discriminator learns alone."""
    temperature: float = 1.0
    """Of the softmax whose gradient the straight-through samples take. Sampling itself is always at 1."""
    adversarial_weight: float = 0.1
    """Weight of the non-saturating generator loss. It adds up over tokens while the MLE loss is a mean, so 0.1 is on a
    par with it; 0.3 made the generator overshoot and 1 destroyed its language within 40 steps, on the grammar."""
    feature_weight: float = 1.0
    """Weight of feature matching."""
    mle_weight: float = 1.0
    """Weight of the MLE loss in the adversarial phase. It keeps the language from drifting away; 0 is a pure GAN."""
    penalty: float = 0.3
    """gamma of the zero-centred gradient penalty on real sequences (R1)."""

    eval_samples: int = 1000
    """Sentences generated for the scores of each row, and as many real ones as references."""
    sample_lines: int = 24
    """Sentences written to `samples` at each evaluation."""

    steps: int = 400
    """Training steps of both phases together."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    """fp32: the gradient penalty differentiates twice, and small models gain little from bf16."""
    compile: Literal["auto", "on", "off"] = "off"
    """Off: torch.compile does not differentiate twice, and the lengths change from step to step."""
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=3e-3, betas=(0.9, 0.99), warmup_steps=10))
    """The generator's optimiser in the adversarial phase; its schedule spans that phase."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.grammar_lines >= 1, f"grammar_lines must be >= 1, got {self.grammar_lines}")
        require(
            0 < self.held_out_fraction < 1, f"held_out_fraction must be between 0 and 1, got {self.held_out_fraction}"
        )
        require(self.max_tokens >= 2, f"max_tokens must be >= 2, got {self.max_tokens}")
        require(
            self.max_tokens <= self.model.max_length,
            f"model.max_length {self.model.max_length} is too short for max_tokens {self.max_tokens}: raise it",
        )
        for name in ("min_count", "discriminator_steps"):
            require(getattr(self, name) >= 1, f"{name} must be >= 1, got {getattr(self, name)}")
        require(self.max_vocabulary > 4, f"max_vocabulary must be > 4, got {self.max_vocabulary}")
        for name in ("mle_fraction", "max_long_fraction", "discriminator_warmup"):
            require(0 <= getattr(self, name) <= 1, f"{name} must be in [0, 1], got {getattr(self, name)}")
        require(
            math.isfinite(self.temperature) and self.temperature > 0,
            f"temperature must be finite and > 0, got {self.temperature}",
        )
        for name in ("adversarial_weight", "feature_weight", "mle_weight", "penalty"):
            value = getattr(self, name)
            require(math.isfinite(value) and value >= 0, f"{name} must be finite and >= 0, got {value}")
        require(self.eval_samples >= 2, f"eval_samples must be >= 2, got {self.eval_samples}")
        require(self.sample_lines >= 0, f"sample_lines must be >= 0, got {self.sample_lines}")
        require(self.precision != "fp16", "precision fp16 is too narrow for a gradient penalty: use fp32 or bf16")
        require(self.compile not in ("on", "whole"), "compile must be off: torch.compile does not differentiate twice")
        require(
            self.time_budget_s is None,
            "time_budget_s does not go with a GAN, whose two phases have steps of different cost: set steps",
        )
        for name in ("optim", "mle", "discriminator"):
            accumulate = getattr(self, name).accumulate
            require(accumulate == 1, f"{name}.accumulate must be 1 for a GAN, got {accumulate}: lower batch_size")
            # An average over both phases would mix two objectives.
            require(getattr(self, name).ema_decay == 0, f"{name}.ema_decay must be 0 for a GAN")

    @property
    def mle_steps(self) -> int:
        """Steps of the MLE phase."""
        return round(self.steps * self.mle_fraction)
