"""Optimisers and their parameter groups."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from core.config import OptimConfig


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


def _split(module: nn.Module) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Trainable parameters as (hidden matrices, other decayed ones, never decayed ones)."""
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)}
    heads = {id(p) for name, p in module.named_parameters() if "lm_head" in name.split(".")}
    matrices: list[Tensor] = []
    decayed: list[Tensor] = []
    plain: list[Tensor] = []
    for parameter in module.parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2 or id(parameter) in embeddings:
            plain.append(parameter)
        elif parameter.ndim == 2 and id(parameter) not in heads:
            matrices.append(parameter)
        else:
            decayed.append(parameter)
    return matrices, decayed, plain


def _groups(decayed: Iterable[Tensor], plain: Iterable[Tensor], weight_decay: float) -> list[dict[str, Any]]:
    groups = [
        {"params": list(decayed), "weight_decay": weight_decay},
        {"params": list(plain), "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(module: nn.Module, config: OptimConfig) -> Optimizer:
    """The optimiser that `config` names, over the parameters that require a gradient.

    Weight decay is given to parameters with two or more dimensions, embeddings excepted. For SGD, Adam and AdaGrad it
    is the L2 penalty of torch; for AdamW and Muon it is decoupled. `muon` takes the two-dimensional parameters except
    embeddings and `lm_head`, with the learning rate `muon_lr`; AdamW takes the others.

    Args:
        module: on its device already.
        config: optimiser, learning rates and decay.

    Returns:
        The optimiser; each of its groups bears its peak learning rate as `initial_lr`.

    Raises:
        ValueError: nothing in the module requires a gradient.
    """
    matrices, decayed, plain = _split(module)
    if not (matrices or decayed or plain):
        raise ValueError(f"{type(module).__name__} has no parameter that requires a gradient: nothing to optimise")
    optimizer: Optimizer
    if config.optimizer == "muon" and matrices:
        muon = torch.optim.Muon(matrices, lr=config.muon_lr, momentum=config.momentum, weight_decay=config.weight_decay)
        rest = _groups(decayed, plain, config.weight_decay)
        if rest:
            adamw = torch.optim.AdamW(rest, lr=config.lr, betas=config.betas, fused=True)
            optimizer = MuonWithAdamW(muon, adamw)
        else:
            optimizer = muon
    else:
        groups = _groups([*matrices, *decayed], plain, config.weight_decay)
        if config.optimizer == "sgd":
            optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)
        elif config.optimizer == "adagrad":
            optimizer = torch.optim.Adagrad(groups, lr=config.lr)
        elif config.optimizer == "adam":
            optimizer = torch.optim.Adam(groups, lr=config.lr, betas=config.betas, fused=True)
        else:
            optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer
