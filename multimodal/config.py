"""Settings of a captioning run. Imports no torch."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from core.config import ModelConfig, RunConfig, require
from multimodal.examples import Kind

Fusion = Literal["concat", "prefix", "gated_cross_attention", "perceiver", "qformer"]
TokenizerKind = Literal["word", "char", "bpe"]
MediaChange = Literal["none", "first_frame", "last_frame", "shuffled_frames", "reversed"]
LIBRARIES = ("torchvision", "timm", "open_clip")


@dataclass(frozen=True, kw_only=True)
class CaptioningConfig(RunConfig):
    """Train a language model that reads pictures, sounds and clips: captions, transcripts, answers."""

    trainer: ClassVar[str] = "multimodal.trainers:CaptioningTrainer"

    data: str = "twemoji"
    """A data set by name, with options (`moving_shapes:objects=2`); a manifest's path; or `my_module:my_function`."""
    test_fraction: float = 0.1
    """A manifest's share of examples held out for testing, where the manifest itself names no `split`."""
    scoring: Literal["captions", "words", "answers", "classes"] | None = None
    """BLEU and CIDEr-D, word error rate, accuracy, or F1 by class; `None`: as the data set says, else captions."""
    max_bad_fraction: float = 0.01
    """Stop when more than this share of the media cannot be decoded; fewer are named, counted and skipped."""
    media_change: MediaChange = "none"
    """What is done to all clips (or, `reversed`, sounds too), in training as well: a control that sees less."""

    image_encoder: str = "efficientnet_lite0"
    """`efficientnet_lite0`, `pixels`, `vit` (from scratch), `timm:NAME`, `torchvision:NAME`, `open_clip:NAME:TAG`."""
    video_encoder: str = "efficientnet_lite0"
    """A picture encoder, for every frame; `conv` (from scratch); or `torchvision_video:NAME`, such as `r2plus1d_18`."""
    audio_encoder: str = "spectrogram"
    """`spectrogram` (from scratch), `whisper` (the packaged tiny.en), or `whisper:FOLDER` that transformers saved."""
    train_encoders: bool = False
    """Train pretrained encoders too; see `optim.lr_scales`. Otherwise their features are computed once and kept."""
    encoder_width: int = 256
    """Features per position of an encoder that starts from scratch."""
    augment: bool = False
    """While training, crop and recolour pictures and cover parts of spectrograms, for encoders that are trained."""
    image_side: int | None = None
    """Pictures and frames are resized to this many pixels a side; `None`: what the encoder was made for, else 144."""
    grid: int = 3
    """Cells a side that a picture is divided into, by encoders that leave the choice; each is one position."""
    num_frames: int = 8
    """Frames taken of a clip."""
    frame_sampling: Literal["uniform", "stride", "segment"] = "uniform"
    """Evenly spaced; every `frame_stride`-th from the start; or the middle of equal segments."""
    frame_stride: int = 1
    """Of the sampling `stride`."""
    max_seconds: float = 30.0
    """Longest sound; longer ones count as files that cannot be used."""
    audio_pool: int = 4
    """Steps of 20 ms that one position of a sound spans; a power of two before a spectrogram."""
    keep_media: bool = True
    """Keep decoded media in memory for encoders that are trained; otherwise decode them for every batch."""
    workers: int = 0
    """Processes that make batches, where media are decoded for every batch."""
    cache: Path | None = None
    """Folder of encoded media; `None` means `features` in Trillium's cache."""

    fusion: Fusion = "prefix"
    """How media enter: one vector added to every embedding (`concat`), positions of the sequence, or a memory."""
    num_queries: int = 16
    """Embeddings that a medium becomes in a perceiver or Q-Former."""
    fusion_layers: int = 2
    """Layers of a perceiver or Q-Former."""
    media_dropout: float = 0.0
    """Dropout on the features of media while training."""
    blank_probability: float = 0.0
    """Share of training media that are blanked, so that the model can do without; see `multimodal.adapters.Adapter`."""

    tokenizer: TokenizerKind = "word"
    """Units of the texts: words, characters, or byte-pair merges trained on them. A pretrained model brings its own."""
    bpe_size: int = 2048
    """Vocabulary size of a `bpe` tokenizer."""
    max_target_tokens: int = 32
    """Longest caption or answer, end-of-sequence counted; longer ones are an error."""
    bidirectional: bool | None = None
    """Let the positions of a prompt, media included, see one another in both directions; `None`: in a fresh language
    model only, because a pretrained one has never seen it."""
    pack: bool = False
    """Put several examples into one row, about eight, for less padding; `model.max_length` is the limit."""
    bucket: bool = False
    """Make batches of examples of about equal length, for less padding."""
    label_smoothing: float = 0.1
    """Share of the probability that the targets spread over the vocabulary while training."""
    ctc_weight: float = 0.0
    """For speech: share of a second loss, by which the positions of a sound must spell the answer in order (CTC)."""
    init_from: Path | None = None
    """Hugging Face folder, .gguf file or run whose language model and tokenizer to start from; or `smollm2`."""
    init_layers: int | None = None
    """Keep only the first so many layers of the pretrained model, for speed; `None` keeps all."""
    lora_rank: int = 0
    """Train only low-rank updates of this rank of the language model's attention; 0 trains all of it."""
    beams: int = 1
    """Beam width when texts are generated for scores and samples; 1 is greedy."""
    num_samples: int = 24
    """Examples in the report."""
    model: ModelConfig = field(default_factory=lambda: ModelConfig(width=256, num_layers=4, num_heads=4, dropout=0.1))
    """Shape of a fresh language model, whose vocabulary is the tokenizer's; dropout of a pretrained one, too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.data != "", "data must name a data set, a manifest or a function")
        require(0 < self.test_fraction < 1, f"test_fraction must be in (0, 1), got {self.test_fraction}")
        require(0 <= self.max_bad_fraction <= 1, f"max_bad_fraction must be in [0, 1], got {self.max_bad_fraction}")
        known = ("efficientnet_lite0", "pixels", "vit")
        _require_picture_encoder("image_encoder", self.image_encoder, known)
        if not self.video_encoder.startswith("torchvision_video:"):
            _require_picture_encoder("video_encoder", self.video_encoder, (*known, "conv"))
        for name in ("image_encoder", "video_encoder"):
            require(
                self.train_encoders or not getattr(self, name).endswith(":random"),
                f"{name} {getattr(self, name)!r} starts from random weights: set train_encoders, or nothing of it "
                "would be learnt or kept",
            )
        require(
            self.audio_encoder in ("spectrogram", "whisper") or self.audio_encoder.startswith("whisper:"),
            f"audio_encoder must be `spectrogram`, `whisper` or `whisper:FOLDER`, got {self.audio_encoder!r}",
        )
        require(self.image_side is None or self.image_side >= 8, f"image_side must be >= 8, got {self.image_side}")
        at_least_one = (
            "grid", "encoder_width", "num_frames", "frame_stride", "audio_pool", "num_queries", "fusion_layers",
            "beams",
        )  # fmt: skip
        for name in at_least_one:
            require(getattr(self, name) >= 1, f"{name} must be >= 1, got {getattr(self, name)}")
        for name in ("num_samples", "lora_rank", "workers"):
            require(getattr(self, name) >= 0, f"{name} must be >= 0, got {getattr(self, name)}")
        require(0 < self.max_seconds <= 600, f"max_seconds must be in (0, 600], got {self.max_seconds}")
        require(self.max_target_tokens >= 2, f"max_target_tokens must be >= 2, got {self.max_target_tokens}")
        for name in ("media_dropout", "blank_probability", "label_smoothing", "ctc_weight"):
            value = getattr(self, name)
            require(0 <= value < 1, f"{name} must be in [0, 1), got {value}")
        require(
            not self.pack or self.fusion in ("prefix", "perceiver", "qformer"),
            f"pack needs media in the sequence: fusion {self.fusion} keeps them beside it, use prefix or perceiver",
        )
        require(
            self.ctc_weight == 0 or (self.fusion == "prefix" and not self.pack),
            f"ctc_weight needs every position of a sound in a row of its own: use fusion prefix (got {self.fusion}) "
            "without pack",
        )
        require(
            self.init_layers is None or (self.init_layers >= 1 and self.init_from is not None),
            "init_layers must be >= 1 and needs a pretrained model: set init_from",
        )
        require(self.lora_rank == 0 or self.init_from is not None, "lora_rank needs a pretrained model: set init_from")

    @property
    def is_bidirectional(self) -> bool:
        """`bidirectional`, settled."""
        return self.init_from is None if self.bidirectional is None else self.bidirectional

    def encoder_name(self, kind: Kind) -> str:
        """The encoder of a kind of media."""
        return {"image": self.image_encoder, "audio": self.audio_encoder, "video": self.video_encoder}[kind]


def _require_picture_encoder(option: str, name: str, known: tuple[str, ...]) -> None:
    library, _, rest = name.partition(":")
    require(
        name in known or (library in LIBRARIES and rest != ""),
        f"{option} must be one of {', '.join(known)}, or LIBRARY:NAME with {', '.join(LIBRARIES)}; got {name!r}",
    )
    require(
        library != "open_clip" or ":" in rest,
        f"{option} {name!r} lacks its weights: give open_clip:NAME:TAG, open_clip:NAME:FILE or open_clip:NAME:random",
    )
