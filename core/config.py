"""Settings of a model, an optimiser and a run. Imports no torch, so that the command line starts fast."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal


def require(condition: bool, message: str) -> None:
    """Refuse a config.

    Raises:
        ValueError: with the message, where the condition does not hold.
    """
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder-only Transformer. The defaults are Qwen3's layout; `qk_norm=False` gives Llama's."""

    vocab_size: int = 256
    """Number of token ids the embedding holds."""
    width: int = 256
    """Width D of the residual stream."""
    num_layers: int = 4
    """Number of Transformer blocks."""
    num_heads: int = 4
    """Number of query heads."""
    num_kv_heads: int | None = None
    """Number of key-value heads (grouped-query attention); `None` means one per query head."""
    head_dim: int | None = None
    """Width of one head; `None` means width / num_heads."""
    mlp_width: int | None = None
    """Hidden width of the MLP; `None` means 8/3 of the width for SwiGLU and 4 of it for GELU, in multiples of 64."""
    max_length: int = 1024
    """Longest sequence: the size of a learned position table, and what an export declares."""
    positions: Literal["rope", "learned"] = "rope"
    """Rotary positions, or a learned table as in GPT-2."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    rope_scaling: float = 1.0
    """Linear position scaling: a model trained to length L reads length rope_scaling x L."""
    norm: Literal["rms", "layer"] = "rms"
    """RMSNorm, or LayerNorm with bias as in GPT-2."""
    norm_eps: float = 1e-6
    """Epsilon of the norms."""
    qk_norm: bool = True
    """Normalise queries and keys per head before the rotation (Qwen3)."""
    activation: Literal["swiglu", "gelu", "gelu_tanh"] = "swiglu"
    """MLP activation. `gelu_tanh` is what the published GPT-2 weights use."""
    bias: bool = False
    """Biases in the attention and MLP projections (GPT-2)."""
    tied: bool = True
    """Share the input embedding with the output projection."""
    dropout: float = 0.0
    """Dropout on embeddings, attention output and MLP output while training."""
    cross_attention_every: int = 0
    """Every n-th block also attends to a memory through a gate that starts at 0; 0 means no such block."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "width", "num_layers", "num_heads", "max_length"):
            require(getattr(self, name) > 0, f"model.{name} must be > 0, got {getattr(self, name)}")
        for name in ("num_kv_heads", "head_dim", "mlp_width"):
            value = getattr(self, name)
            require(value is None or value > 0, f"model.{name} must be > 0, got {value}")
        require(
            self.cross_attention_every >= 0,
            f"model.cross_attention_every must be >= 0, got {self.cross_attention_every}",
        )
        for name in ("rope_theta", "norm_eps"):
            value = getattr(self, name)
            require(math.isfinite(value) and value > 0, f"model.{name} must be finite and > 0, got {value}")
        require(
            self.head_dim is not None or self.width % self.num_heads == 0,
            f"model.width {self.width} must be a multiple of model.num_heads {self.num_heads}, or set model.head_dim",
        )
        require(
            self.num_heads % self.kv_heads == 0,
            f"model.num_heads {self.num_heads} must be a multiple of model.num_kv_heads {self.kv_heads}",
        )
        require(self.head_width % 2 == 0, f"model.head_dim must be even for rotary positions, got {self.head_width}")
        require(0 <= self.dropout < 1, f"model.dropout must be in [0, 1), got {self.dropout}")
        require(
            1 <= self.rope_scaling < math.inf, f"model.rope_scaling must be finite and >= 1, got {self.rope_scaling}"
        )

    @property
    def kv_heads(self) -> int:
        """Number of key-value heads after defaults."""
        return self.num_kv_heads or self.num_heads

    @property
    def head_width(self) -> int:
        """Width of one head after defaults."""
        return self.head_dim or self.width // self.num_heads

    @property
    def hidden(self) -> int:
        """Hidden width of the MLP after defaults."""
        if self.mlp_width is not None:
            return self.mlp_width
        wanted = self.width * 8 / 3 if self.activation == "swiglu" else self.width * 4
        return max(64, math.ceil(wanted / 64) * 64)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """One optimiser, its schedule and the guards around its step."""

    optimizer: Literal["adamw", "adam", "sgd", "adagrad", "muon"] = "adamw"
    """`muon` updates the weight matrices with Muon and everything else with AdamW."""
    lr: float = 1e-3
    """Peak learning rate."""
    muon_lr: float = 0.02
    """Peak learning rate of the matrices when `optimizer` is `muon`."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the first and second moment (Adam, AdamW)."""
    momentum: float = 0.95
    """Momentum of SGD and Muon."""
    weight_decay: float = 0.0
    """Decoupled weight decay on matrices; norms, biases and embeddings are never decayed."""
    lr_scales: dict[str, float] = field(default_factory=dict)
    """Factors of the learning rate by parts of parameter names: `model 0.1` for those of a captioner's model; 0 leaves
    them as they are, at no cost."""
    frozen_until: dict[str, int] = field(default_factory=dict)
    """Step from which parameters are trained, by parts of their names: `model 200` trains the rest first."""
    schedule: Literal["constant", "step", "exponential", "cosine", "linear", "inverse_sqrt", "wsd"] = "cosine"
    """How the learning rate goes from its peak to `final_lr_ratio` of it after the warm-up."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from 0."""
    final_lr_ratio: float = 0.0
    """Learning rate that the schedule reaches at the end of the run, as a fraction of the peak."""
    decay_fraction: float = 0.2
    """Share of the run in which `wsd` decays."""
    step_every: int = 1000
    """`step`: multiply the learning rate by `step_factor` every so many steps."""
    step_factor: float = 0.5
    """`step`: the factor."""
    max_grad_norm: float = 1.0
    """Clip the global gradient norm to this; 0 means no clipping."""
    accumulate: int = 1
    """Micro-batches a step; the batch is split, so the result does not depend on it."""
    ema_decay: float = 0.0
    """Decay of an exponential moving average of the weights, used for evaluation; 0 means none."""
    on_nonfinite: Literal["raise", "skip"] = "raise"
    """What to do with a NaN or infinite loss or gradient norm."""
    max_consecutive_skips: int = 10
    """With `skip`: stop after this many skipped steps in a row."""

    def __post_init__(self) -> None:
        for name in ("lr", "muon_lr"):
            value = getattr(self, name)
            require(math.isfinite(value) and value > 0, f"optim.{name} must be finite and > 0, got {value}")
        for name, value in (("betas", max(self.betas)), ("betas", min(self.betas)), ("momentum", self.momentum)):
            require(0 <= value < 1, f"optim.{name} must be in [0, 1), got {value}")
        require(
            0 <= self.weight_decay < math.inf, f"optim.weight_decay must be finite and >= 0, got {self.weight_decay}"
        )
        require(0 < self.step_factor <= 1, f"optim.step_factor must be in (0, 1], got {self.step_factor}")
        require(
            self.max_consecutive_skips >= 0,
            f"optim.max_consecutive_skips must be >= 0, got {self.max_consecutive_skips}",
        )
        for name, scale in self.lr_scales.items():
            require(math.isfinite(scale) and scale >= 0, f"optim.lr_scales {name} must be finite and >= 0, got {scale}")
        for name, step in self.frozen_until.items():
            require(step >= 0, f"optim.frozen_until {name} must be a step >= 0, got {step}")
        require(self.warmup_steps >= 0, f"optim.warmup_steps must be >= 0, got {self.warmup_steps}")
        require(
            0 <= self.max_grad_norm < math.inf, f"optim.max_grad_norm must be finite and >= 0, got {self.max_grad_norm}"
        )
        require(self.accumulate >= 1, f"optim.accumulate must be >= 1, got {self.accumulate}")
        require(0 <= self.ema_decay < 1, f"optim.ema_decay must be in [0, 1), got {self.ema_decay}")
        require(0 <= self.final_lr_ratio <= 1, f"optim.final_lr_ratio must be in [0, 1], got {self.final_lr_ratio}")
        require(0 < self.decay_fraction <= 1, f"optim.decay_fraction must be in (0, 1], got {self.decay_fraction}")
        require(
            self.schedule != "exponential" or self.final_lr_ratio > 0,
            "optim.schedule exponential needs optim.final_lr_ratio > 0: it decays to that fraction of the peak",
        )
        require(self.step_every >= 1, f"optim.step_every must be >= 1, got {self.step_every}")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every run has. The configs of the packages extend it with their own fields."""

    trainer: ClassVar[str] = ""
    """`module:Class` of the trainer that takes this config."""

    out: Path = Path("runs/run")
    """Run directory: config, metrics, samples, checkpoints and report."""
    steps: int = 1000
    """Optimiser steps of the run."""
    time_budget_s: float | None = None
    """Seconds to train for; turned into a number of steps once, near the start, and stored. Overrides `steps`."""
    batch_size: int = 64
    """Sequences a step, over all processes."""
    seed: int = 0
    """Seed of weights, data order and sampling."""
    device: str = "auto"
    """`auto` (CUDA, then Apple MPS, then CPU), or a torch device such as `cpu` or `cuda:1`."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto`: bf16 on CUDA and on CPUs with bf16 instructions, else fp32."""
    compile: Literal["auto", "on", "whole", "off"] = "auto"
    """torch.compile the model. `auto`: on CUDA, and on a CPU for runs whose time budget repays about 10 s. `on`
    compiles blocks, which share a graph; `whole` one graph of all: a tenth faster, for long runs with equal shapes."""
    threads: int | None = None
    """CPU threads; `None` means as many as torch counts cores, within the process's affinity and OMP_NUM_THREADS."""
    deterministic: bool = False
    """Use deterministic kernels on CUDA too, so that resume is exact there; some are slower."""
    log_every: int = 10
    """Steps between two lines of metrics.jsonl."""
    eval_every: int = 0
    """Steps between two evaluations; 0 means only at the end."""
    checkpoint_every: int = 500
    """Steps between two checkpoints; the last step is always saved."""
    keep: int = 2
    """Checkpoints to keep."""
    resume: bool = True
    """Go on from the newest good checkpoint in `out`, when there is one."""
    allow_config_change: tuple[str, ...] = ()
    """Fields that may differ from the stored config on resume, for example `steps`."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """The optimiser."""

    def __post_init__(self) -> None:
        require(self.steps >= 0, f"steps must be >= 0, got {self.steps}")
        require(self.batch_size > 0, f"batch_size must be > 0, got {self.batch_size}")
        require(self.keep >= 1, f"keep must be >= 1, got {self.keep}")
        for name in ("log_every", "checkpoint_every"):
            require(getattr(self, name) > 0, f"{name} must be > 0, got {getattr(self, name)}")
        require(self.eval_every >= 0, f"eval_every must be >= 0, got {self.eval_every}")
        if self.time_budget_s is not None:
            require(
                math.isfinite(self.time_budget_s) and self.time_budget_s > 0,
                f"time_budget_s must be finite and > 0, got {self.time_budget_s}",
            )
        if self.threads is not None:
            require(self.threads > 0, f"threads must be > 0, got {self.threads}")
