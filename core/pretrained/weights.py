"""Weights in Hugging Face folders: reading safetensors, and the names and layouts that differ from ours.

Qwen3 and Llama need no key map, because our parameters bear their names. GPT-2 stores its projections transposed and
its query, key and value in one matrix.

Shape suffixes: D = model width, N = output width of a projection.
"""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from core.config import ModelConfig
from core.nn.transformer import Transformer
from core.pretrained.architectures import UnsupportedModel

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"

# Buffers that old checkpoints carry and that hold nothing learned: rotary frequencies and GPT-2's causal masks.
# The dot before `attn` matters: `c_attn.bias` is a real bias.
_BUFFERS = re.compile(r"(rotary_emb\.inv_freq|\.attn\.bias|\.attn\.masked_bias)$")

_GPT2_OUTSIDE = {
    "wte.weight": "model.embed_tokens.weight",
    "wpe.weight": "model.embed_positions.weight",
    "ln_f.weight": "model.norm.weight",
    "ln_f.bias": "model.norm.bias",
}
_GPT2_NORMS = {"ln_1": "input_layernorm", "ln_2": "post_attention_layernorm"}
_GPT2_PROJECTIONS = {"attn.c_proj": "self_attn.o_proj", "mlp.c_fc": "mlp.up_proj", "mlp.c_proj": "mlp.down_proj"}
_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def read_safetensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder with one safetensors file, or with several and their index.

    Raises:
        UnsupportedModel: no such file, a shard that is missing, or a file that cannot be read.
    """
    files = [SINGLE]
    if not (folder / SINGLE).is_file():
        if not (folder / INDEX).is_file():
            pickled = sorted(file.name for file in folder.glob("*.bin"))
            hint = (
                f" ({', '.join(pickled[:2])} is pickled; save it again with transformers' save_pretrained)"
                if pickled
                else ""
            )
            raise UnsupportedModel(f"no {SINGLE} and no {INDEX} in {folder}{hint}")
        try:
            listed = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
            files = sorted(set(listed.values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise UnsupportedModel(f"{folder / INDEX} has no readable weight_map: {error}") from error
    tensors: dict[str, Tensor] = {}
    for name in files:
        # A shard lies in the folder itself; a name that leads elsewhere has no business in an index.
        if Path(name).name != name or not (folder / name).is_file():
            raise UnsupportedModel(f"{folder} lacks {name}, which {INDEX} lists: fetch the folder again")
        try:
            tensors |= load_file(folder / name)
        except SafetensorError as error:
            raise UnsupportedModel(f"{folder / name} cannot be read ({error}): fetch it again") from error
    return tensors


def to_ours(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Tensors of a Hugging Face folder under the names and in the layout of our Transformer.

    Raises:
        UnsupportedModel: an output projection that contradicts tie_word_embeddings.
    """
    kept = {name: tensor for name, tensor in tensors.items() if not _BUFFERS.search(name)}
    ours = _from_gpt2(kept) if config.positions == "learned" else _with_prefix(kept)
    embedding, head = "model.embed_tokens.weight", "lm_head.weight"
    if config.tied and embedding in ours:
        if head in ours and not torch.equal(ours[head], ours[embedding]):
            raise UnsupportedModel(
                f"config.json says tie_word_embeddings, but {head} differs from the embedding: correct one of them"
            )
        ours[head] = ours[embedding]
    elif head not in ours:
        raise UnsupportedModel(
            f"config.json says that tie_word_embeddings is false, but {head} is missing: it was tied, or was cut off"
        )
    return ours


def from_ours(model: Transformer) -> dict[str, Tensor]:
    """Contiguous tensors of a model under Hugging Face's names; none share memory, a tied projection is left out."""
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    if model.config.tied:
        del state["lm_head.weight"]
    if model.config.positions == "learned":
        state = _to_gpt2(state, model.config)
    return {name: tensor.cpu().contiguous() for name, tensor in state.items()}


