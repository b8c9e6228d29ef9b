"""Checkpoints: atomic, hashed directories of safetensors and JSON.

    checkpoints/step-00000500/tensors.safetensors    every tensor of the state
                              state.json             the rest of it, referring to the tensors by name
                              manifest.json          format, step, size and SHA-256 of the two, and of itself

A checkpoint is written into `.part-…` beside its final place, synced to the disk, and renamed. So a directory
with the final name is complete; whether its content is still what was written, the hashes tell. Local file systems
rename atomically; some network file systems do not.
"""

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file, save_file

from core.errors import UserError
from core.training.state import pack, unpack

FORMAT_VERSION = 1
TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
_NAME = re.compile(r"step-(\d{8,})")


class CorruptCheckpoint(UserError):
    """A checkpoint's files are not what was written. The message names the file and the reason."""


class UnknownFormat(UserError, ValueError):
    """A checkpoint in a format that this version cannot read."""


class CheckpointWriteError(UserError, OSError):
    """A checkpoint could not be written. Earlier checkpoints are untouched."""

    exit_code = 1


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint."""

    path: Path
    """Its directory."""
    step: int
    """Steps done when it was saved."""
    state: dict[str, Any]
    """What was given to `save`; tensors on the CPU."""


def path_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of this step lies."""
    return folder / f"step-{step:08d}"


def steps_in(folder: Path) -> list[int]:
    """Steps of the checkpoint directories in a folder, ascending; their content is not checked."""
    if not folder.is_dir():
        return []
    matches = (_NAME.fullmatch(entry.name) for entry in folder.iterdir())
    return sorted(int(match[1]) for match in matches if match)


def save(folder: Path, step: int, state: Mapping[str, Any], *, keep: int | None = None) -> Path:
    """Write a checkpoint; then delete the oldest beyond `keep`.

    Args:
        folder: the run's `checkpoints`; made if absent.
        step: steps done.
        state: nested dict of tensors and JSON values (`core.training.state.pack`).
        keep: how many checkpoints to leave; `None` deletes none.

    Returns:
        The checkpoint's directory.

    Raises:
        TypeError: the state holds something else; the message has its path, and nothing was written.
        CheckpointWriteError: the disk is full or not writable.
    """
    tensors, tree = pack(state)
    target = path_of(folder, step)
    part = folder / f".part-{step:08d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_parts(folder)
        part.mkdir()
        save_file(tensors, part / TENSORS)
        _write(part / STATE, json.dumps(tree, allow_nan=False).encode())
        for name in (TENSORS, STATE):
            _sync(part / name)
        manifest = {
            "format_version": FORMAT_VERSION,
            "step": step,
            "files": {
                name: {"bytes": (part / name).stat().st_size, "sha256": _sha256(part / name)}
                for name in (TENSORS, STATE)
            },
        }
        _write(part / MANIFEST, _seal(manifest))
        _sync(part / MANIFEST)
        _sync(part)
        if target.exists():  # a damaged one of the same step: `latest` skipped it, and it makes way
            shutil.rmtree(target)
        os.rename(part, target)
        _sync(folder)
    except (OSError, safetensors.SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise CheckpointWriteError(
            f"cannot write checkpoint {target}: {error} ({_free(folder)}). Earlier checkpoints are intact: "
            "free some space and run the same command again"
        ) from error
    if keep is not None:
        _prune(folder, target, keep)
    return target


def load(path: Path) -> Checkpoint:
    """Read a checkpoint and verify every byte.

    Args:
        path: a checkpoint's directory.

    Raises:
        CorruptCheckpoint: a file is missing or its content is not what was written.
        UnknownFormat: it was written in another format.
    """
    step = verify(path)
    try:
        tree = json.loads((path / STATE).read_text(encoding="utf-8"))
        # Copies: a file's tensors are mapped into memory, unaligned, and the file may be deleted by retention.
        tensors = {name: tensor.clone() for name, tensor in load_file(path / TENSORS).items()}
        state = unpack(tensors, tree)
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise CorruptCheckpoint(f"{path}: {error}") from error
    return Checkpoint(path, step, state)


def latest(folder: Path) -> Checkpoint | None:
    """The newest good checkpoint; damaged ones are skipped with a warning that names file and reason.

    Args:
        folder: the run's `checkpoints`.

    Returns:
        The checkpoint, or `None` when there is no good one.

    Raises:
        UnknownFormat: the newest intact checkpoint was written in another format.
    """
    for step in reversed(steps_in(folder)):
        try:
            return load(path_of(folder, step))
        except CorruptCheckpoint as error:
            warnings.warn(f"skipping a damaged checkpoint: {error}", stacklevel=2)
    return None


def verify(path: Path) -> int:
    """Check sizes and hashes of a checkpoint; return its step.

    Raises:
        CorruptCheckpoint: a file is missing or its content is not what was written.
        UnknownFormat: it was written in another format.
    """
    manifest = _read_manifest(path / MANIFEST)
    match = _NAME.fullmatch(path.name)
    if match and int(match[1]) != manifest["step"]:
        raise CorruptCheckpoint(f"{path / MANIFEST}: is of step {manifest['step']}")
    for name in (TENSORS, STATE):
        expected = manifest["files"][name]
        try:
            size = (path / name).stat().st_size
            if size != expected["bytes"]:
                raise CorruptCheckpoint(f"{path / name}: has {size} bytes, {expected['bytes']} were written")
            if _sha256(path / name) != expected["sha256"]:
                raise CorruptCheckpoint(f"{path / name}: its SHA-256 is not that of what was written")
        except OSError as error:
            raise CorruptCheckpoint(f"{path / name}: {error.strerror}") from error
    return int(manifest["step"])


def remove_parts(folder: Path) -> None:
    """Remove what a killed process left unfinished."""
    for part in folder.glob(".part-*"):
        shutil.rmtree(part)


def _prune(folder: Path, good: Path, keep: int) -> None:
    """Delete the oldest checkpoints beyond `keep`.

    `good` was written just now and stays, so one valid checkpoint always does. Those of later steps go first: training
    went on from before them, because they were damaged.
    """
    steps = steps_in(folder)
    present = int(good.name.removeprefix("step-"))
    earlier = [step for step in steps if step < present]
    for step in [step for step in steps if step > present] + earlier[: len(earlier) + 1 - keep]:
        shutil.rmtree(path_of(folder, step))


def _seal(manifest: dict[str, Any]) -> bytes:
    """The manifest with its own hash, so that a flipped bit in it is told from an unknown format."""
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    return json.dumps({**manifest, "sha256": digest}, indent=1).encode()


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
        manifest = json.loads(content)
        digest = manifest.pop("sha256")
        if _seal(manifest) != content or json.loads(_seal(manifest))["sha256"] != digest:
            raise CorruptCheckpoint(f"{path}: its SHA-256 is not that of what was written")
    except OSError as error:
        raise CorruptCheckpoint(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CorruptCheckpoint(f"{path}: is not a manifest ({error})") from error
    if manifest.get("format_version") != FORMAT_VERSION:
        raise UnknownFormat(
            f"{path}: checkpoint format {manifest.get('format_version')}, this Trillium reads format {FORMAT_VERSION}: "
            "use the version that wrote it"
        )
    return manifest


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)


def _sync(path: Path) -> None:
    """Ask the system to put a file or directory on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _free(folder: Path) -> str:
    while not folder.exists():
        folder = folder.parent
    return f"{shutil.disk_usage(folder).free / 1e6:.1f} MB free on the disk of {folder}"
