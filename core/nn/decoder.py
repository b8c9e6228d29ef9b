"""Blocks rearranged for decoding on a CPU, where a step multiplies few rows and the number of operations counts.

Shape suffixes: B = batch, T = positions, D = model width, N = output width, H = query heads, G = key-value heads,
K = head width.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.nn.block import Block, RMSNorm
from core.nn.cache import KVCache
from core.nn.linear import Linear, prefers_onednn
from core.nn.lora import LoRALinear
from core.nn.rotary import rotate

MAX_COPIED_BYTES = 2 * 2**30
"""Models whose blocks are larger decode without copies: the products take their time, and memory may be short."""


class PackedLinear:
    """Linear layers of one input as one matrix product, by a copy of their weights laid out for it.

    Args:
        layers: they share their input; adapters are merged into the copy.
        dtype: of the copy, and of what it gives.
        norm: an RMSNorm that comes before; its weight is multiplied into theirs, so that `scaled` can stand for it.
    """

    def __init__(self, layers: Sequence[nn.Linear], dtype: torch.dtype, norm: nn.Module | None = None) -> None:
        weight_ND = torch.cat(
            [layer.merged_weight() if isinstance(layer, LoRALinear) else layer.weight for layer in layers]
        )
        if isinstance(norm, RMSNorm):
            weight_ND = weight_ND * norm.weight
        biases: list[Tensor] = [layer.bias for layer in layers if layer.bias is not None]
        self.dtype = dtype
        self.bias = torch.cat(biases).to(dtype) if biases else None
        self.weight_ND = weight_ND.to(dtype)
        # oneDNN rearranges a plain bf16 weight at every product, which for few rows takes longer than the product.
        self.is_packed = packs_bf16() if dtype == torch.bfloat16 else dtype == torch.float32 and prefers_onednn()
        if self.is_packed:
            self.weight_ND = torch.ops.mkldnn._reorder_linear_weight(self.weight_ND)

    def __call__(self, x_BTD: Tensor) -> Tensor:
        """y_BTN: what the layers give, side by side."""
        x_BTD = x_BTD.to(self.dtype)
        if self.is_packed:
            return torch.ops.mkldnn._linear_pointwise(x_BTD, self.weight_ND, self.bias, "none", [], "")
        return F.linear(x_BTD, self.weight_ND, self.bias)

    def plus(self, x_BTD: Tensor, other_BTN: Tensor) -> Tensor:
        """y_BTN + other_BTN, in the wider of their dtypes: for the sum into the residual stream."""
        if self.is_packed and other_BTN.dtype == self.dtype:
            return torch.ops.mkldnn._linear_pointwise.binary(
                x_BTD.to(self.dtype), other_BTN, self.weight_ND, self.bias, "add"
            )
        return other_BTN + self(x_BTD)


class DecodingBlock:
    """What a `Block` computes, in fewer operations, on a copy of the weights.

    It holds while the weights do not change: made when decoding starts, dropped when it ends.

    Args:
        block: in evaluation mode.
        dtype: that matrix products run in.
    """

    def __init__(self, block: Block, dtype: torch.dtype) -> None:
        attention, mlp = block.self_attn, block.mlp
        self.block = block
        self.index = attention.index
        self.head_width = attention.head_width
        self.qkv = PackedLinear((attention.q_proj, attention.k_proj, attention.v_proj), dtype, block.input_layernorm)
        self.out = PackedLinear((attention.o_proj,), dtype)
        self.heads = [layer.out_features // self.head_width for layer in (attention.q_proj, attention.k_proj)]
        self.rotated = sum(self.heads)
        """Query and key heads: they are normed and rotated together."""
        self.head_norm: Tensor | None = None
        if attention.qk_norm:
            weights = (attention.q_norm.weight, attention.k_norm.weight)
            self.head_norm = torch.cat(
                [weight.float().expand(count, 1, -1) for weight, count in zip(weights, self.heads)]
            )
            self.head_norm_eps = attention.q_norm.eps
        gates = (mlp.gate_proj,) if mlp.activation == "swiglu" else ()
        self.up = PackedLinear((*gates, mlp.up_proj), dtype, block.post_attention_layernorm)
        self.down = PackedLinear((mlp.down_proj,), dtype)

    def forward(
        self,
        x_BTD: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        bias: Tensor | None,
        cache: KVCache | None,
        memory_BMD: Tensor | None = None,
        memory_mask_BM: Tensor | None = None,
    ) -> Tensor:
        """As `Block.forward`, whose arguments it takes; the cache must be there."""
        assert cache is not None
        batch, length, _ = x_BTD.shape
        qkv_BTN = self.qkv(_normed(self.block.input_layernorm, x_BTD))
        qkv_BHTK = qkv_BTN.view(batch, length, -1, self.head_width).transpose(1, 2)
        qk_BHTK, v_BGTK = qkv_BHTK.split((self.rotated, qkv_BHTK.shape[1] - self.rotated), dim=1)
        if self.head_norm is not None:
            qk_BHTK = (scaled(qk_BHTK, self.head_norm_eps) * self.head_norm).to(v_BGTK.dtype)
        if rotary is not None:
            qk_BHTK = rotate(qk_BHTK, *rotary)
        q_BHTK, k_BGTK = qk_BHTK.split(self.heads, dim=1)
        out_BHTK = cache.attend(self.index, q_BHTK, k_BGTK, v_BGTK, bias)
        x_BTD = self.out.plus(out_BHTK.transpose(1, 2).reshape(batch, length, -1), x_BTD)
        if self.block.cross_attn is not None:
            x_BTD = x_BTD + self.block.cross_attn(x_BTD, cache, memory_BMD, memory_mask_BM)
        up_BTN = self.up(_normed(self.block.post_attention_layernorm, x_BTD))
        if self.block.mlp.activation == "swiglu":
            gate, up = up_BTN.chunk(2, dim=-1)
            hidden = F.silu(gate) * up
        else:
            hidden = F.gelu(up_BTN, approximate="tanh" if self.block.mlp.activation == "gelu_tanh" else "none")
        return self.down.plus(hidden, x_BTD)


def packs_bf16() -> bool:
    """Whether this build and processor have oneDNN's bf16 product with a rearranged weight."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def scaled(x: Tensor, eps: float | None) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last dimension, in float32 or wider: RMSNorm without its weight."""
    assert eps is not None
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
    return x * (norm * norm).div_(x.shape[-1]).add_(eps).rsqrt_()


