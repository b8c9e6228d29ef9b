"""Settings of a speaking run. Imports no torch."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from core.config import ModelConfig, RunConfig, require


@dataclass(frozen=True, kw_only=True)
class SpeakingConfig(RunConfig):
    """Train a language model to speak: it reads the letters of a text and writes the codes of its sound."""

    trainer: ClassVar[str] = "multimodal.speaking.trainer:SpeakingTrainer"

    data: str = "espeak"
    """`espeak` makes texts and speaks them; otherwise a manifest or data set of single sounds and their texts."""
    words: int = 50
    """Of `espeak`: size of the vocabulary."""
    longest: int = 3
    """Of `espeak`: words of the longest texts."""
    train_texts: int = 8000
    """Of `espeak`: texts to learn from."""
    test_texts: int = 64
    """Of `espeak`: held-out texts, none of them a training text."""
    voice: str = "en-us"
    """Of `espeak`: a language, or a language, `+` and a variant."""
    speed_wpm: int = 150
    """Of `espeak`: words a minute."""
    test_fraction: float = 0.1
    """A manifest's share of sounds held out for testing, where the manifest itself names no `split`."""
    max_seconds: float = 10.0
    """Longest sound of a manifest."""

    hop: int = 200
    """Samples, of 16,000 a second, between two frames of the codec."""
    chunk: int = 2
    """Neighbouring frames that one code stands for."""
    num_codes: int = 1024
    """Size of the codec's codebook."""

    label_smoothing: float = 0.0
    """Share of the probability that the targets spread over the vocabulary while training."""
    temperature: float = 0.3
    """When speaking: divides the logits; 0 takes the most likely code."""
    top_p: float = 0.9
    """When speaking: keep the fewest most likely codes whose probabilities add up to at least this."""
    judge: Path | None = None
    """Run directory of a captioning run that recognises speech; it listens to the test texts."""
    whisper: bool = True
    """Let Whisper tiny.en listen too, where transformers and its weights are on this machine."""
    num_samples: int = 24
    """Spoken texts in the report."""
    model: ModelConfig = field(default_factory=lambda: ModelConfig(width=192, num_layers=4, num_heads=3))
    """Shape of the language model; vocabulary and longest sequence come from the data."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.data != "", "data must be `espeak`, or name a manifest or a data set")
        require(0 < self.test_fraction < 1, f"test_fraction must be in (0, 1), got {self.test_fraction}")
        require(0 < self.max_seconds <= 60, f"max_seconds must be in (0, 60], got {self.max_seconds}")
        require(0 <= self.label_smoothing < 1, f"label_smoothing must be in [0, 1), got {self.label_smoothing}")
        require(64 <= self.hop <= 512, f"hop must be in [64, 512], half a window, got {self.hop}")
        require(1 <= self.chunk <= 8, f"chunk must be in [1, 8], got {self.chunk}")
        require(2 <= self.num_codes <= 6400, f"num_codes must be in [2, 6400], got {self.num_codes}")
        require(self.temperature >= 0, f"temperature must be >= 0, got {self.temperature}")
        require(0 < self.top_p <= 1, f"top_p must be in (0, 1], got {self.top_p}")
        require(self.num_samples >= 0, f"num_samples must be >= 0, got {self.num_samples}")
