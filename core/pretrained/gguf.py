"""GGUF files (llama.cpp): quantised Llama and Qwen3 models with their tokenizer, read into our Transformer.

The quantised blocks are expanded to floats: the file is a way to get weights, not a way to run them in 4 bits.
The `gguf` library is imported only when a file is read.

Shape suffixes: N = rows of a projection, D = model width.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from torch import Tensor

from core.config import ModelConfig
from core.nn.transformer import Transformer
from core.pretrained.architectures import UnsupportedModel
from core.pretrained.weights import build
from core.text.tokenizer import HFTokenizer

_OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_INSIDE = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# The kind of a vocabulary entry, as llama.cpp numbers it.
_CONTROL, _USER_DEFINED = 3, 4

_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def read_gguf(path: Path | str, *, dtype: torch.dtype = torch.float32) -> tuple[Transformer, HFTokenizer]:
    """Load a GGUF file of a Llama or Qwen3 model with a byte-level BPE tokenizer.

    Args:
        path: the file.
        dtype: of the parameters.

    Returns:
        The model on the CPU in training mode, and its tokenizer.

    Raises:
        UnsupportedModel: not a GGUF file, another architecture or tokenizer, or weights that do not fit; or the
            `gguf` library is not installed.
    """
    if importlib.util.find_spec("gguf") is None:
        raise UnsupportedModel("reading GGUF needs the gguf package: pip install 'trillium-lm[interop]'")
    from gguf import GGUFReader
    from gguf.quants import dequantize

    path = Path(path)
    if not path.is_file():
        raise UnsupportedModel(f"no file {path}: give the path of a .gguf file")
    try:
        reader = GGUFReader(path)
    except (ValueError, IndexError, KeyError) as error:
        raise UnsupportedModel(f"{path} cannot be read as GGUF ({error}): fetch it again") from error
    fields = {name: field.contents() for name, field in reader.fields.items()}
    stored = {
        # Tensors that were not quantised come as read-only views of the file, which torch does not want.
        tensor.name: torch.from_numpy(np.require(dequantize(tensor.data, tensor.tensor_type), requirements="W"))
        for tensor in reader.tensors
    }
    try:
        config = _config(fields, stored)
        tokenizer = _tokenizer(fields)
    except KeyError as error:
        raise UnsupportedModel(f"{path} lacks the field {error.args[0]}") from error
    return build(config, _to_ours(stored, config), dtype), tokenizer


def _config(fields: Mapping[str, Any], stored: Mapping[str, Tensor]) -> ModelConfig:
    kind = fields["general.architecture"]
    if kind not in ("llama", "qwen3"):
        raise UnsupportedModel(f"general.architecture {kind!r} in the GGUF file: only llama and qwen3 can be loaded")
    scaling = fields.get(f"{kind}.rope.scaling.type", "none")
    if scaling not in ("none", "linear") or "rope_freqs.weight" in stored:
        what = "rope_freqs.weight" if "rope_freqs.weight" in stored else f"rope.scaling.type {scaling!r}"
        raise UnsupportedModel(
            f"{what} in the GGUF file: only plain and linearly scaled rotary positions are supported"
        )
    heads, width = fields[f"{kind}.attention.head_count"], fields[f"{kind}.embedding_length"]
    head_dim = fields.get(f"{kind}.attention.key_length", width // heads)
    if fields.get(f"{kind}.rope.dimension_count", head_dim) != head_dim:
        raise UnsupportedModel(f"{kind}.rope.dimension_count in the GGUF file: only whole heads can be rotated")
    # Stored as float32: 1e-05 comes back as 9.99999974e-06, which its shortest spelling undoes.
    epsilon = fields[f"{kind}.attention.layer_norm_rms_epsilon"]
    return ModelConfig(
        vocab_size=len(stored["token_embd.weight"]),
        width=width,
        num_layers=fields[f"{kind}.block_count"],
        num_heads=heads,
        num_kv_heads=fields.get(f"{kind}.attention.head_count_kv", heads),
        head_dim=head_dim,
        mlp_width=fields[f"{kind}.feed_forward_length"],
        max_length=fields[f"{kind}.context_length"],
        rope_theta=fields.get(f"{kind}.rope.freq_base", 10_000.0),
        rope_scaling=fields[f"{kind}.rope.scaling.factor"] if scaling == "linear" else 1.0,
        norm_eps=float(f"{epsilon:.7g}"),
        qk_norm=kind == "qwen3",
        tied="output.weight" not in stored,
    )


def _to_ours(stored: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    ours: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        if name in _OUTSIDE:
            ours[_OUTSIDE[name]] = tensor
            continue
        block, _, rest = name.removeprefix("blk.").partition(".")
        part, _, kind = rest.partition(".")
        if not config.qk_norm and rest in ("attn_q.weight", "attn_k.weight"):
            tensor = _half_split(tensor, config.head_width)
        ours[f"model.layers.{block}.{_INSIDE.get(part, part)}.{kind}"] = tensor
    if config.tied:
        ours["lm_head.weight"] = ours["model.embed_tokens.weight"]
    return ours


def _half_split(weight_ND: Tensor, head_width: int) -> Tensor:
    """Undo llama.cpp's order of the rows of Llama's query and key heads.

    It rotates neighbouring pairs (2i, 2i + 1), and stores the rows so; we rotate the pairs (i, i + K/2). In Qwen3 files
    the rows are in our order.
    """
    return weight_ND.unflatten(0, (-1, head_width // 2, 2)).transpose(1, 2).flatten(0, 2)


def _tokenizer(fields: Mapping[str, Any]) -> HFTokenizer:
    kind, words = fields["tokenizer.ggml.model"], fields.get("tokenizer.ggml.pre", "gpt-2")
    if kind != "gpt2":
        raise UnsupportedModel(
            f"tokenizer.ggml.model {kind!r} in the GGUF file: only byte-level BPE (gpt2) is supported"
        )
    entries, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"]]
    backend = Backend(models.BPE({token: i for i, token in enumerate(entries)}, merges))
    backend.pre_tokenizer = _pre_tokenizer(words)
    if words == "qwen2":
        backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.ByteLevel()
    for number, make in ((_CONTROL, True), (_USER_DEFINED, False)):
        added = [token for token, entry_kind in zip(entries, kinds) if entry_kind == number]
        backend.add_tokens([AddedToken(token, special=make, normalized=False) for token in added])
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    ids = {role: fields.get(f"tokenizer.ggml.{name}_token_id") for role, name in names.items()}
    tokens = {role: entries[number] for role, number in ids.items() if number is not None}
    return HFTokenizer(backend, tokens=tokens, chat_template=fields.get("tokenizer.chat_template"))


def _pre_tokenizer(name: str) -> pre_tokenizers.PreTokenizer:
    """How a text is cut before the merges: the file names it, and models were trained with it."""
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name in ("gpt-2", "default"):
        return plain
    if name == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), plain])
    if name == "qwen2":
        split = pre_tokenizers.Split(Regex(_QWEN2_WORDS), "isolated")
        return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    raise UnsupportedModel(f"tokenizer.ggml.pre {name!r} in the GGUF file: only gpt-2, smollm and qwen2 are supported")
