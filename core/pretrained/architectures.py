"""Between `ModelConfig` and the config.json of Hugging Face's Qwen3, Llama and GPT-2."""

from collections.abc import Mapping
from typing import Any, Literal

from core.config import ModelConfig
from core.errors import UserError

Family = Literal["qwen3", "llama", "gpt2"]

CLASSES: Mapping[Family, str] = {"qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM", "gpt2": "GPT2LMHeadModel"}
"""The transformers class of each family."""

_GELU = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}

# Fields that change what a model computes, with the only values that our model has. Absent means the first of them.
_ROTARY_FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "use_sliding_window": (False, None),
    "partial_rotary_factor": (None, 1.0),
    "quantization_config": (None,),
    "is_decoder": (None, True, False),
}
_GPT2_FIXED: dict[str, tuple[Any, ...]] = {
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "quantization_config": (None,),
}


class UnsupportedModel(UserError, ValueError):
    """A model folder or file whose architecture, or whose weights, do not fit ours; the message names the field."""


class ExportError(UserError, ValueError):
    """A model that has no Hugging Face form, or an export that did not come back the same."""


def family(config: ModelConfig) -> Family:
    """The Hugging Face architecture that computes exactly what this config does.

    Raises:
        ExportError: if there is none; the message names the field that stands in the way.
    """
    if config.cross_attention_every:
        raise ExportError(
            "a model with cross-attention has no Hugging Face form: export one with cross_attention_every = 0"
        )
    wanted: dict[str, Any]
    if config.positions == "learned":
        name: Family = "gpt2"
        wanted = {"norm": ("layer",), "qk_norm": (False,), "activation": ("gelu", "gelu_tanh")}
        if config.kv_heads != config.num_heads or config.num_heads * config.head_width != config.width:
            raise ExportError(
                "GPT-2 has one key-value head per query head, and head_dim x num_heads equals the width: "
                f"this model has {config.num_heads} heads of {config.head_width}, {config.kv_heads} key-value heads "
                f"and width {config.width}"
            )
    else:
        name = "qwen3" if config.qk_norm else "llama"
        wanted = {"norm": ("rms",), "activation": ("swiglu",)}
        if config.qk_norm:
            wanted["bias"] = (False,)
    for field, values in wanted.items():
        if getattr(config, field) not in values:
            raise ExportError(
                f"no Hugging Face architecture has model.{field} = {getattr(config, field)!r} together with the rest "
                f"of this config: {name} needs {' or '.join(map(repr, values))}"
            )
    return name


def to_config_json(
    config: ModelConfig,
    *,
    dtype: str = "float32",
    bos_id: int | None = None,
    eos_id: int | None = None,
    pad_id: int | None = None,
) -> dict[str, Any]:
    """The content of config.json.

    Every field is written, those at a reader's default too: defaults differ between families and versions, and a
    reader that assumes another value mostly goes wrong in silence.

    Args:
        config: the model.
        dtype: of the stored weights, as torch spells it.
        bos_id, eos_id, pad_id: special tokens, None without one.

    Raises:
        ExportError: see `family`.
    """
    name = family(config)
    common = {
        "architectures": [CLASSES[name]],
        "model_type": name,
        "vocab_size": config.vocab_size,
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        "pad_token_id": pad_id,
        "tie_word_embeddings": config.tied,
        "initializer_range": 0.02,
        "use_cache": True,
        "dtype": dtype,
        "torch_dtype": dtype,  # what readers before transformers 5 look for
    }
    if name == "gpt2":
        return common | {
            "n_positions": config.max_length,
            "n_ctx": config.max_length,
            "n_embd": config.width,
            "n_layer": config.num_layers,
            "n_head": config.num_heads,
            "n_inner": config.hidden,
            "activation_function": "gelu_new" if config.activation == "gelu_tanh" else "gelu",
            "layer_norm_epsilon": config.norm_eps,
            "resid_pdrop": config.dropout,
            "embd_pdrop": config.dropout,
            "attn_pdrop": config.dropout,
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "reorder_and_upcast_attn": False,
            "add_cross_attention": False,
        }
    scaled = config.rope_scaling != 1
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if scaled:
        rope |= {"rope_type": "linear", "factor": config.rope_scaling}
    settings = common | {
        "hidden_size": config.width,
        "intermediate_size": config.hidden,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_length,
        "rms_norm_eps": config.norm_eps,
        # transformers 5 prefers rope_parameters; older readers and other engines look at the other two.
        "rope_parameters": rope,
        "rope_theta": config.rope_theta,
        "rope_scaling": {"rope_type": "linear", "factor": config.rope_scaling} if scaled else None,
        "attention_bias": config.bias,
        "attention_dropout": config.dropout,
    }
    if name == "llama":
        return settings | {"mlp_bias": config.bias, "pretraining_tp": 1}
    return settings | {
        "use_sliding_window": False,
        "sliding_window": None,
        "max_window_layers": config.num_layers,
        "layer_types": ["full_attention"] * config.num_layers,
    }


