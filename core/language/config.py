"""Settings of a language-model run. Imports no torch."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from core.config import ModelConfig, RunConfig


@dataclass(frozen=True, kw_only=True)
class LanguageConfig(RunConfig):
    """Train a language model on a text file."""

    trainer: ClassVar[str] = "core.language.trainers:LanguageTrainer"

    text: Path | None = None
    """Text, JSON-lines, CSV or Parquet file to learn; its last part is held out."""
    validation_fraction: float = 0.1
    """Share of the text, at its end, that is held out for validation."""
    tokenizer: Literal["char", "byte", "bpe"] = "char"
    """Units of text: characters, bytes, or byte-pair merges trained on the text."""
    bpe_size: int = 4096
    """Vocabulary size of a `bpe` tokenizer."""
    length: int = 256
    """Tokens the model sees at once."""
    label_smoothing: float = 0.0
    """Share of the probability that the targets spread over the vocabulary."""
    init_from: Path | None = None
    """Hugging Face folder, .gguf file or run to start from, with its tokenizer, instead of fresh weights."""
    model: ModelConfig = field(default_factory=lambda: ModelConfig(width=192, num_layers=6, num_heads=3))
    """Shape of a fresh model; the vocabulary size comes from the tokenizer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction must be in (0, 1), got {self.validation_fraction}")
        if self.length < 1:
            raise ValueError(f"length must be >= 1, got {self.length}")
