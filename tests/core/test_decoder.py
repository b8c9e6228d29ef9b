"""Decoding blocks against the blocks they copy, in every variant, dtype and cache shape."""

from contextlib import nullcontext

import pytest
import torch

from core.nn import decoder
from core.nn.decoder import PackedLinear, scaled
from core.nn.lora import apply_lora

VARIANTS = {
    "qwen3": {},
    "llama-gqa": {"qk_norm": False, "num_kv_heads": 2, "tied": False},
    "gpt2": {"positions": "learned", "norm": "layer", "qk_norm": False, "activation": "gelu_tanh", "bias": True},
    "gelu": {"activation": "gelu", "bias": True},
    "crossing": {"cross_attention_every": 2},
}
# float32 rounds differently, and the norms of a float64 model compute in it; bf16 keeps 8 bits.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 0.02, torch.float64: 2e-6}


def steps(model, tokens_BT, sizes, **first):
    """hidden_BTD of a sequence that is read in pieces with a cache."""
    cache, parts, start = model.new_cache(len(tokens_BT), tokens_BT.shape[1]), [], 0
    with torch.no_grad():
        for size in sizes:
            parts.append(model(tokens_BT[:, start : start + size], cache=cache, **(first if start == 0 else {})))
            start += size
    return torch.cat(parts, dim=1).double()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("batch", [2, 20])  # few rows have a float32 cache, many one in the dtype of the model
@pytest.mark.parametrize("variant", VARIANTS)
def test_decoding_equals_the_blocks(variant, batch, dtype, random_model):
    model = random_model(**VARIANTS[variant]).to(dtype)
    tokens = torch.randint(97, (batch, 40), generator=torch.Generator().manual_seed(1))
    sizes = [30, 1, 1, 1, 3, 1, 1, 1, 1]  # past the length by which a cache grows
    first = {"memory_BMD": torch.randn(batch, 5, 64, dtype=dtype)} if variant == "crossing" else {}
    mask = torch.arange(30) >= torch.arange(batch)[:, None] % 4
    for options in ({}, {"key_mask_BS": mask}):
        expected = steps(model, tokens, sizes, **first, **options)
        with model.decoding():
            assert model.decoding_blocks is not None
            found = steps(model, tokens, sizes, **first, **options)
        assert (found - expected).abs().mean() < TOLERANCE[dtype]


def test_autocast_decodes_in_its_dtype(random_model):
    model = random_model()
    tokens = torch.randint(97, (20, 12), generator=torch.Generator().manual_seed(1))
    expected = steps(model, tokens, [12])
    with torch.autocast("cpu", torch.bfloat16), model.decoding():
        assert model.new_cache(20, 12).keys[0].dtype == torch.bfloat16
        found = steps(model, tokens, [6, 1, 1, 4])
    assert 0 < (found - expected).abs().mean() < 0.02


def test_adapters_are_merged_into_the_copy(random_model):
    model = random_model()
    tokens = torch.randint(97, (2, 8), generator=torch.Generator().manual_seed(1))
    plain = steps(model, tokens, [4, 1, 1, 1, 1])
    apply_lora(model, rank=2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    expected = steps(model.eval(), tokens, [4, 1, 1, 1, 1])
    with model.decoding():
        found = steps(model, tokens, [4, 1, 1, 1, 1])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert (found - plain).abs().max() > 0.1
    with model.bfloat16().decoding():  # a bf16 sum would round small updates away
        assert model.decoding_blocks is None


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_rows_that_leave_and_multiply_keep_their_positions(dtype, random_model):
    model = random_model(num_kv_heads=2).to(dtype)
    tokens = torch.randint(97, (40, 40), generator=torch.Generator().manual_seed(1))
    rows = torch.arange(39, 0, -2).repeat_interleave(2)

    def run():
        cache = model.new_cache(40, 40)
        with torch.no_grad():
            model(tokens[:, :20], cache=cache)
            model(tokens[:, 20:21], cache=cache)
            cache.select(torch.arange(39, 0, -2))
            cache.repeat(2)
            after = [model(tokens[rows, t : t + 1], cache=cache) for t in range(21, 40)]
        return torch.cat(after, dim=1).double()

    expected = run()
    with model.decoding():
        found = run()
    with torch.no_grad():
        whole = model(tokens[rows])[:, 21:].double()
    assert (found - expected).abs().mean() < TOLERANCE[dtype]
    assert (found - whole).abs().mean() < TOLERANCE[dtype]


def test_a_long_prompt_in_pieces_has_a_float32_cache_and_bf16_queries(random_model):
    model = random_model(max_length=1024).bfloat16()
    tokens = torch.randint(97, (1, 640), generator=torch.Generator().manual_seed(1))
    whole = steps(model, tokens, [640])
    for context in (nullcontext(), model.decoding()):
        with context:
            assert model.new_cache(1, 640).keys[0].dtype == torch.float32
            assert (steps(model, tokens, [600, 30, 1, 9]) - whole).abs().mean() < 0.03


def test_unknown_layers_and_large_models_keep_their_blocks(random_model, monkeypatch):
    class Other(torch.nn.Linear):
        """What another library may put in the place of a layer."""

    model = random_model()
    model.model.layers[1].mlp.up_proj = Other(64, model.config.hidden, bias=False)
    with model.decoding():
        assert model.decoding_blocks is None
    large = random_model()
    monkeypatch.setattr(decoder, "MAX_COPIED_BYTES", 1000)
    with large.decoding():
        assert large.decoding_blocks is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_linear_layer_is_its_layers_side_by_side(dtype):
    torch.manual_seed(0)
    layers, x = [torch.nn.Linear(32, size) for size in (16, 48)], torch.randn(3, 1, 32)
    with torch.no_grad():
        expected = torch.cat([layer(x) for layer in layers], dim=-1)
        packed = PackedLinear(layers, dtype)
        tolerance = 1e-6 if dtype == torch.float32 else 0.03
        torch.testing.assert_close(packed(x).float(), expected, atol=tolerance, rtol=0)
        for other in (torch.randn(3, 1, 64), torch.randn(3, 1, 64).bfloat16()):
            total = packed.plus(x, other)
            torch.testing.assert_close(total.float(), expected + other, atol=tolerance, rtol=0.01)
            assert total.dtype == torch.promote_types(dtype, other.dtype)


def test_scaled_rows_have_unit_mean_square():
    out = scaled(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), 1e-12)
    torch.testing.assert_close(out, torch.tensor([[3.0, 4.0], [0.0, 0.0]]) / 12.5**0.5)
