"""Encode media once: features on disk, found again by what the media and the encoder are.

Shape suffixes: N = media of a batch, P = positions of a medium, M = positions of all media, F = features of a position.

A cache entry is one safetensors file; its name is a hash of the encoder's name (architecture, weights, preprocessing),
of the precision, and of the content of every medium, in order. Nothing is ever removed from the cache folder: delete it
at will.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from core.training.runtime import Runtime
from multimodal.encoders.encoder import Encoder, pad_inputs
from multimodal.examples import Medium
from multimodal.media.decode import content
from multimodal.media.errors import MediaError, TooManyBadFiles

BATCH_SIZE = 8
"""Media encoded at a time. On a CPU small batches stay in its cache: 8 is the fastest for EfficientNet-Lite0."""
WINDOW = 128
"""Media decoded at a time and sorted by length, so that a batch has little padding."""

_FORMAT = 3
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Encoded:
    """What the usable ones of a list of media became."""

    inputs: Sequence[Tensor]
    """The features (P, F) of a frozen encoder, in float16: half the memory, and finer than bfloat16. For an encoder
    that is trained, what it takes."""
    lengths: list[int]
    """Positions of the features, or steps of the input, of each."""
    kept: list[int]
    """Which of the given media they are, in order."""
    bad: list[MediaError]
    """The others."""
    was_cached: bool = False


def load_media(
    media: Sequence[Medium],
    encoder: Encoder,
    *,
    max_bad_fraction: float = 0.0,
    keep: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> Encoded:
    """Decode media to what an encoder takes; name, count and skip the damaged ones.

    Args:
        media: of the encoder's kind.
        encoder: says in what form.
        max_bad_fraction: share of the media that may be damaged.
        keep: hold what was decoded. Otherwise it is decoded here to find its length and what is damaged, and again
            whenever it is asked for.
        on_progress: called with the number of media done and of all media.

    Raises:
        TooManyBadFiles: as soon as more are damaged than that, or all of them.
    """
    inputs: list[Tensor] = []
    lengths, kept, bad = [], [], []
    for index, medium in enumerate(media):
        try:
            loaded = encoder.load(medium)
            lengths.append(len(loaded))
            kept.append(index)
            if keep:
                inputs.append(loaded)
        except MediaError as error:
            bad.append(error)
            _require_few(bad, len(media), max_bad_fraction, encoder)
        if on_progress is not None:
            on_progress(index + 1, len(media))
    if keep:
        return Encoded(inputs, lengths, kept, bad)
    return Encoded(OnDemand([media[index] for index in kept], encoder), lengths, kept, bad)


class OnDemand(Sequence[Tensor]):
    """The inputs of media, decoded whenever one is asked for."""

    def __init__(self, media: Sequence[Medium], encoder: Encoder) -> None:
        self.media = media
        self.encoder = encoder

    def __len__(self) -> int:
        return len(self.media)

    def __getitem__(self, index: Any) -> Any:
        return self.encoder.load(self.media[index])


def encode_media(
    media: Sequence[Medium],
    encoder: Encoder,
    runtime: Runtime,
    *,
    folder: Path | None = None,
    max_bad_fraction: float = 0.0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Encoded:
    """Features of media, from the cache where they have been computed before.

    The first and every later call give the same bits: both are rounded to float16.

    Args:
        media: of the encoder's kind; damaged ones are skipped and named in the result.
        encoder: frozen.
        runtime: device and precision to compute in.
        folder: cache folder; None keeps nothing.
        max_bad_fraction: share of the media that may be damaged.
        on_progress: called with the number of media done and of all media.

    Raises:
        TooManyBadFiles: more are damaged than that, whether they come from the cache or not.
    """
    name = f"{encoder.name} {runtime.dtype}"
    file = None if folder is None else folder / f"{features_key(media, name)}.safetensors"
    if file is not None and file.is_file():
        try:
            found = _read(file, media)
            _require_few(found.bad, len(media), max_bad_fraction, encoder)
            return found
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("%s cannot be used (%s): the media are encoded again", file, error)
    inputs: list[Tensor] = []
    kept, bad = [], []
    for start in range(0, len(media), WINDOW):
        loaded = []
        stop = min(start + WINDOW, len(media))
        for index in range(start, stop):
            try:
                loaded.append(encoder.load(media[index]))
                kept.append(index)
            except MediaError as error:
                bad.append(error)
                _require_few(bad, len(media), max_bad_fraction, encoder)
        inputs += _encode(loaded, encoder, runtime)
        if on_progress is not None:
            on_progress(stop, len(media))
    encoded = Encoded(inputs, [len(one) for one in inputs], kept, bad)
    if file is not None and inputs:
        _write(file, encoded, name)
    return encoded


def features_key(media: Sequence[Medium], encoder_name: str) -> str:
    """Hash of an encoder's name and of the content of media, in order; a file that cannot be read counts as empty."""
    digest = hashlib.sha256(f"{_FORMAT}\n{encoder_name}\n".encode())
    for medium in media:
        if isinstance(medium.source, Path):
            try:
                with medium.source.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
            except OSError:
                digest.update(b"unreadable")
        else:
            try:
                made = content(medium).contiguous()
            except MediaError:
                digest.update(b"unreadable")
                continue
            digest.update(f"{medium.rate} {made.dtype} {tuple(made.shape)}".encode())
            digest.update(made.numpy().data)
    return digest.hexdigest()[:32]


