"""What a data set is made of: media, and texts that belong to them. Imports no torch until a medium is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["image", "audio", "video"]
KINDS: tuple[Kind, ...] = ("image", "audio", "video")
Scoring = Literal["captions", "words", "answers", "classes"]


@dataclass(frozen=True)
class Medium:
    """One picture, sound or clip: a file, its decoded content, or a function that makes the content.

    Decoded, a picture is uint8 (3, height, width), a sound a float32 waveform (samples,) in [-1, 1], a clip uint8
    (frames, 3, height, width).
    """

    kind: Kind
    source: Path | Tensor | Callable[[], Tensor]
    rate: float = 0.0
    """Of decoded content: samples a second of a sound, frames a second of a clip. A file knows its own."""

    @property
    def name(self) -> str:
        """For messages: the file, what the source says in `where`, or the kind of content without either."""
        own = str(self.source) if isinstance(self.source, Path) else getattr(self.source, "where", None)
        return own if isinstance(own, str) else f"{self.kind} without a file"

    @property
    def identity(self) -> tuple[Kind, str | int]:
        """Equal for two mentions of one medium: of one file, or of the same object in memory."""
        return self.kind, str(self.source) if isinstance(self.source, Path) else id(self.source)


Part: TypeAlias = "str | Medium"


@dataclass(frozen=True)
class Example:
    """Media and text to read, and what may be said about them."""

    prompt: tuple[Part, ...]
    """In the order in which the model reads them; any number of media, of any kinds, between any texts."""
    targets: tuple[str, ...]
    """Captions, transcripts or answers: all are learnt. All are references of captions and answers; transcripts and
    classes are scored against the first."""
    key: str = ""
    """Names the example in messages and reports; unique within a data set."""
    group: str = ""
    """What scores are also given for apart, such as the kind of question; empty for none."""

    @property
    def media(self) -> list[Medium]:
        """The media of the prompt, in order."""
        return [part for part in self.prompt if isinstance(part, Medium)]


@dataclass(frozen=True)
class Examples:
    """Examples to learn from, and others to be scored on."""

    train: Sequence[Example]
    test: Sequence[Example]
    scoring: Scoring = "captions"
    """`captions`: BLEU, CIDEr-D and their kin; `words`: word and character error rate; `answers`: accuracy;
    `classes`: accuracy and F1 of single classes."""
    notes: Sequence[str] = field(default_factory=tuple)
    """For the report: where the data came from, and what is held out."""
