"""The matrix-product attention against PyTorch's own, for every kind of mask, with gradients."""

import math

import pytest
import torch
import torch.nn.functional as F

from core.nn import attention
from core.nn.attention import MAX_BMM_KEYS, additive, attend, attend_one, causal_bias, uses_bmm
from core.nn.cache import KVCache

CPU = torch.device("cpu")


def tensors(heads=4, groups=4, queries=9, keys=9, width=8, batch=2, dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    shapes = (batch, heads, queries, width), (batch, groups, keys, width), (batch, groups, keys, width)
    made = [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]
    return [tensor.requires_grad_() for tensor in made]


def ragged_bias(queries=9, keys=9, batch=2, device="cpu"):
    """A bias per row: row 0 sees everything causal, row 1 not the first three keys."""
    allowed = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries).expand(batch, 1, -1, -1).clone()
    allowed[1, :, 3:, :3] = False
    return additive(allowed, torch.float32).to(device)


def gradients(out, inputs):
    weights = torch.linspace(-1, 1, out.numel(), device=out.device).view(out.shape).to(out.dtype)
    return torch.autograd.grad((out * weights).sum(), inputs)


def test_by_hand():
    # One head of width 1: scores q * k / sqrt(1) = 0 and ln 3, so the weights are 1/4 and 3/4.
    q = torch.tensor([1.0]).view(1, 1, 1, 1)
    k = torch.tensor([0.0, math.log(3)]).view(1, 1, 2, 1)
    v = torch.tensor([8.0, 4.0]).view(1, 1, 2, 1)
    assert attend(q, k, v, None).item() == pytest.approx(8 / 4 + 4 * 3 / 4)


