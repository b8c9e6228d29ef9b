"""Settings of a captioning run. Imports no torch."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from core.config import ModelConfig, RunConfig, require

Encoder = Literal["efficientnet_lite0", "pixels"]
TokenizerKind = Literal["word", "char", "bpe"]


@dataclass(frozen=True, kw_only=True)
class CaptioningConfig(RunConfig):
    """Train a captioner on pictures with captions: Twemoji, or a folder of one's own."""

    trainer: ClassVar[str] = "multimodal.trainers:CaptioningTrainer"

    data: str = "twemoji"
    """`twemoji`, or the path of your manifest, JSON lines or CSV with `image` and `caption`, near the pictures."""
    split: Literal["A", "B", "C"] = "C"
    """Twemoji only. A: random pictures held out; B: unseen emoji; C: unseen combinations of emoji and skin tone."""
    test_fraction: float = 0.1
    """A manifest's share of pictures held out for testing, where the manifest itself names no `split`."""
    max_bad_fraction: float = 0.01
    """Stop when more than this share of the pictures cannot be decoded; fewer are named, counted and skipped."""
    encoder: Encoder = "efficientnet_lite0"
    """Frozen picture encoder: ImageNet features, or `pixels`, which needs no weights."""
    image_side: int = 144
    """Pictures are resized to this many pixels a side before they are encoded."""
    grid: int = 3
    """Cells a side that a picture is divided into; each becomes one prefix position."""
    cache: Path | None = None
    """Folder of encoded pictures; `None` means `features` in Trillium's cache."""
    tokenizer: TokenizerKind = "word"
    """Units of the captions: words, characters, or byte-pair merges trained on the captions."""
    bpe_size: int = 2048
    """Vocabulary size of a `bpe` tokenizer."""
    max_caption_tokens: int = 32
    """Longest caption, end-of-sequence counted; longer training captions are an error."""
    bidirectional: bool = True
    """Let the positions of the picture see one another in both directions."""
    prefix_dropout: float = 0.0
    """Dropout on the picture's features while training."""
    blank_probability: float = 0.0
    """Share of training captions whose picture is replaced by the average one, so that the model can do without."""
    label_smoothing: float = 0.1
    """Share of the probability that the targets spread over the vocabulary while training."""
    beams: int = 1
    """Beam width when captions are generated for scores and samples; 1 is greedy."""
    num_samples: int = 24
    """Pictures in the report."""
    model: ModelConfig = field(default_factory=lambda: ModelConfig(width=256, num_layers=4, num_heads=4, dropout=0.1))
    """Shape of the language model; its vocabulary size comes from the tokenizer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.data != "", "data must be `twemoji` or the path of a manifest")
        require(0 < self.test_fraction < 1, f"test_fraction must be in (0, 1), got {self.test_fraction}")
        require(0 <= self.max_bad_fraction <= 1, f"max_bad_fraction must be in [0, 1], got {self.max_bad_fraction}")
        require(self.grid >= 1, f"grid must be >= 1, got {self.grid}")
        require(self.image_side >= 8, f"image_side must be >= 8, got {self.image_side}")
        require(
            self.image_side % self.grid == 0,
            f"image_side {self.image_side} must be a multiple of grid {self.grid}, so that all cells are equal",
        )
        require(self.max_caption_tokens >= 2, f"max_caption_tokens must be >= 2, got {self.max_caption_tokens}")
        require(self.beams >= 1, f"beams must be >= 1, got {self.beams}")
        require(self.num_samples >= 0, f"num_samples must be >= 0, got {self.num_samples}")
        for name in ("prefix_dropout", "blank_probability", "label_smoothing"):
            value = getattr(self, name)
            require(0 <= value < 1, f"{name} must be in [0, 1), got {value}")
        room = self.grid**2 + 1 + self.max_caption_tokens
        require(
            room <= self.model.max_length,
            f"model.max_length {self.model.max_length} is too short for {self.grid**2} picture positions, "
            f"the begin token and {self.max_caption_tokens} caption tokens: it must be >= {room}",
        )
