"""What the tests of the core share: models with weights that leave no code path idle."""

import os
from collections.abc import Callable

import pytest
import torch

from core.config import ModelConfig
from core.nn.transformer import Transformer

# Nothing here may ask a network for anything.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


@pytest.fixture
def random_model() -> Callable[..., Transformer]:
    """A factory of small models in evaluation mode, all of whose parameters are random.

    Our own initialisation starts every block as the identity, which would hide a wrong rotation or a swapped norm.
    """

    def make(seed: int = 0, **fields: object) -> Transformer:
        settings = {"vocab_size": 97, "width": 64, "num_layers": 3, "num_heads": 4, "max_length": 128, **fields}
        model = Transformer(ModelConfig(**settings)).eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() > 1:
                    parameter.normal_(std=parameter.shape[1] ** -0.5, generator=generator)
                elif name.endswith("weight"):
                    parameter.uniform_(0.5, 1.5, generator=generator)
                else:
                    parameter.normal_(std=0.2, generator=generator)
        return model

    return make
