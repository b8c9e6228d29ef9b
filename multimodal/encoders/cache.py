"""Encode pictures once: features on disk, found again by what the pictures and the encoder are.

Shape suffixes: N = usable pictures, B = pictures of a batch, P = positions of a picture, F = features of a position;
3HW = colour, height, width.

A cache entry is one safetensors file; its name is a hash of the encoder's name (architecture, weights, preprocessing)
and of the content of every picture, in order. Nothing is ever removed from the cache folder: delete it at will.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from core.pretrained.sources import cache_dir
from multimodal.media import MediaError, TooManyBadFiles, iterate_images

BATCH_SIZE = 8
"""Pictures encoded at a time. On a CPU small batches stay in its cache: 8 is the fastest for EfficientNet-Lite0."""

_FORMAT = 1
_log = logging.getLogger(__name__)


class ImageEncoder(Protocol):
    """What `encode_images` needs of a frozen encoder (`multimodal.encoders.grid`)."""

    @property
    def name(self) -> str:
        """Names the features: it differs whenever they would."""
        ...

    @property
    def image_side(self) -> int:
        """Pixels a side of the pictures it takes."""
        ...

    def encode(self, images_B3HW: Tensor) -> Tensor:
        """features_BPF of uint8 pictures."""
        ...


@dataclass(frozen=True)
class EncodedImages:
    """The features of the usable pictures of a list of files."""

    features_NPF: Tensor
    """float16: half the disk and memory, and finer than bfloat16."""
    kept: list[int]
    """Which of the given paths they are, in order."""
    bad: list[MediaError]
    """The others."""
    file: Path
    """Where they are kept."""
    was_cached: bool


def encode_images(
    paths: Sequence[Path],
    encoder: ImageEncoder,
    *,
    folder: Path | None = None,
    max_bad_fraction: float = 0.01,
    batch_size: int = BATCH_SIZE,
    on_progress: Callable[[int, int], None] | None = None,
) -> EncodedImages:
    """Features of pictures, from the cache where they have been computed before.

    The first and every later call give the same bits: both are rounded to float16.

    Args:
        paths: picture files; damaged ones are skipped and named in the result.
        encoder: a frozen encoder.
        folder: cache folder; by default `features` in Trillium's cache.
        max_bad_fraction: share of the pictures that may be damaged.
        batch_size: pictures encoded at a time.
        on_progress: called with the number of pictures done and of all pictures.

    Raises:
        TooManyBadFiles: more pictures are damaged than that, whether they come from the cache or not.
    """
    folder = folder or cache_dir() / "features"
    file = folder / f"{features_key(paths, encoder.name)}.safetensors"
    if file.is_file():
        try:
            return _check_bad(_read(file, paths), len(paths), max_bad_fraction)
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            _log.warning("%s cannot be used (%s): the pictures are encoded again", file, error)
    bad: list[MediaError] = []
    kept: list[int] = []
    parts: list[Tensor] = []
    for indices, images_B3HW in iterate_images(
        paths, side=encoder.image_side, batch_size=batch_size, bad=bad, max_bad_fraction=max_bad_fraction
    ):
        features_BPF = encoder.encode(images_B3HW).to("cpu", torch.float16)
        if not features_BPF.isfinite().all():
            raise ValueError(f"the encoder {encoder.name} gave a non-finite feature for one of {paths[indices[0]]}, …")
        parts.append(features_BPF)
        kept += indices
        if on_progress is not None:
            on_progress(indices[-1] + 1, len(paths))
    if not parts:
        raise ValueError("there is no picture to encode")
    features_NPF = torch.cat(parts)
    _write(file, features_NPF, kept, bad, encoder.name)
    return EncodedImages(features_NPF, kept, bad, file, was_cached=False)


def features_key(paths: Sequence[Path], encoder_name: str) -> str:
    """Hash of an encoder's name and of the content of files, in order; a file that cannot be read counts as empty."""
    digest = hashlib.sha256(f"{_FORMAT}\n{encoder_name}\n".encode())
    for path in paths:
        try:
            with Path(path).open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError:
            digest.update(b"unreadable")
    return digest.hexdigest()[:32]


def _write(file: Path, features_NPF: Tensor, kept: list[int], bad: list[MediaError], name: str) -> None:
    """In one atomic step: a reader sees the whole file or none."""
    missing = set(range(len(kept) + len(bad))) - set(kept)
    record = {
        "kept": kept,
        "bad": [[index, error.reason] for index, error in zip(sorted(missing), bad)],
        "encoder": name,
        "sha256": _hash(features_NPF),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(prefix=".part-", suffix=".safetensors", dir=file.parent)
    os.close(handle)
    try:
        save_file({"features": features_NPF}, part, metadata={"record": json.dumps(record)})
        os.replace(part, file)
    finally:
        Path(part).unlink(missing_ok=True)


def _read(file: Path, paths: Sequence[Path]) -> EncodedImages:
    with safe_open(file, framework="pt") as stored:
        record = json.loads(stored.metadata()["record"])
        features_NPF = stored.get_tensor("features")
    if _hash(features_NPF) != record["sha256"]:
        raise ValueError("its content is damaged")
    bad = [MediaError(paths[index], reason) for index, reason in record["bad"]]
    if len(features_NPF) != len(record["kept"]) or len(record["kept"]) + len(bad) != len(paths):
        raise ValueError("it holds other pictures")
    return EncodedImages(features_NPF, record["kept"], bad, file, was_cached=True)


def _check_bad(encoded: EncodedImages, total: int, max_bad_fraction: float) -> EncodedImages:
    if len(encoded.bad) > max_bad_fraction * total:
        raise TooManyBadFiles(encoded.bad, total, max_bad_fraction)
    return encoded


def _hash(features_NPF: Tensor) -> str:
    return hashlib.sha256(features_NPF.contiguous().numpy().data).hexdigest()
