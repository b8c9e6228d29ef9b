"""Hidden states of some positions only: the same as without, in all kinds of masks, and so are the gradients."""

from typing import Any

import pytest
import torch

from core.config import ModelConfig
from core.nn.lstm import LSTM
from core.nn.transformer import Transformer
from core.nn.window import WindowMLP

CLOSE = {"atol": 1e-6, "rtol": 1e-5}


def model(**changes: Any) -> Transformer:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"width": 32, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "max_length": 16}
    made = Transformer(ModelConfig(vocab_size=11, **{**settings, **changes}))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # output projections that start at 0 would hide mistakes
    return made


def tokens() -> torch.Tensor:
    return torch.randint(11, (3, 9), generator=torch.Generator().manual_seed(1))


BEGINS = torch.arange(9)[None] < torch.tensor([[4], [2], [0]])


@pytest.mark.parametrize(
    ("shape", "inputs"),
    [
        ({}, {}),
        ({}, {"prefix_BT": BEGINS}),
        ({}, {"key_mask_BS": ~BEGINS}),
        ({}, {"documents_BT": (torch.arange(9) // 4).expand(3, 9)}),
        ({"positions": "learned", "norm": "layer", "activation": "gelu", "qk_norm": False}, {}),
        ({"cross_attention_every": 1}, {"memory_BMD": torch.randn(3, 5, 32)}),
        ({"num_layers": 1}, {}),
    ],
)
def test_some_positions_are_as_among_all(shape: dict[str, Any], inputs: dict[str, Any]) -> None:
    made = model(**shape)
    reads_BR = torch.tensor([[4, 8, 5], [2, 3, 7], [8, 8, 1]])
    whole = made(tokens(), **inputs)[torch.arange(3)[:, None], reads_BR]
    some = made(tokens(), reads_BR=reads_BR, **inputs)
    torch.testing.assert_close(some, whole, **CLOSE)
    weights = torch.randn(whole.shape)
    gradients = [torch.autograd.grad((out * weights).sum(), list(made.parameters())[:-1]) for out in (whole, some)]
    for expected, found in zip(*gradients):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("padding", [None, ~BEGINS])
@pytest.mark.parametrize("made", [LSTM(11, 8, 12), WindowMLP(11, 8, window=4)], ids=["lstm", "mlp"])
def test_some_positions_of_other_networks(made: LSTM | WindowMLP, padding: torch.Tensor | None) -> None:
    reads_BR = torch.tensor([[4, 8, 5], [2, 3, 7], [8, 8, 1]])
    whole = made(tokens(), key_mask_BS=padding)[torch.arange(3)[:, None], reads_BR]
    torch.testing.assert_close(made(tokens(), key_mask_BS=padding, reads_BR=reads_BR), whole, **CLOSE)