def from_config_json(settings: Mapping[str, Any]) -> ModelConfig:
    """The `ModelConfig` of a config.json; absent fields take the family's defaults in transformers.

    `qwen2` is read as Llama with biases, where the biases that it lacks are zero.

    Raises:
        UnsupportedModel: another architecture, or a field with a value that our model can't follow.
    """
    kind = settings.get("model_type")
    if kind not in ("llama", "qwen3", "qwen2", "gpt2"):
        raise UnsupportedModel(f"model_type {kind!r} in config.json: only llama, qwen3, qwen2 and gpt2 can be loaded")
    _check_fixed(settings, _GPT2_FIXED if kind == "gpt2" else _ROTARY_FIXED)
    try:
        return _gpt2(settings) if kind == "gpt2" else _rotary(settings, kind)
    except KeyError as error:
        raise UnsupportedModel(f"config.json lacks {error.args[0]}, which a {kind} model must state") from error
    except (ValueError, TypeError) as error:
        if isinstance(error, UnsupportedModel):
            raise
        raise UnsupportedModel(f"config.json holds a value that does not fit: {error}") from error


def absent_biases(settings: Mapping[str, Any]) -> frozenset[str]:
    """Projections that have no bias in a checkpoint with this config.json, although our model has biases everywhere."""
    kind = settings.get("model_type")
    attention = {"q_proj", "k_proj", "v_proj", "o_proj"}
    mlp = {"gate_proj", "up_proj", "down_proj"}
    if kind == "qwen2":
        return frozenset({"o_proj"} | mlp)
    if kind == "llama":
        return frozenset(
            (set() if settings.get("attention_bias") else attention) | (set() if settings.get("mlp_bias") else mlp)
        )
    return frozenset()


def _check_fixed(settings: Mapping[str, Any], fixed: Mapping[str, tuple[Any, ...]]) -> None:
    for field, values in fixed.items():
        if settings.get(field, values[0]) not in values:
            raise UnsupportedModel(f"config.json: {field} = {settings[field]!r} is not supported, only {values[0]!r}")
    others = set(settings.get("layer_types") or ()) - {"full_attention"}
    if others:
        raise UnsupportedModel(f"config.json: layer_types has {sorted(others)}, only full_attention is supported")


def _rotary(settings: Mapping[str, Any], kind: str) -> ModelConfig:
    theta, scaling = _rope(settings)
    heads, width = settings["num_attention_heads"], settings["hidden_size"]
    kv_heads, head_dim = settings.get("num_key_value_heads"), settings.get("head_dim")
    if kind == "qwen3":
        head_dim = head_dim or 128
        if settings.get("attention_bias"):
            raise UnsupportedModel("config.json: attention_bias = true is supported for llama, not for qwen3")
    return ModelConfig(
        vocab_size=settings["vocab_size"],
        width=width,
        num_layers=settings["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=kv_heads or heads,
        head_dim=head_dim or width // heads,
        mlp_width=settings["intermediate_size"],
        max_length=settings.get("max_position_embeddings", 2048 if kind == "llama" else 32768),
        rope_theta=theta,
        rope_scaling=scaling,
        norm_eps=settings.get("rms_norm_eps", 1e-6),
        qk_norm=kind == "qwen3",
        bias=kind == "qwen2" or bool(settings.get("attention_bias")) or bool(settings.get("mlp_bias")),
        tied=settings.get("tie_word_embeddings", False),
        dropout=settings.get("attention_dropout") or 0.0,
    )


def _rope(settings: Mapping[str, Any]) -> tuple[float, float]:
    """Base and linear scaling of the rotary positions, from the new field or the two old ones."""
    rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "linear"):
        raise UnsupportedModel(f"config.json: rope_type {kind!r} is not supported, only 'default' and 'linear'")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise UnsupportedModel("config.json: partial_rotary_factor is not supported, only whole heads are rotated")
    theta = rope.get("rope_theta", settings.get("rope_theta", 10_000.0))
    return float(theta), float(rope["factor"]) if kind == "linear" else 1.0


def _gpt2(settings: Mapping[str, Any]) -> ModelConfig:
    activation = settings.get("activation_function", "gelu_new")
    if activation not in _GELU:
        raise UnsupportedModel(
            f"config.json: activation_function = {activation!r} is not supported, only {', '.join(_GELU)}"
        )
    width = settings["n_embd"]
    return ModelConfig(
        vocab_size=settings["vocab_size"],
        width=width,
        num_layers=settings["n_layer"],
        num_heads=settings["n_head"],
        mlp_width=settings.get("n_inner") or 4 * width,
        max_length=settings.get("n_positions", 1024),
        positions="learned",
        norm="layer",
        norm_eps=settings.get("layer_norm_epsilon", 1e-5),
        qk_norm=False,
        activation="gelu" if activation == "gelu" else "gelu_tanh",
        bias=True,
        tied=settings.get("tie_word_embeddings", True),
        dropout=settings.get("resid_pdrop", 0.1),
    )
