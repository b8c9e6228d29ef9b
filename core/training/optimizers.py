"""Optimisers and their parameter groups."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from core.config import OptimConfig

Number = TypeVar("Number", int, float)


class Optimizer(Protocol):
    """What the updater needs of an optimiser; `torch.optim.Optimizer` has it."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of parameters with their settings; `lr` may be written."""
        ...

    def step(self) -> Any:
        """Update the parameters from their gradients."""
        ...

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Nested dict of tensors and plain values."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        ...


class MuonWithAdamW:
    """Muon for the hidden matrices and AdamW for the rest, behind the surface of one optimiser.

    References:
        Jordan 2024, "Muon: An optimizer for hidden layers in neural networks" (torch's implementation of it).
        Loshchilov and Hutter 2017, "Decoupled Weight Decay Regularization", arXiv:1711.05101.
    """

    def __init__(self, muon: torch.optim.Optimizer, adamw: torch.optim.Optimizer) -> None:
        self.muon = muon
        self.adamw = adamw

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of both; writing `lr` in one changes it there."""
        return [*self.muon.param_groups, *self.adamw.param_groups]

    def step(self) -> None:
        """Step both."""
        self.muon.step()
        self.adamw.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of both."""
        self.muon.zero_grad(set_to_none)
        self.adamw.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """State of both."""
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore both."""
        self.muon.load_state_dict(state_dict["muon"])
        self.adamw.load_state_dict(state_dict["adamw"])


@dataclass
class _Parts:
    """Trainable parameters that share a learning rate and a first step."""

    matrices: list[Tensor] = field(default_factory=list)
    """Two-dimensional ones inside the network: what Muon takes."""
    decayed: list[Tensor] = field(default_factory=list)
    plain: list[Tensor] = field(default_factory=list)
    """Norms, biases and embeddings: never decayed."""


def _split(module: nn.Module, config: OptimConfig) -> dict[tuple[float, int], _Parts]:
    """Trainable parameters by learning-rate factor and first step; those with the factor 0 stop being trainable."""
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)}
    found: dict[tuple[float, int], _Parts] = {}
    matched: set[str] = set()
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = _named(config.lr_scales, name, 1.0, matched)
        if scale == 0:
            parameter.requires_grad_(False)
            continue
        parts = found.setdefault((scale, _named(config.frozen_until, name, 0, matched)), _Parts())
        if parameter.ndim < 2 or id(parameter) in embeddings:
            parts.plain.append(parameter)
        elif parameter.ndim == 2 and "lm_head" not in name.split("."):
            parts.matrices.append(parameter)
        else:
            parts.decayed.append(parameter)
    unknown = sorted({*config.lr_scales, *config.frozen_until} - matched)
    if unknown:
        heads = sorted({".".join(name.split(".")[:2]) for name, p in module.named_parameters() if p.requires_grad})
        raise ValueError(
            f"optim.lr_scales or optim.frozen_until names {unknown[0]!r}, which is part of no trainable parameter's "
            f"name; these begin with {', '.join(heads[:8])}"
        )
    return found


def _named(values: Mapping[str, Number], name: str, default: Number, matched: set[str]) -> Number:
    """The value of the longest key that is a whole part of a dotted name."""
    keys = [key for key in values if f".{key}." in f".{name}."]
    matched.update(keys)
    return values[max(keys, key=len)] if keys else default


def build_optimizer(module: nn.Module, config: OptimConfig) -> Optimizer:
    """The optimiser that `config` names, over the parameters that require a gradient.

    Weight decay is given to parameters with two or more dimensions, embeddings excepted. For SGD, Adam and AdaGrad it
    is the L2 penalty of torch; for AdamW and Muon it is decoupled. `muon` takes the two-dimensional parameters except
    embeddings and `lm_head`, with the learning rate `muon_lr`; AdamW takes the others.

    Args:
        module: on its device already.
        config: optimiser, learning rates and decay.

    Returns:
        The optimiser; each of its groups bears its peak learning rate as `initial_lr`, and as `first_step` the step
        from which it is trained.

    Raises:
        ValueError: nothing in the module requires a gradient, or the config names parameters that there are not.
    """
    found = _split(module, config)
    if not found:
        raise ValueError(f"{type(module).__name__} has no parameter that requires a gradient: nothing to optimise")
    groups: list[dict[str, Any]] = []
    muon_groups: list[dict[str, Any]] = []
    for (scale, first_step), parts in found.items():
        shared = {"first_step": first_step}
        matrices = parts.matrices if config.optimizer == "muon" else []
        decayed = parts.decayed if matrices else [*parts.matrices, *parts.decayed]
        if matrices:
            muon_groups.append({"params": matrices, "lr": config.muon_lr * scale, **shared})
        if decayed:
            groups.append({"params": decayed, "lr": config.lr * scale, "weight_decay": config.weight_decay, **shared})
        if parts.plain:
            groups.append({"params": parts.plain, "lr": config.lr * scale, "weight_decay": 0.0, **shared})
    optimizer = _optimizer(groups, config) if groups else None
    if muon_groups:
        muon = torch.optim.Muon(
            muon_groups, lr=config.muon_lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
        optimizer = MuonWithAdamW(muon, optimizer) if isinstance(optimizer, torch.optim.Optimizer) else muon
    assert optimizer is not None
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def _optimizer(groups: list[dict[str, Any]], config: OptimConfig) -> Optimizer:
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)
    if config.optimizer == "adagrad":
        return torch.optim.Adagrad(groups, lr=config.lr)
    if config.optimizer == "adam":
        return torch.optim.Adam(groups, lr=config.lr, betas=config.betas, fused=True)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)
