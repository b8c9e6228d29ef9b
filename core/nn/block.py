"""One pre-norm Transformer block: self-attention, optional gated cross-attention, MLP.

Shape suffixes: B = batch, T = positions, D = model width, H = query heads, G = key-value heads, K = head width,
M = memory positions.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.config import ModelConfig
from core.nn.attention import additive, attend, taken
from core.nn.cache import KVCache, PrefixCache
from core.nn.dropout import drop
from core.nn.linear import Linear
from core.nn.rotary import rotate


class RMSNorm(nn.RMSNorm):
    """RMSNorm whose input autocast may have made narrower than its weight.

    References:
        Zhang and Sennrich 2019, "Root Mean Square Layer Normalization", arXiv:1910.07467.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x / sqrt(mean(x^2) + eps) * weight, with the mean in float32."""
        if x.dtype == torch.float32:
            return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)
        # PyTorch's own has no narrow CPU kernel and converts back and forth five times.
        wide = x.float()
        assert self.eps is not None
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return normed.to(x.dtype) * self.weight.to(x.dtype)


def build_norm(config: ModelConfig) -> nn.Module:
    """The norm that the config names, over the model width."""
    if config.norm == "layer":
        return nn.LayerNorm(config.width, eps=config.norm_eps)
    return RMSNorm(config.width, eps=config.norm_eps)


@dataclass(frozen=True)
class Reads:
    """The positions whose hidden states are wanted of a block, and what its attention needs for these."""

    positions_BR: Tensor
    rotary: tuple[Tensor, Tensor] | None
    bias_B1RS: Tensor


class SelfAttention(nn.Module):
    """Causal self-attention with grouped key-value heads, rotary positions and norms on queries and keys.

    References:
        Henry et al. 2020, "Query-Key Normalization for Transformers", arXiv:2010.04245.
    """

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.head_width = config.head_width
        self.dropout = config.dropout
        inner, inner_kv = config.num_heads * config.head_width, config.kv_heads * config.head_width
        self.q_proj = Linear(config.width, inner, bias=config.bias)
        self.k_proj = Linear(config.width, inner_kv, bias=config.bias)
        self.v_proj = Linear(config.width, inner_kv, bias=config.bias)
        self.o_proj = Linear(inner, config.width, bias=config.bias)
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_width, eps=config.norm_eps)
            self.k_norm = RMSNorm(config.head_width, eps=config.norm_eps)
        self.qk_norm = config.qk_norm

    def forward(
        self,
        x_BTD: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        bias: Tensor | None,
        cache: KVCache | PrefixCache | None,
        reads: Reads | None = None,
    ) -> Tensor:
        batch, length, _ = x_BTD.shape
        asking_BTD = x_BTD if reads is None else taken(x_BTD, reads.positions_BR)
        q_BTHK = self.q_proj(asking_BTD).view(*asking_BTD.shape[:2], -1, self.head_width)
        k_BTGK = self.k_proj(x_BTD).view(batch, length, -1, self.head_width)
        v_BGTK = self.v_proj(x_BTD).view(batch, length, -1, self.head_width).transpose(1, 2)
        if self.qk_norm:
            q_BTHK, k_BTGK = self.q_norm(q_BTHK), self.k_norm(k_BTGK)
        q_BHTK, k_BGTK = q_BTHK.transpose(1, 2), k_BTGK.transpose(1, 2)
        q_rotary = rotary if reads is None else reads.rotary
        if rotary is not None and q_rotary is not None:
            q_BHTK, k_BGTK = rotate(q_BHTK, *q_rotary), rotate(k_BGTK, *rotary)
        if cache is not None:
            out_BHTK = cache.attend(self.index, q_BHTK, k_BGTK, v_BGTK, bias)
        else:
            dropout = self.dropout if self.training else 0.0
            if reads is not None:
                bias = reads.bias_B1RS
            out_BHTK = attend(q_BHTK, k_BGTK, v_BGTK, bias, causal=bias is None, dropout=dropout)
        return self.o_proj(out_BHTK.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Attention to a memory behind a gate that starts at 0: until it opens, the model is the text-only one, exactly.

    References:
        Alayrac et al. 2022, "Flamingo", arXiv:2204.14198, equation for the tanh gate.
    """

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.head_width = config.head_width
        inner, inner_kv = config.num_heads * config.head_width, config.kv_heads * config.head_width
        self.norm = build_norm(config)
        self.q_proj = Linear(config.width, inner, bias=False)
        self.k_proj = Linear(config.width, inner_kv, bias=False)
        self.v_proj = Linear(config.width, inner_kv, bias=False)
        self.out_proj = Linear(inner, config.width, bias=False)
        self.gate = nn.Parameter(torch.zeros(1))

    def _heads(self, x_BTD: Tensor) -> Tensor:
        return x_BTD.view(*x_BTD.shape[:2], -1, self.head_width).transpose(1, 2)

    def forward(
        self,
        x_BTD: Tensor,
        cache: KVCache | PrefixCache | None,
        memory_BMD: Tensor | None,
        memory_mask_BM: Tensor | None,
    ) -> Tensor:
        """The gated update of x_BTD, to be added to it."""
        if cache is not None and self.index in cache.memory:
            k_BGMK, v_BGMK, bias = cache.memory[self.index]
        elif memory_BMD is not None:
            k_BGMK, v_BGMK = self._heads(self.k_proj(memory_BMD)), self._heads(self.v_proj(memory_BMD))
            bias = None if memory_mask_BM is None else additive(memory_mask_BM, k_BGMK.dtype)[:, None, None, :]
            if cache is not None:
                cache.memory[self.index] = k_BGMK, v_BGMK, bias
        else:
            return torch.zeros_like(x_BTD)
        q_BHTK = self._heads(self.q_proj(self.norm(x_BTD)))
        if bias is not None:
            bias = bias.expand(-1, -1, q_BHTK.shape[2], -1)
        out_BHTK = attend(q_BHTK, k_BGMK, v_BGMK, bias)
        return torch.tanh(self.gate) * self.out_proj(out_BHTK.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """SwiGLU, or the two-layer GELU network of GPT-2.

    References:
        Shazeer 2020, "GLU Variants Improve Transformer", arXiv:2002.05202.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation = config.activation
        if config.activation == "swiglu":
            self.gate_proj = Linear(config.width, config.hidden, bias=config.bias)
        self.up_proj = Linear(config.width, config.hidden, bias=config.bias)
        self.down_proj = Linear(config.hidden, config.width, bias=config.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        if self.activation == "swiglu":
            return self.down_proj(F.silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))
        approximate = "tanh" if self.activation == "gelu_tanh" else "none"
        return self.down_proj(F.gelu(self.up_proj(x_BTD), approximate=approximate))


class Block(nn.Module):
    """x + attention(norm(x)), then [x + gated cross-attention(x)], then x + mlp(norm(x))."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.input_layernorm = build_norm(config)
        self.self_attn = SelfAttention(config, index)
        every = config.cross_attention_every
        crosses = every > 0 and (index + 1) % every == 0
        self.cross_attn = CrossAttention(config, index) if crosses else None
        self.post_attention_layernorm = build_norm(config)
        self.mlp = MLP(config)

    def forward(
        self,
        x_BTD: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        bias: Tensor | None,
        cache: KVCache | PrefixCache | None = None,
        memory_BMD: Tensor | None = None,
        memory_mask_BM: Tensor | None = None,
        reads: Reads | None = None,
    ) -> Tensor:
        update_BTD = self._drop(self.self_attn(self.input_layernorm(x_BTD), rotary, bias, cache, reads))
        x_BTD = (x_BTD if reads is None else taken(x_BTD, reads.positions_BR)) + update_BTD
        if self.cross_attn is not None:
            x_BTD = x_BTD + self.cross_attn(x_BTD, cache, memory_BMD, memory_mask_BM)
        return x_BTD + self._drop(self.mlp(self.post_attention_layernorm(x_BTD)))

    def _drop(self, x_BTD: Tensor) -> Tensor:
        return drop(x_BTD, self.dropout, self.training)
