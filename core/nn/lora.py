"""Low-rank adapters (LoRA): train a few thousand numbers instead of every weight, in PEFT's file format.

Shape suffixes: N = output width, D = input width, R = rank.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from core.errors import UserError
from core.nn.dropout import drop

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
"""Targets as in the paper, which adapts the attention only."""
ALL_LINEAR = (*ATTENTION, "gate_proj", "up_proj", "down_proj")
"""Every projection of a block."""

_PEFT_PREFIX = "base_model.model."


class AdapterError(UserError, ValueError):
    """An adapter that does not fit the model, or a folder without one."""


class LoRALinear(nn.Linear):
    """A linear layer with a trainable low-rank update: W x + (alpha / R) B A x.

    The frozen weight keeps its name, so that checkpoints and exports of the base model stay as they were. B starts at
    0: until training the layer computes what the base layer does, to the bit.

    References:
        Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685, section 4.1.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float) -> None:
        nn.Module.__init__(self)  # nn.Linear's would draw a weight, only for it to be thrown away
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.scaling = alpha / rank
        self.dropout = dropout
        self.lora_A = nn.Parameter(base.weight.new_empty(rank, base.in_features))
        self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        """The base layer's output plus the update."""
        inner = drop(x, self.dropout, self.training)
        return super().forward(x) + F.linear(F.linear(inner, self.lora_A), self.lora_B) * self.scaling

    def merged_weight(self) -> Tensor:
        """W + (alpha / R) B A."""
        return self.weight + (self.lora_B @ self.lora_A) * self.scaling

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """A plain layer with weight W + (alpha / R) B A, in the weight's storage where that is precise enough."""
        plain = nn.Linear(1, 1)
        plain.in_features, plain.out_features = self.in_features, self.out_features
        plain.weight, plain.bias = self.weight, self.bias
        merged_ND = self.merged_weight()
        if merged_ND.dtype == self.weight.dtype:
            plain.weight.copy_(merged_ND)
        else:
            plain.weight = nn.Parameter(merged_ND)
        return plain.train(self.training)


def apply_lora(
    model: nn.Module,
    *,
    rank: int = 8,
    alpha: float | None = None,
    targets: Sequence[str] = ATTENTION,
    dropout: float = 0.0,
) -> list[nn.Parameter]:
    """Freeze a model and put an adapter on every linear layer whose name ends with one of `targets`.

    Args:
        model: changed in place.
        rank: R, the rank of the update.
        alpha: the update is scaled by alpha / R; None means 2 R.
        targets: last parts of module names, such as `ATTENTION` or `ALL_LINEAR`.
        dropout: on the input of the update, while training.

    Returns:
        The trainable parameters: what to give to an optimiser.

    Raises:
        AdapterError: no layer has such a name, or there is an adapter already.
    """
    if rank < 1:
        raise AdapterError(f"rank must be >= 1, got {rank}")
    if lora_layers(model):
        raise AdapterError("the model has a LoRA adapter already: merge it first with merge_lora")
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.split(".")[-1] in targets
    ]
    missing = sorted(set(targets) - {name.split(".")[-1] for name, _ in found})
    if missing:
        raise AdapterError(f"no linear layer of the model is named {', '.join(missing)}")
    model.requires_grad_(False)
    for name, module in found:
        _replace(model, name, LoRALinear(module, rank, 2 * rank if alpha is None else alpha, dropout))
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def hold_frozen(model: nn.Module, dtype: torch.dtype) -> None:
    """Hold the weights of linear layers that are not trained in the dtype in which autocast multiplies them.

    What is computed under autocast stays the same to the bit, in less memory and without casting them in every step. A
    head that shares the embedding's weight keeps its dtype.

    Args:
        model: changed in place.
        dtype: of `Runtime.autocast`; float32 changes nothing.
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for module in model.modules():
        if isinstance(module, nn.Linear) and not module.weight.requires_grad and id(module.weight) not in embeddings:
            module.weight.data = module.weight.data.to(dtype)


def lora_layers(model: nn.Module) -> dict[str, LoRALinear]:
    """The adapted layers by name; empty for a model without an adapter."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}


def merge_lora(model: nn.Module) -> None:
    """Add the updates to the weights, take the adapters off, and make every parameter trainable again."""
    for name, layer in lora_layers(model).items():
        _replace(model, name, layer.merged())
    model.requires_grad_(True)


def save_lora(model: nn.Module, folder: Path | str, *, base: str = "") -> None:
    """Write the adapter in PEFT's format: `PeftModel.from_pretrained(hf_model, folder)` loads it.

    Args:
        model: with an adapter, all of whose layers share rank and scaling, as `apply_lora` makes them.
        folder: where to.
        base: name or folder of the base model, which PEFT looks up when it is given the adapter alone.

    Raises:
        AdapterError: the model has no adapter.
    """
    layers = lora_layers(model)
    if not layers:
        raise AdapterError("the model has no LoRA adapter to save: call apply_lora first")
    layer = next(iter(layers.values()))
    rank = len(layer.lora_A)
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": layer.scaling * rank,
        "lora_dropout": layer.dropout,
        "target_modules": sorted({name.split(".")[-1] for name in layers}),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    tensors = {
        f"{_PEFT_PREFIX}{name}.lora_{which}.weight": getattr(layer, f"lora_{which}").detach().cpu().contiguous()
        for name, layer in layers.items()
        for which in "AB"
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def load_lora(model: nn.Module, folder: Path | str) -> list[nn.Parameter]:
    """Put an adapter from `save_lora`, or from PEFT, onto a model without one.

    Returns:
        The trainable parameters.

    Raises:
        AdapterError: no adapter in the folder, one of another kind, or one that does not fit the model.
    """
    folder = Path(folder)
    try:
        settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError) as error:
        raise AdapterError(f"no readable LoRA adapter in {folder}: {error}") from error
    unsupported = [
        field
        for field in ("use_dora", "use_rslora", "modules_to_save", "rank_pattern", "alpha_pattern", "fan_in_fan_out")
        if settings.get(field)
    ]
    if settings.get("peft_type") != "LORA" or settings.get("bias", "none") != "none" or unsupported:
        named = unsupported[0] if unsupported else "peft_type or bias"
        raise AdapterError(
            f"{folder / 'adapter_config.json'} asks for {named}, which is not supported: plain LoRA only"
        )
    parameters = apply_lora(
        model,
        rank=settings["r"],
        alpha=settings["lora_alpha"],
        targets=settings["target_modules"],
        dropout=settings.get("lora_dropout", 0.0),
    )
    expected = {
        f"{_PEFT_PREFIX}{name}.lora_{which}.weight": getattr(layer, f"lora_{which}")
        for name, layer in lora_layers(model).items()
        for which in "AB"
    }
    wrong = sorted(expected.keys() ^ tensors.keys())
    wrong += [name for name in expected.keys() & tensors.keys() if expected[name].shape != tensors[name].shape]
    if wrong:
        raise AdapterError(f"the adapter in {folder} does not fit the model: {len(wrong)} tensors differ, {wrong[:2]}")
    with torch.no_grad():
        for name, parameter in expected.items():
            parameter.copy_(tensors[name])
    return parameters


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, layer)
