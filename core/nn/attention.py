"""Attention, with the kernel chosen by device and length.

Shape suffixes: B = batch, T = query positions, S = key positions, H = query heads, G = key-value heads,
K = head width, N = query heads of one key-value head times T.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from core.nn.dropout import drop

# Above this many keys the T x S score matrix costs more memory traffic than the tiled kernel costs in overhead.
# Measured on two CPU cores (benchmarks/RESULTS.md): bmm wins in bf16 up to about 512 keys; in fp32 it depends.
MAX_BMM_KEYS = 512


def uses_bmm(device: torch.device, num_keys: int, num_queries: int | None = None) -> bool:
    """Whether `attend` takes the matrix-product path, rather than PyTorch's fused kernel.

    Args:
        device: where the tensors are.
        num_keys: S.
        num_queries: T; S when absent. A single query, as in decoding, makes a small score matrix at any S.
    """
    single = num_queries == 1 and MAX_BMM_KEYS > 0
    return device.type == "cpu" and (single or num_keys <= MAX_BMM_KEYS)


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype that matrix products on `x` run in: autocast's where it is on, else that of `x`."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def causal_bias(num_queries: int, num_keys: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Additive bias_TS: 0 where query t may see key s, -inf elsewhere. Queries are the last positions of the keys."""
    allowed = torch.ones(num_queries, num_keys, dtype=torch.bool, device=device).tril(num_keys - num_queries)
    return additive(allowed, dtype)


def additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where `allowed` (bool) is True and -inf where it is False, in the same shape."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, float("-inf"))


def taken(x_BTD: Tensor, reads_BR: Tensor) -> Tensor:
    """x_BRD: the positions of each row that are asked for."""
    return x_BTD.gather(1, reads_BR[..., None].expand(-1, -1, x_BTD.shape[2]))


def attend(
    q_BHTK: Tensor,
    k_BGSK: Tensor,
    v_BGSK: Tensor,
    bias: Tensor | None,
    *,
    causal: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """Scaled dot-product attention with grouped key-value heads.

    Args:
        q_BHTK: queries.
        k_BGSK: keys; H must be a multiple of G.
        v_BGSK: values.
        bias: additive bias, TS or B1TS; every query must see at least one key. None with `causal` for a causal mask.
        causal: with `bias` None: query t sees keys up to t (T = S).
        dropout: dropout probability on the attention weights.

    Returns:
        attended_BHTK.

    References:
        Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762.
        Ainslie et al. 2023, "GQA: Training Generalized Multi-Query Transformer Models", arXiv:2305.13245.
    """
    num_queries, num_keys = q_BHTK.shape[2], k_BGSK.shape[2]
    if not uses_bmm(q_BHTK.device, num_keys, num_queries):
        return F.scaled_dot_product_attention(
            q_BHTK, k_BGSK, v_BGSK, attn_mask=bias, is_causal=causal, dropout_p=dropout,
            enable_gqa=q_BHTK.shape[1] != k_BGSK.shape[1],
        )  # fmt: skip
    if causal:
        bias = causal_bias(num_queries, num_keys, q_BHTK.dtype, q_BHTK.device)
    return _attend_bmm(q_BHTK, k_BGSK, v_BGSK, bias, dropout)


def _attend_bmm(q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
    """Two batched matrix products around a softmax, with batch and key-value heads folded into X = B * G.

    On CPUs this beats the fused kernel at short lengths, 2 to 4 times in bf16.
    """
    batch, heads, num_queries, head_width = q_BHTK.shape
    ratio, num_keys = heads // k_BGSK.shape[1], k_BGSK.shape[2]
    k_XSK, v_XSK = k_BGSK.flatten(0, 1), v_BGSK.flatten(0, 1)
    # The scale goes onto the queries: T x K numbers instead of T x S.
    q_XNK = (q_BHTK * head_width**-0.5).reshape(len(k_XSK), ratio * num_queries, head_width)
    scores_XNS = torch.bmm(q_XNK, k_XSK.transpose(1, 2))
    if bias is not None:
        scores_XNS.view(batch, heads, num_queries, num_keys).add_(bias)
    weights_XNS = torch.softmax(scores_XNS, dim=-1)
    if dropout:
        weights_XNS = drop(weights_XNS, dropout)
    return torch.bmm(weights_XNS.to(v_XSK.dtype), v_XSK).view(batch, heads, num_queries, head_width)


def attend_one(q_BH1K: Tensor, k_BGPK: Tensor, v_BGPK: Tensor, num_keys: int, bias: Tensor | None) -> Tensor:
    """`attend` of one query a row to the first `num_keys` of P stored positions, the rest of which hold zeros.

    oneDNN's bf16 products copy a slice of the positions before they read it, so this one reads all of them.
    """
    batch, heads, _, head_width = q_BH1K.shape
    num_stored = k_BGPK.shape[2]
    k_XPK, v_XPK = k_BGPK.flatten(0, 1), v_BGPK.flatten(0, 1)
    q_XNK = (q_BH1K * head_width**-0.5).view(len(k_XPK), -1, head_width)
    # With the long side in front the product is twice as fast.
    scores_XNS = torch.bmm(k_XPK, q_XNK.transpose(1, 2)).transpose(1, 2)[..., :num_keys]
    if bias is not None:
        scores_XNS = (scores_XNS.unflatten(0, (batch, -1)) + bias).flatten(0, 1)
    weights_XNP = F.pad(torch.softmax(scores_XNS, dim=-1), (0, num_stored - num_keys))
    return torch.bmm(weights_XNP, v_XPK).view(batch, heads, 1, head_width)