def _normed(norm: nn.Module, x_BTD: Tensor) -> Tensor:
    """The norm's output; that of an RMSNorm without the weight, which `PackedLinear` has taken over."""
    return scaled(x_BTD, norm.eps) if isinstance(norm, RMSNorm) else norm(x_BTD)


@torch.no_grad()
def rearranged(blocks: Iterable[nn.Module], dtype: torch.dtype) -> list[DecodingBlock] | None:
    """The blocks rearranged; None where that does not serve.

    It does not on an accelerator, above `MAX_COPIED_BYTES`, with layers that some other library has put in, and with
    adapters in bf16, where the sum of weight and update would round the update away.
    """
    blocks = list(blocks)
    parameters = [parameter for block in blocks for parameter in block.parameters()]
    if any(parameter.device.type != "cpu" for parameter in parameters):
        return None
    if sum(parameter.numel() for parameter in parameters) * dtype.itemsize > MAX_COPIED_BYTES:
        return None
    plain = [block for block in blocks if isinstance(block, Block) and _is_plain(block, dtype)]
    return [DecodingBlock(block, dtype) for block in plain] if len(plain) == len(blocks) else None


def _is_plain(block: Block, dtype: torch.dtype) -> bool:
    """Whether every projection is a layer that `PackedLinear` can copy."""
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    projections = [module for name, module in block.named_modules() if name.endswith(names)]
    copied = (nn.Linear, Linear, LoRALinear) if dtype == torch.float32 else (nn.Linear, Linear)
    return all(type(module) in copied for module in projections)
