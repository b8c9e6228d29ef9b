"""Settings of a retrieval run. Imports no torch."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from core.config import OptimConfig, RunConfig, require
from multimodal.config import CaptioningConfig

HEAD_WIDTH = 64
"""Features of an attention head in both towers."""
CLIP_SIDE = 72
"""Pixels a side of pictures for the tower `open_clip`, where the config leaves them out."""


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig(RunConfig):
    """Train two towers, of media and of texts, whose vectors are close where a text describes a medium."""

    trainer: ClassVar[str] = "multimodal.retrieval.trainers:RetrievalTrainer"

    data: str = "twemoji"
    """A data set by name, with options (`moving_shapes:objects=2`); a manifest's path; or `my_module:my_function`."""
    test_fraction: float = 0.1
    """A manifest's share of examples held out for testing, where the manifest itself names no `split`."""
    max_bad_fraction: float = 0.01
    """Stop when more than this share of the media cannot be decoded; fewer are named, counted and skipped."""

    tower: Literal["open_clip", "features"] = "open_clip"
    """`open_clip`: a small CLIP model of open_clip, from scratch, pictures only; `features`: encoders for all kinds."""
    loss: Literal["clip", "siglip"] = "clip"
    """CLIP's softmax over the batch, or SigLIP's sigmoid of every pair."""
    vector_width: int = 128
    """Numbers of the vectors that are compared."""
    media_width: int = 192
    """Width of the media tower."""
    media_layers: int = 4
    """Layers of the media tower; with `features`, of those behind the encoder."""
    text_width: int = 192
    """Width of the text tower."""
    text_layers: int = 3
    """Layers of the text tower."""
    max_text_tokens: int = 32
    """Longest text, begin and end counted; longer ones are an error."""
    dropout: float = 0.0
    """Of the towers of `features`, and on their features, while training."""
    word_dropout: float = 0.0
    """Share of the words that training reads as unknown, so that texts are not learnt by heart."""

    image_side: int | None = None
    """Pictures and frames are resized to this many pixels a side; `None`: 72 for `open_clip`, else as in captioning."""
    patch: int = 8
    """Pixels a side of the patches of `open_clip`."""
    augment: bool = False
    """While training, move pictures about (`open_clip`), or crop and recolour what trained encoders see."""

    image_encoder: str = "efficientnet_lite0"
    """Of `features`: as in captioning."""
    video_encoder: str = "efficientnet_lite0"
    """Of `features`: as in captioning."""
    audio_encoder: str = "spectrogram"
    """Of `features`: as in captioning."""
    train_encoders: bool = False
    """Train pretrained encoders too; otherwise their features are computed once and kept."""
    encoder_width: int = 192
    """Features per position of an encoder that starts from scratch."""
    grid: int = 3
    """Cells a side that a picture is divided into, by encoders that leave the choice."""
    num_frames: int = 8
    """Frames taken of a clip."""
    max_seconds: float = 30.0
    """Longest sound; longer ones count as files that cannot be used."""
    cache: Path | None = None
    """Folder of encoded media; `None` means `features` in Trillium's cache."""

    num_samples: int = 24
    """Queries in the report."""
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=1e-3, weight_decay=0.1, warmup_steps=50))
    """The optimiser."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.encoders()  # checks what both have
        for name in ("vector_width", "media_layers", "text_layers", "patch"):
            require(getattr(self, name) >= 1, f"{name} must be >= 1, got {getattr(self, name)}")
        for name in ("media_width", "text_width"):
            width = getattr(self, name)
            require(
                width >= HEAD_WIDTH and width % HEAD_WIDTH == 0,
                f"{name} must be a multiple of {HEAD_WIDTH}, got {width}",
            )
        require(self.max_text_tokens >= 3, f"max_text_tokens must be >= 3, got {self.max_text_tokens}")
        for name in ("dropout", "word_dropout"):
            require(0 <= getattr(self, name) < 1, f"{name} must be in [0, 1), got {getattr(self, name)}")
        require(
            self.tower != "open_clip" or self.clip_side % self.patch == 0,
            f"image_side {self.clip_side} must be a multiple of patch {self.patch}, so that all patches are equal",
        )
        require(
            self.tower != "open_clip" or not self.dropout,
            "dropout is of the tower `features`: open_clip's own towers have none, leave it at 0",
        )
        require(
            self.optim.accumulate == 1,
            "optim.accumulate must be 1: every pair of a batch is compared with all others, so it cannot be split",
        )
        require(self.batch_size >= 2, f"batch_size must be >= 2, or nothing is compared, got {self.batch_size}")

    @property
    def clip_side(self) -> int:
        """Pixels a side of the pictures of the tower `open_clip`."""
        return CLIP_SIDE if self.image_side is None else self.image_side

    def encoders(self) -> CaptioningConfig:
        """What `multimodal.encoders.build.build_encoder` takes."""
        return CaptioningConfig(
            data=self.data,
            test_fraction=self.test_fraction,
            max_bad_fraction=self.max_bad_fraction,
            image_encoder=self.image_encoder,
            video_encoder=self.video_encoder,
            audio_encoder=self.audio_encoder,
            train_encoders=self.train_encoders,
            encoder_width=self.encoder_width,
            augment=self.augment,
            image_side=self.image_side,
            # open_clip has patches of its own, so that the grid need not divide the picture.
            grid=self.grid if self.tower == "features" else 1,
            num_frames=self.num_frames,
            max_seconds=self.max_seconds,
            num_samples=self.num_samples,
        )
