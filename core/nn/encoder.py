"""A bidirectional Transformer over embeddings: what encoders of pictures, sounds and clips are made of.

Shape suffixes: B = batch, S = positions, D = model width.
"""

import math

import torch
from torch import Tensor, nn

from core.config import ModelConfig
from core.nn.attention import additive, compute_dtype
from core.nn.block import Block, build_norm
from core.nn.rotary import rotary_table


class TransformerEncoder(nn.Module):
    """The blocks of the language model, each position seeing all others; rotary positions, final norm.

    Args:
        config: sizes; vocabulary and cross-attention are not used.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.positions != "rope" or config.cross_attention_every:
            raise ValueError("an encoder has rotary positions and no cross-attention: leave these options as they are")
        self.config = config
        self.layers = nn.ModuleList(Block(config, index) for index in range(config.num_layers))
        self.norm = build_norm(config)
        cos_SK, sin_SK = rotary_table(config.max_length, config.head_width, config.rope_theta, config.rope_scaling)
        self.rotary_cos_SK: Tensor
        self.rotary_sin_SK: Tensor
        self.register_buffer("rotary_cos_SK", cos_SK, persistent=False)
        self.register_buffer("rotary_sin_SK", sin_SK, persistent=False)
        for name, parameter in self.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.zeros_(parameter)  # every block starts as the identity, as in the language model
            elif parameter.dim() > 1:
                nn.init.normal_(parameter, std=1 / math.sqrt(parameter.shape[1]))

    def forward(self, x_BSD: Tensor, mask_BS: Tensor | None = None) -> Tensor:
        """hidden_BSD of embeddings.

        Args:
            x_BSD: embeddings.
            mask_BS: bool, True = a real position; padding is not attended to. None where there is none.
        """
        length = x_BSD.shape[1]
        if length > self.config.max_length:
            raise ValueError(f"{length} positions are more than max_length {self.config.max_length}: shorten the input")
        dtype = compute_dtype(x_BSD)
        rotary = self.rotary_cos_SK[:length].to(dtype), self.rotary_sin_SK[:length].to(dtype)
        if mask_BS is None:
            allowed = torch.ones(length, length, dtype=torch.bool, device=x_BSD.device)
        else:
            # A padding position sees itself: a row without any key would give NaN gradients.
            own = torch.eye(length, dtype=torch.bool, device=x_BSD.device)
            allowed = (mask_BS[:, None, :] | own)[:, None]
        bias = additive(allowed, dtype)
        for block in self.layers:
            x_BSD = block(x_BSD, rotary, bias)
        return self.norm(x_BSD)
