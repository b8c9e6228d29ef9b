"""GPT-2 folders: transposed and fused projections, learned positions, two kinds of GELU, buffers of old checkpoints."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.pretrained.architectures import ExportError, UnsupportedModel
from core.pretrained.huggingface import from_hf, save_hf, to_hf

GPT2 = {"positions": "learned", "norm": "layer", "norm_eps": 1e-5, "qk_norm": False, "activation": "gelu_tanh",
        "bias": True}  # fmt: skip
TOKENS_BT = torch.arange(30).reshape(2, 15)


def logits(model):
    with torch.no_grad():
        return model.eval().logits(model(TOKENS_BT))


def rewrite(folder, change):
    file = folder / "model.safetensors"
    save_file({k: v.contiguous() for k, v in change(load_file(file)).items()}, file)


def test_projections_are_stored_transposed_and_fused(random_model, tmp_path):
    model = random_model(**GPT2, mlp_width=96)
    save_hf(model, tmp_path / "out", check=False)
    stored = load_file(tmp_path / "out" / "model.safetensors")
    attention = model.model.layers[1].self_attn
    # The key projection is the middle third of c_attn's columns.
    assert torch.equal(stored["transformer.h.1.attn.c_attn.weight"][:, 64:128], attention.k_proj.weight.T)
    assert torch.equal(stored["transformer.h.1.attn.c_attn.bias"][128:], attention.v_proj.bias)
    assert stored["transformer.h.1.mlp.c_fc.weight"].shape == (64, 96)
    assert "lm_head.weight" not in stored
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (settings["n_inner"], settings["activation_function"]) == (96, "gelu_new")


def test_published_checkpoints_lack_the_prefix_and_carry_mask_buffers(random_model, tmp_path):
    model = random_model(**GPT2)
    save_hf(model, tmp_path / "out", check=False)

    def like_the_published_ones(tensors):
        bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        mask = torch.ones(1, 1, 128, 128).tril()
        return (
            bare | {f"h.{i}.attn.bias": mask.clone() for i in range(3)} | {"h.0.attn.masked_bias": torch.tensor(-1e4)}
        )

    rewrite(tmp_path / "out", like_the_published_ones)
    assert torch.equal(logits(from_hf(tmp_path / "out")[0]), logits(model))


@pytest.mark.parametrize(
    ("activation", "expected"), [("gelu", "gelu"), ("gelu_new", "gelu_tanh"), ("gelu_pytorch_tanh", "gelu_tanh")]
)
def test_the_kind_of_gelu_is_read(activation, expected, random_model, tmp_path):
    save_hf(random_model(**GPT2), tmp_path / "out", check=False)
    file = tmp_path / "out" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"activation_function": activation}))
    assert from_hf(tmp_path / "out")[0].config.activation == expected


def test_a_model_without_biases_is_saved_with_zeros(random_model, tmp_path):
    model = random_model(**{**GPT2, "bias": False})
    assert save_hf(model, tmp_path / "out").max_difference <= 1e-5
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert not stored["transformer.h.0.attn.c_attn.bias"].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation_function": "relu"}, "activation_function = 'relu'"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ({"scale_attn_weights": False}, "scale_attn_weights"),
        ({"add_cross_attention": True}, "add_cross_attention"),
    ],
)
def test_variants_are_refused_by_name(change, message, random_model, tmp_path):
    save_hf(random_model(**GPT2), tmp_path / "out", check=False)
    file = tmp_path / "out" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UnsupportedModel, match=message):
        from_hf(tmp_path / "out")


@pytest.mark.parametrize(
    ("lost", "name"), [("ln_1.bias", "input_layernorm.bias"), ("mlp.c_fc.bias", "mlp.up_proj.bias")]
)
def test_a_bias_that_is_missing_is_not_made_up(lost, name, random_model, tmp_path):
    save_hf(random_model(**GPT2), tmp_path / "out", check=False)
    rewrite(tmp_path / "out", lambda tensors: {k: v for k, v in tensors.items() if k != f"transformer.h.1.{lost}"})
    with pytest.raises(UnsupportedModel, match=re.escape(f"layers.1.{name}")):
        from_hf(tmp_path / "out")


def test_there_is_no_view_that_shares_storage(random_model):
    with pytest.raises(ExportError, match="use save_hf"):
        to_hf(random_model(**GPT2))
