"""A fresh language model of either kind, from one description of its shape."""

from typing import Literal

from core.config import ModelConfig
from core.nn.lstm import LSTM
from core.nn.transformer import Transformer


def build_network(network: Literal["transformer", "lstm"], shape: ModelConfig) -> Transformer | LSTM:
    """A fresh network.

    Args:
        network: its kind.
        shape: an LSTM takes vocabulary size, width, number of layers and dropout from it.
    """
    if network == "lstm":
        return LSTM(shape.vocab_size, shape.width, shape.width, num_layers=shape.num_layers, dropout=shape.dropout)
    return Transformer(shape)
