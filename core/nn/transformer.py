"""The decoder-only Transformer. Its parameters bear the Hugging Face names, so that no key map is needed.

Shape suffixes: B = batch, T = positions read now, S = positions attended to, D = model width, V = vocabulary,
H = query heads, G = key-value heads, K = head width, M = memory positions.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from core.config import ModelConfig
from core.nn.attention import additive, causal_bias, compute_dtype, taken, uses_bmm
from core.nn.block import Block, CrossAttention, Reads, build_norm
from core.nn.cache import KVCache, PrefixCache
from core.nn.decoder import DecodingBlock, rearranged
from core.nn.dropout import drop
from core.nn.linear import Linear
from core.nn.rotary import rotary_table


class Body(nn.Module):
    """Embedding, blocks and final norm: what Hugging Face calls the base model."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.width)
        if config.positions == "learned":
            self.embed_positions = nn.Embedding(config.max_length, config.width)
        self.layers = nn.ModuleList(Block(config, index) for index in range(config.num_layers))
        self.norm = build_norm(config)


class Transformer(nn.Module):
    """A causal language model that takes token ids or embeddings and gives hidden states.

    Args:
        config: sizes and variant; see `core.nn.presets` for named ones.

    References:
        Qwen3 Technical Report 2025, arXiv:2505.09388; Touvron et al. 2023, "LLaMA", arXiv:2302.13971; Radford et
        al. 2019, "Language Models are Unsupervised Multitask Learners" (GPT-2).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.width
        self.vocab_size = config.vocab_size
        self.gradient_checkpointing = False
        self.decoding_blocks: list[DecodingBlock] | None = None
        self.rotary_cos_TK: Tensor
        self.rotary_sin_TK: Tensor
        self.model = Body(config)
        self.lm_head = Linear(config.width, config.vocab_size, bias=False)
        if config.tied:
            self.lm_head.weight = self.model.embed_tokens.weight
        self.reset_rotary()
        self.reset_parameters()

    def reset_rotary(self) -> None:
        """Compute the table of rotary positions anew: no checkpoint holds it, and casting the model rounds it."""
        c, device = self.config, self.model.embed_tokens.weight.device
        if c.positions == "rope":
            cos, sin = rotary_table(c.max_length, c.head_width, c.rope_theta, c.rope_scaling)
            if device.type != "meta":
                cos, sin = cos.to(device), sin.to(device)
            self.register_buffer("rotary_cos_TK", cos, persistent=False)
            self.register_buffer("rotary_sin_TK", sin, persistent=False)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw fresh weights. Projections into the residual stream start at 0, so every block starts as the identity.

        References:
            Zhang et al. 2019, "Fixup Initialization", arXiv:1901.09321, for the idea of the zero projections.
        """
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                continue  # norms, biases and gates keep the values that their layers gave them
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()
            elif "embed" in name or name == "lm_head.weight":
                parameter.normal_(std=0.02)
            else:
                parameter.normal_(std=1 / math.sqrt(parameter.shape[1]))

    def add_cross_attention(self, every: int) -> None:
        """Put cross-attention into every n-th block of a model that has none; its gates are closed.

        Args:
            every: n.
        """
        if self.config.cross_attention_every:
            raise ValueError("the model has cross-attention already")
        self.config = replace(self.config, cross_attention_every=every)
        for index in range(every - 1, len(self.model.layers), every):
            cross = CrossAttention(self.config, index).to(self.model.embed_tokens.weight)
            for parameter in cross.parameters():
                if parameter.dim() > 1:
                    nn.init.normal_(parameter, std=1 / math.sqrt(parameter.shape[1]))
            self.model.layers[index].cross_attn = cross

    def num_parameters(self) -> int:
        """Number of parameters; a tied output projection counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def embed(self, tokens_BT: Tensor) -> Tensor:
        """embeddings_BTD of token ids, without positions."""
        return self.model.embed_tokens(tokens_BT)

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """logits_BTV of hidden states."""
        return self.lm_head(hidden_BTD)

    def new_cache(self, batch: int, capacity: int, dtype: torch.dtype | None = None) -> KVCache:
        """An empty cache for `batch` rows of up to `capacity` positions.

        It is in the dtype that the model computes in, but for a few rows of a bf16 model on a CPU in float32: a bf16
        product of oneDNN takes 20 µs however small it is.

        Raises:
            ValueError: if the capacity passes `config.max_length`; so a long generation fails before it starts.
        """
        weight = self.model.embed_tokens.weight
        c = self.config
        if dtype is None:
            # Not under autocast, which would cast all of a float32 cache at every product.
            few = weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and batch * c.kv_heads <= 32
            dtype = torch.float32 if few else compute_dtype(weight)
        if capacity > c.max_length:
            raise ValueError(
                f"prompt and new tokens take {capacity} positions, and model.max_length is {c.max_length}: "
                "shorten the prompt or generate fewer tokens"
            )
        return KVCache(c.num_layers, batch, c.kv_heads, c.head_width, capacity, device=weight.device, dtype=dtype)

    def new_prefix(self, key_mask_BS: Tensor | None = None) -> PrefixCache:
        """A cache with gradient for prompts that several samples share.

        Args:
            key_mask_BS: bool, True = a real token of the prompts; None when none is padded.
        """
        return PrefixCache(self.config.num_layers, key_mask_BS)

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """Within the block, calls with a cache run on rearranged copies of the weights where that is faster.

        The model must be in evaluation mode, and its weights must not change within the block. See `core.nn.decoder`.
        """
        before = self.decoding_blocks
        self.decoding_blocks = before or rearranged(self.model.layers, compute_dtype(self.model.embed_tokens.weight))
        try:
            yield
        finally:
            self.decoding_blocks = before

    def forward(
        self,
        tokens_BT: Tensor | None = None,
        embeddings_BTD: Tensor | None = None,
        *,
        key_mask_BS: Tensor | None = None,
        prefix_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        positions_BT: Tensor | None = None,
        cache: KVCache | PrefixCache | None = None,
        memory_BMD: Tensor | None = None,
        memory_mask_BM: Tensor | None = None,
        shift_BD: Tensor | None = None,
        reads_BR: Tensor | None = None,
    ) -> Tensor:
        """Read a sequence and return the hidden states after the final norm.

        Args:
            tokens_BT: int64 token ids; or give `embeddings_BTD` instead.
            embeddings_BTD: inputs that are not tokens: projected pictures, soft tokens of a Gumbel generator.
            key_mask_BS: bool, True = a real token; padding may stand on either side. With a cache it covers the
                T new positions only.
            prefix_BT: bool; True = every position of the row, or of its document, may see this one: the prefix of a
                prefix language model. It has to be read in one call.
            documents_BT: int64 ids of packed documents; attention stays inside a document.
            positions_BT: int64 position indices. By default they count real tokens, from 0 in every document.
            cache: keys and values of the positions before; it grows by T.
            memory_BMD: what cross-attention blocks attend to; with a cache only the first call needs it.
            memory_mask_BM: bool, True = a real memory position.
            shift_BD: added to every embedding of the row; with a cache only the first call needs it.
            reads_BR: int64; the positions whose hidden states are wanted, all by default. The last block computes no
                others: of a long prompt only keys and values; with a cache it does.

        Returns:
            hidden_BTD, or with `reads_BR` hidden_BRD.

        Raises:
            ValueError: if neither or both inputs are given, or the sequence is longer than `config.max_length`.

        References:
            Prefix language model: Raffel et al. 2020, "T5", arXiv:1910.10683.
        """
        if (tokens_BT is None) == (embeddings_BTD is None):
            raise ValueError("give either tokens_BT or embeddings_BTD, not both and not neither")
        x_BTD = self.embed(tokens_BT) if tokens_BT is not None else embeddings_BTD
        assert x_BTD is not None
        num_new = x_BTD.shape[1]
        stack: Iterable[Any] = (self.decoding_blocks if cache is not None else None) or self.model.layers
        positions = self._positions(x_BTD, key_mask_BS, documents_BT, positions_BT, cache)
        bias = self._bias(x_BTD, key_mask_BS, prefix_BT, documents_BT, cache)
        if cache is not None:
            shift_BD = cache.shift_BD = cache.shift_BD if shift_BD is None else shift_BD
        if shift_BD is not None:
            x_BTD = x_BTD + shift_BD[:, None].to(x_BTD.dtype)
        rotary: tuple[Tensor, Tensor] | None = None
        if self.config.positions == "learned":
            x_BTD = x_BTD + self.model.embed_positions(positions)
        else:
            cos, sin = self.rotary_cos_TK[positions], self.rotary_sin_TK[positions]
            if positions.dim() == 2:
                cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
            dtype = compute_dtype(x_BTD)
            rotary = cos.to(dtype), sin.to(dtype)
        x_BTD = drop(x_BTD, self.config.dropout, self.training)
        reads = None if reads_BR is None or cache is not None else _reads(reads_BR, x_BTD, rotary, bias)
        for index, block in enumerate(stack):
            beside: tuple[Any, ...] = (memory_BMD, memory_mask_BM)
            if cache is None:
                beside = (*beside, reads if index == len(self.model.layers) - 1 else None)
            if self.gradient_checkpointing and self.training and cache is None:
                x_BTD = checkpoint(block, x_BTD, rotary, bias, None, *beside, use_reentrant=False)
            else:
                # Validation and decoding come in many shapes, each of which would compile anew: only training does.
                call = block if self.training and cache is None else block.forward
                x_BTD = call(x_BTD, rotary, bias, cache, *beside)
        if cache is not None:
            cache.advance(num_new, key_mask_BS)
            if reads_BR is not None:
                x_BTD = taken(x_BTD, reads_BR)
        return self.model.norm(x_BTD)

    def _positions(
        self,
        x_BTD: Tensor,
        key_mask_BS: Tensor | None,
        documents_BT: Tensor | None,
        positions_BT: Tensor | None,
        cache: KVCache | PrefixCache | None,
    ) -> Tensor:
        """Position indices, as T when they are the same in every row, else BT."""
        num_new = x_BTD.shape[1]
        start = cache.length if cache is not None else 0
        if positions_BT is not None:
            return positions_BT
        longest = start + num_new
        if longest > self.config.max_length and cache is not None and cache.mask_BS is not None:
            longest = int(cache.next_position_B.max()) + num_new  # padding takes room in the cache and no position
        if longest > self.config.max_length:
            raise ValueError(
                f"a sequence of {longest} positions is longer than model.max_length "
                f"{self.config.max_length}: shorten it or raise max_length"
            )
        steps_T = torch.arange(num_new, device=x_BTD.device)
        if documents_BT is not None:
            return _positions_in_documents(documents_BT)
        if key_mask_BS is not None:
            counted = (key_mask_BS.long().cumsum(1) - 1).clamp(min=0)
            return counted + cache.next_position_B[:, None] if cache is not None else counted
        if cache is not None and cache.mask_BS is not None:
            return cache.next_position_B[:, None] + steps_T
        return steps_T + start

    def _bias(
        self,
        x_BTD: Tensor,
        key_mask_BS: Tensor | None,
        prefix_BT: Tensor | None,
        documents_BT: Tensor | None,
        cache: KVCache | PrefixCache | None,
    ) -> Tensor | None:
        """The additive bias of the self-attention, built once for all layers; None where the kernel needs none."""
        device, dtype = x_BTD.device, compute_dtype(x_BTD)
        num_new = x_BTD.shape[1]
        start = cache.length if cache is not None else 0
        total = start + num_new
        padded = key_mask_BS is not None or (cache is not None and cache.mask_BS is not None)
        if not padded and prefix_BT is None and documents_BT is None:
            if cache is None:
                # None asks the fused kernel for its own causal mask; the bmm path shares one bias among the layers.
                return causal_bias(num_new, total, dtype, device) if uses_bmm(device, total) else None
            return None if num_new == 1 else causal_bias(num_new, total, dtype, device)
        query = torch.arange(start, total, device=device)
        key = torch.arange(total, device=device)
        allowed = key[None, None, :] <= query[None, :, None]
        if prefix_BT is not None:
            allowed = allowed | prefix_BT[:, None, :]
        if documents_BT is not None:
            allowed = allowed & (documents_BT[:, :, None] == documents_BT[:, None, :])
        if padded:
            real = torch.ones(len(x_BTD), total, dtype=torch.bool, device=device)
            if cache is not None and cache.mask_BS is not None:
                real[:, :start] = cache.mask_BS[:, :start]
            if key_mask_BS is not None:
                real[:, start:] = key_mask_BS
            allowed = allowed & real[:, None, :]
        # A padding query sees itself: its output is never read, but a row without any key would give NaN gradients.
        allowed = allowed | (key[None, None, :] == query[None, :, None])
        return additive(allowed, dtype)[:, None]


def _reads(reads_BR: Tensor, x_BTD: Tensor, rotary: tuple[Tensor, Tensor] | None, bias: Tensor | None) -> Reads:
    """What the attention of the last block needs for these positions alone."""
    if bias is None:
        bias = causal_bias(x_BTD.shape[1], x_BTD.shape[1], compute_dtype(x_BTD), x_BTD.device)

    def at_reads(table: Tensor) -> Tensor:
        """B1R… of T…, the same in every row, or of B1T…."""
        if table.dim() == 2:
            return table[reads_BR][:, None]
        return table[:, 0].gather(1, reads_BR[..., None].expand(-1, -1, table.shape[3]))[:, None]

    turned = None if rotary is None else (at_reads(rotary[0]), at_reads(rotary[1]))
    return Reads(reads_BR, turned, at_reads(bias))


def _positions_in_documents(documents_BT: Tensor) -> Tensor:
    """positions_BT that start again at 0 wherever the document id changes."""
    steps = torch.arange(documents_BT.shape[1], device=documents_BT.device).expand_as(documents_BT)
    starts = torch.ones_like(documents_BT, dtype=torch.bool)
    starts[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    first = torch.where(starts, steps, torch.zeros_like(steps)).cummax(dim=1).values
    return steps - first
