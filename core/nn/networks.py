"""A fresh language model of either kind, from one description of its shape."""

from dataclasses import replace
from typing import Literal

from torch import nn

from core.config import ModelConfig
from core.nn.lstm import LSTM
from core.nn.transformer import Transformer
from core.nn.window import WindowMLP

LanguageNetwork = Transformer | LSTM | WindowMLP


def set_dropout(model: nn.Module, dropout: float) -> None:
    """Give every layer of a language model another dropout, for a phase of training that needs more or less of it."""
    for module in model.modules():
        if isinstance(module, Transformer):
            module.config = replace(module.config, dropout=dropout)
        # torch's LSTM drops between stacked layers alone, and complains where there is one.
        elif isinstance(getattr(module, "dropout", None), float) and getattr(module, "num_layers", 2) > 1:
            module.dropout = dropout  # type: ignore[assignment]


def build_network(network: Literal["transformer", "lstm", "mlp"], shape: ModelConfig) -> LanguageNetwork:
    """A fresh network.

    Args:
        network: its kind.
        shape: an LSTM takes vocabulary size, width, number of layers and dropout from it; an MLP over the last tokens
            vocabulary size, width and number of layers, and sees `max_length` tokens.
    """
    if network == "lstm":
        return LSTM(shape.vocab_size, shape.width, shape.width, num_layers=shape.num_layers, dropout=shape.dropout)
    if network == "mlp":
        return WindowMLP(shape.vocab_size, shape.width, window=shape.max_length, num_layers=shape.num_layers)
    return Transformer(shape)