class _NoInitialisation(TorchFunctionMode):
    """Skips the drawing of initial weights: on `meta` there is nothing to fill, and trying imports the compiler."""

    skipped = frozenset(("normal_", "uniform_", "zero_", "zeros_", "ones_", "fill_", "kaiming_uniform_"))

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in self.skipped:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def build(
    config: ModelConfig, state: Mapping[str, Tensor], dtype: torch.dtype, *, zero_biases: Collection[str] = ()
) -> Transformer:
    """A Transformer with these weights, without drawing random ones first.

    Args:
        config: the model.
        state: tensors under our names.
        dtype: of the parameters.
        zero_biases: projections whose bias the checkpoint does not have; where our model has one it is zero.

    Raises:
        UnsupportedModel: names or shapes that differ from the config's.
    """
    with torch.device("meta"), _NoInitialisation():
        model = Transformer(config)
    expected = model.state_dict()
    tensors = {name: tensor.to(dtype, copy=True) for name, tensor in state.items()}
    for name, tensor in expected.items():
        if name.endswith(".bias") and name.split(".")[-2] in zero_biases and name not in tensors:
            tensors[name] = torch.zeros(tensor.shape, dtype=dtype)
    missing, unexpected = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or unexpected:
        raise UnsupportedModel(
            f"the weights do not fit config.json: {len(missing)} missing {missing[:3]}, "
            f"{len(unexpected)} unexpected {unexpected[:3]}"
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise UnsupportedModel(
                f"{name} has shape {tuple(tensor.shape)}, config.json asks for {tuple(expected[name].shape)}"
            )
    model.load_state_dict(tensors, assign=True)
    if config.tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model


def _with_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names with `model.` in front, which a folder saved from the base model lacks."""
    if any(name.startswith("model.") for name in tensors):
        return tensors
    return {name if name == "lm_head.weight" else f"model.{name}": tensor for name, tensor in tensors.items()}


def _from_gpt2(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    ours: dict[str, Tensor] = {}
    for full_name, tensor in tensors.items():
        name = full_name.removeprefix("transformer.")
        match = re.fullmatch(r"h\.(\d+)\.(.+)\.(weight|bias)", name)
        if match is None:
            ours[_GPT2_OUTSIDE.get(name, name)] = tensor
            continue
        layer, part, kind = match.groups()
        prefix = f"model.layers.{layer}."
        if part in _GPT2_NORMS:
            ours[f"{prefix}{_GPT2_NORMS[part]}.{kind}"] = tensor
        elif part == "attn.c_attn":
            for projection, piece in zip(_QKV, tensor.chunk(3, dim=-1)):
                ours[f"{prefix}{projection}.{kind}"] = piece.T if kind == "weight" else piece
        elif part in _GPT2_PROJECTIONS:
            ours[f"{prefix}{_GPT2_PROJECTIONS[part]}.{kind}"] = tensor.T if kind == "weight" else tensor
        else:
            ours[full_name] = tensor
    return ours


def _to_gpt2(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    theirs = {f"transformer.{name}": state[ours] for name, ours in _GPT2_OUTSIDE.items()}
    if "lm_head.weight" in state:
        theirs["lm_head.weight"] = state["lm_head.weight"]

    def bias(name: str, weight_ND: Tensor) -> Tensor:
        """The bias of a projection, zero where ours has none: GPT-2 always has one."""
        return state.get(f"{name}.bias", weight_ND.new_zeros(len(weight_ND)))

    for layer in range(config.num_layers):
        ours, prefix = f"model.layers.{layer}.", f"transformer.h.{layer}."
        for name, norm in _GPT2_NORMS.items():
            for kind in ("weight", "bias"):
                theirs[f"{prefix}{name}.{kind}"] = state[f"{ours}{norm}.{kind}"]
        weights = [state[f"{ours}{name}.weight"] for name in _QKV]
        theirs[f"{prefix}attn.c_attn.weight"] = torch.cat(weights).T
        theirs[f"{prefix}attn.c_attn.bias"] = torch.cat([bias(ours + n, w) for n, w in zip(_QKV, weights)])
        for name, projection in _GPT2_PROJECTIONS.items():
            weight_ND = state[f"{ours}{projection}.weight"]
            theirs[f"{prefix}{name}.weight"] = weight_ND.T
            theirs[f"{prefix}{name}.bias"] = bias(ours + projection, weight_ND)
    return theirs
