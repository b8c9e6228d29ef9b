"""Every medium of a run, decoded or encoded once.

Shape suffixes: P = positions of a medium, F = features of a position.
"""

import bisect
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from core.training import distributed
from core.training.runtime import Runtime
from multimodal.encoders.cache import encode_media, load_media
from multimodal.encoders.encoder import Encoder
from multimodal.examples import Example, Kind, Medium
from multimodal.media.errors import MediaError

TELL_EVERY_S = 5.0
"""Seconds between two lines of progress."""


class Inputs(Sequence[Tensor]):
    """Several sequences of inputs behind one another, each in memory or decoded on demand."""

    def __init__(self) -> None:
        self._parts: list[Sequence[Tensor]] = []
        self._starts: list[int] = []
        self._length = 0

    def extend(self, part: Sequence[Tensor]) -> None:
        """Put a sequence behind the others."""
        self._starts.append(self._length)
        self._parts.append(part)
        self._length += len(part)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        part = bisect.bisect_right(self._starts, index) - 1
        return self._parts[part][index - self._starts[part]]


class MediaStore:
    """What encoders take of media, or for frozen ones their features; a medium used twice is kept once.

    Args:
        encoders: by kind.
        runtime: device and precision of encoding.
        folder: where features of frozen encoders are kept between runs; None keeps nothing.
        max_bad_fraction: share of the media of a kind that may be damaged.
        keep: hold decoded media; otherwise encoders that are trained get them decoded whenever they are asked for.
        tell: called with a line about progress.
    """

    def __init__(
        self,
        encoders: Mapping[Kind, Encoder],
        runtime: Runtime,
        *,
        folder: Path | None = None,
        max_bad_fraction: float = 0.0,
        keep: bool = True,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.encoders = encoders
        self.runtime = runtime
        self.folder = folder
        self.max_bad_fraction = max_bad_fraction
        self.keep = keep
        self.tell = tell
        self.inputs: dict[Kind, Inputs] = {kind: Inputs() for kind in encoders}
        self.num_positions: dict[Kind, list[int]] = {kind: [] for kind in encoders}
        """Encoded positions of each."""
        self.bad: list[MediaError] = []
        self._index: dict[tuple[Kind, str | int], int] = {}
        self._seen: set[tuple[Kind, str | int]] = set()
        """The damaged ones too, so that they are tried and counted once."""
        self._media: list[Medium] = []
        """Keeps what is known by its identity from being replaced by another object."""

    def beside(self) -> "MediaStore":
        """An empty store with the same encoders, for media that are seen once: nothing of it is kept on disk."""
        return MediaStore(self.encoders, self.runtime)

    def add(self, examples: Iterable[Example]) -> list[Example]:
        """Take in the media of examples; returns the examples all of whose media can be used.

        Raises:
            ValueError: a kind of media for which there is no encoder.
            TooManyBadFiles: too many files are damaged.
        """
        examples = list(examples)
        fresh: dict[Kind, dict[tuple[Kind, str | int], Medium]] = {kind: {} for kind in self.encoders}
        for example in examples:
            for medium in example.media:
                if medium.kind not in self.encoders:
                    raise ValueError(
                        f"{example.key or medium.name} has a medium of kind {medium.kind}, "
                        f"and this run reads {', '.join(self.encoders)} only"
                    )
                if medium.identity not in self._seen:
                    fresh[medium.kind][medium.identity] = medium
        for kind, by_key in fresh.items():
            if by_key:
                # In one order whatever the examples' is, so that all splits of a set share an entry of the cache.
                media = list(by_key.values())
                if all(isinstance(medium.source, Path) for medium in media):
                    media.sort(key=lambda medium: medium.name)
                self._take(kind, media)
        return [example for example in examples if all(self.holds(medium) for medium in example.media)]

    def index(self, medium: Medium) -> int:
        """Where a medium that was added is among those of its kind."""
        return self._index[medium.identity]

    def holds(self, medium: Medium) -> bool:
        """Whether it was added and could be used."""
        return medium.identity in self._index

    def notes(self, num_train: int, num_test: int) -> list[str]:
        """For a report: how many examples there are, how many media could not be used, who encodes them."""
        damage = f"{len(self.bad)} media could not be used" + "".join(f"; {error}" for error in self.bad[:10])
        counts = f"{num_train:,} training and {num_test:,} test examples; {damage}"
        return [counts, *(f"{kind}: {encoder.name}" for kind, encoder in self.encoders.items())]

    def features(self, medium: Medium) -> Tensor:
        """Its stored (P, F) features, or the input of an encoder that is trained."""
        return self.inputs[medium.kind][self.index(medium)]

    def _take(self, kind: Kind, media: Sequence[Medium]) -> None:
        encoder = self.encoders[kind]
        told = self._progress(kind)
        if encoder.frozen:
            if self.folder is not None and not distributed.is_main():
                distributed.barrier()  # the main process encodes; the others find it done
            try:
                done = encode_media(
                    media, encoder, self.runtime, folder=self.folder,
                    max_bad_fraction=self.max_bad_fraction, on_progress=told,
                )  # fmt: skip
            finally:
                if self.folder is not None and distributed.is_main():
                    distributed.barrier()  # after an error too, which the others then meet themselves
            counts = done.lengths
        else:
            done = load_media(media, encoder, max_bad_fraction=self.max_bad_fraction, keep=self.keep, on_progress=told)
            counts = [encoder.num_positions(length) for length in done.lengths]
        for place, index in enumerate(done.kept, start=len(self.inputs[kind])):
            self._index[media[index].identity] = place
        self.inputs[kind].extend(done.inputs)
        self.num_positions[kind] += counts
        self._seen.update(medium.identity for medium in media)
        self._media += media
        self.bad += done.bad

    def _progress(self, kind: Kind) -> Callable[[int, int], None] | None:
        """Says now and then how far reading is: it can take longer than training."""
        if self.tell is None:
            return None
        tell, began = self.tell, time.perf_counter()
        verb = "encoded" if self.encoders[kind].frozen else "read"
        told_s = began

        def told(done: int, total: int) -> None:
            nonlocal told_s
            now = time.perf_counter()
            if now - told_s >= TELL_EVERY_S:
                told_s = now
                rate = done / (now - began)
                left = (total - done) / rate
                tell(f"{verb} {done:,} of {total:,} media of kind {kind}, {rate:,.0f} a second, {left:,.0f} s left")

        return told