@torch.no_grad()
def _encode(inputs: Sequence[Tensor], encoder: Encoder, runtime: Runtime) -> list[Tensor]:
    """float16 features (P, F) of each input, encoded with others of about its length."""
    encoder.to(runtime.device).eval()
    order = sorted(range(len(inputs)), key=lambda index: len(inputs[index]))
    features: dict[int, Tensor] = {}
    for batch in _batches(order, inputs):
        padded, lengths_N = pad_inputs([inputs[index] for index in batch])
        with runtime.autocast():
            features_NPF, mask_NP = encoder(padded.to(runtime.device), lengths_N.to(runtime.device))
        features_NPF = features_NPF.to("cpu", torch.float16)
        if not features_NPF.isfinite().all():
            raise ValueError(f"the encoder {encoder.name} gave a feature that is not finite, or too large for float16")
        for index, own_PF, mask_P in zip(batch, features_NPF, mask_NP.cpu()):
            features[index] = own_PF[mask_P].clone()
    return [features[index] for index in range(len(inputs))]


def _batches(order: Sequence[int], inputs: Sequence[Tensor]) -> Iterator[list[int]]:
    """Clips count by their frames, so that a batch stays small."""
    frames = max((len(inputs[index]) for index in order if inputs[index].dim() == 4), default=1)
    size = max(1, BATCH_SIZE // frames)
    for start in range(0, len(order), size):
        yield list(order[start : start + size])


def _require_few(bad: Sequence[MediaError], total: int, max_bad_fraction: float, encoder: Encoder) -> None:
    if bad and (len(bad) > max_bad_fraction * total or len(bad) == total):
        raise TooManyBadFiles(bad, total, max_bad_fraction, encoder.kind)


def _write(file: Path, encoded: Encoded, name: str) -> None:
    """In one atomic step: a reader sees the whole file or none."""
    missing = sorted(set(range(len(encoded.kept) + len(encoded.bad))) - set(encoded.kept))
    features_MF = torch.cat(list(encoded.inputs))
    record = {
        "kept": encoded.kept,
        "bad": [[index, error.reason] for index, error in zip(missing, encoded.bad)],
        "lengths": encoded.lengths,
        "encoder": name,
    }
    text = json.dumps(record)
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(prefix=".part-", suffix=".safetensors", dir=file.parent)
    os.close(handle)
    try:
        save_file({"features": features_MF}, part, metadata={"record": text, "sha256": _hash(features_MF, text)})
        os.replace(part, file)
    finally:
        Path(part).unlink(missing_ok=True)


def _read(file: Path, media: Sequence[Medium]) -> Encoded:
    with safe_open(file, framework="pt") as stored:
        text, expected = stored.metadata()["record"], stored.metadata()["sha256"]
        features_MF = stored.get_tensor("features")
    if _hash(features_MF, text) != expected:
        raise ValueError("its content is damaged")
    record = json.loads(text)
    bad = [MediaError(Path(media[index].name), reason) for index, reason in record["bad"]]
    inputs = list(features_MF.split(record["lengths"]))
    if len(inputs) != len(record["kept"]) or len(record["kept"]) + len(bad) != len(media):
        raise ValueError("it holds other media")
    return Encoded(inputs, record["lengths"], record["kept"], bad, was_cached=True)


def _hash(features_MF: Tensor, record: str) -> str:
    digest = hashlib.sha256(f"{record} {features_MF.dtype} {tuple(features_MF.shape)}".encode())
    digest.update(features_MF.contiguous().numpy().data)
    return digest.hexdigest()