@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("mask", ["none", "causal", "shared", "ragged"])
def test_matrix_products_equal_the_fused_kernel(groups, mask):
    q, k, v = tensors(groups=groups)
    bias = {"shared": causal_bias(9, 9, torch.float32, CPU), "ragged": ragged_bias()}.get(mask)
    out = attend(q, k, v, bias, causal=mask == "causal")
    repeated = [tensor.repeat_interleave(4 // groups, dim=1) for tensor in (k, v)]
    expected = F.scaled_dot_product_attention(q, *repeated, attn_mask=bias, is_causal=mask == "causal")
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=1e-5)
    for ours, theirs in zip(gradients(out, (q, k, v)), gradients(expected, (q, k, v))):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("queries", [1, 3])
def test_the_last_queries_of_longer_keys(queries):
    q, k, v = tensors(queries=queries, groups=2)
    bias = causal_bias(queries, 9, torch.float32, CPU)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, enable_gqa=True)
    torch.testing.assert_close(attend(q, k, v, bias), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("groups", [4, 2])
@pytest.mark.parametrize("mask", ["none", "shared", "ragged"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_one_query_a_row_to_stored_positions(mask, groups, dtype, tolerance):
    # Decoding's own order of the matrix product; positions after the ninth are not there yet.
    q, k, v = [tensor.detach() for tensor in tensors(queries=1, groups=groups, dtype=dtype)]
    bias = {"shared": causal_bias(1, 9, dtype, CPU), "ragged": ragged_bias(4, 9)[:, :, -1:].to(dtype)}.get(mask)
    expected = F.scaled_dot_product_attention(
        *(tensor.float() for tensor in (q, k, v)), attn_mask=None if bias is None else bias.float(),
        enable_gqa=groups != 4,
    )  # fmt: skip
    stored = [F.pad(tensor, (0, 0, 0, 7)) for tensor in (k, v)]
    found = attend_one(q, *stored, 9, bias)
    torch.testing.assert_close(found.float(), expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(attend(q, k, v, bias).float(), expected, atol=tolerance, rtol=tolerance)


def test_grouped_heads_equal_the_fused_kernels_own_grouping():
    q, k, v = tensors(heads=6, groups=3)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(attend(q, k, v, None, causal=True), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("mask", ["causal", "ragged"])
def test_long_inputs_take_the_fused_kernel_with_the_same_result(mask, monkeypatch):
    q, k, v = tensors(groups=2)
    bias = ragged_bias() if mask == "ragged" else None
    short = attend(q, k, v, bias, causal=bias is None)
    monkeypatch.setattr(attention, "MAX_BMM_KEYS", 4)
    assert not uses_bmm(CPU, 9)
    torch.testing.assert_close(attend(q, k, v, bias, causal=bias is None), short, atol=1e-6, rtol=1e-5)


def test_the_kernel_depends_on_device_and_length():
    assert uses_bmm(CPU, MAX_BMM_KEYS)
    assert not uses_bmm(CPU, MAX_BMM_KEYS + 1)
    assert not uses_bmm(torch.device("cuda"), 8)


def test_causal_bias_by_hand():
    inf = float("-inf")
    expected = torch.tensor([[0.0, 0.0, 0.0, inf], [0.0, 0.0, 0.0, 0.0]])
    assert torch.equal(causal_bias(2, 4, torch.float32, CPU), expected)


def test_dropout_drops_whole_weights_and_keeps_the_mean():
    # With equal keys and unit values, the output is the mean of the kept weights: 1 on average over many heads.
    torch.manual_seed(0)
    q, k = torch.zeros(64, 8, 16, 4), torch.zeros(64, 8, 16, 4)
    out = attend(q, k, torch.ones(64, 8, 16, 4), None, dropout=0.5)
    assert out.mean().item() == pytest.approx(1.0, abs=0.01)
    assert out.std() > 0.1


@pytest.mark.parametrize("chunks", [[9], [4, 5], [1] * 9, [5, 1, 1, 2]])
def test_cache_equals_the_whole_in_any_chunks(chunks):
    q, k, v = [tensor.detach() for tensor in tensors(groups=2)]
    expected = attend(q, k, v, None, causal=True)
    cache = KVCache(1, 2, 2, 8, 12, device=CPU, dtype=torch.float32)
    start, parts = 0, []
    for size in chunks:
        stop = start + size
        bias = causal_bias(size, stop, torch.float32, CPU)
        parts.append(cache.attend(0, q[:, :, start:stop], k[:, :, start:stop], v[:, :, start:stop], bias))
        cache.advance(size, None)
        start = stop
    torch.testing.assert_close(torch.cat(parts, dim=2), expected, atol=1e-6, rtol=1e-5)
    assert cache.next_position_B.tolist() == [9, 9]


def test_cache_rows_are_kept_copied_and_reordered():
    _, k, v = [tensor.detach() for tensor in tensors(groups=2, batch=3)]
    cache = KVCache(1, 3, 2, 8, 12, device=CPU, dtype=torch.float32)
    query = torch.randn(3, 4, 9, 8)
    before = cache.attend(0, query, k, v, None)
    cache.advance(9, torch.tensor([[True] * 9, [False] * 2 + [True] * 7, [True] * 9]))
    cache.select(torch.tensor([2, 1, 1]))
    assert (cache.batch, cache.length, cache.next_position_B.tolist()) == (3, 9, [9, 7, 7])
    assert cache.mask_BS[:, :9].sum(1).tolist() == [9, 7, 7]
    step = [torch.randn(3, heads, 1, 8) for heads in (4, 2, 2)]
    out = cache.attend(0, *step, None)
    k_next, v_next = (torch.cat((old[[2, 1, 1]], new), dim=2) for old, new in zip((k, v), step[1:]))
    torch.testing.assert_close(out, attend(step[0], k_next, v_next, None), atol=1e-6, rtol=1e-5)
    assert before.shape == (3, 4, 9, 8)


def test_a_full_cache_says_so():
    q, k, v = tensors(groups=2)
    cache = KVCache(1, 2, 2, 8, 8, device=CPU, dtype=torch.float32)
    with pytest.raises(ValueError, match="holds 8 positions, 9 are needed"):
        cache.attend(0, q, k, v, None)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mask", ["causal", "ragged"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_cuda_equals_the_cpu(mask, dtype, tolerance):
    on_cpu = tensors(groups=2, queries=40, keys=40, width=64)
    on_gpu = tensors(groups=2, queries=40, keys=40, width=64, dtype=dtype, device="cuda")
    bias = ragged_bias(40, 40) if mask == "ragged" else None
    expected = attend(*on_cpu, bias, causal=bias is None)
    found = attend(*on_gpu, None if bias is None else bias.to("cuda", dtype), causal=bias is None)
    torch.testing.assert_close(found.float().cpu(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_cache_equals_the_cpu_cache():
    q, k, v = [tensor.detach() for tensor in tensors(groups=2, width=64)]
    results = []
    for device in ("cpu", "cuda"):
        cache = KVCache(1, 2, 2, 64, 12, device=torch.device(device), dtype=torch.float32)
        parts = []
        for start, stop in ((0, 5), (5, 6), (6, 9)):
            bias = causal_bias(stop - start, stop, torch.float32, torch.device(device))
            part = [tensor[:, :, start:stop].to(device) for tensor in (q, k, v)]
            parts.append(cache.attend(0, *part, bias).cpu())
            cache.advance(stop - start, None)
        cache.select(torch.tensor([1, 0], device=device))
        results.append(torch.cat(parts, dim=2))
    torch.testing.assert_close(results[1], results[0], atol=1e-5, rtol=1e-5)
