"""Data and pretrained weights that ship inside ordinary packages: the way from a name in the catalogue to a path.

A name is looked for in three places, in this order:
1. a local folder: the argument `folder`, else the environment variable `TRILLIUM_DATA`;
2. the installed package;
3. our cache: `$TRILLIUM_CACHE`, else `~/.cache/trillium`.
The local folder and the cache have the same layout (`NAME-VERSION/FILE`), so copying a cache to a machine without
network is enough. Whatever is found is compared with the SHA-256 in the table before its path is given out.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core.errors import UserError
from core.pretrained.catalogue import SOURCES, Source

Place = Literal["folder", "installed", "cache", "missing"]


class MissingData(UserError):
    """The data or weights are not on this machine; the message says how to get them."""


class DamagedData(UserError):
    """The data or weights are there, but differ from the table."""


def source(name: str) -> Source:
    """The table's entry for a name. Raises `ValueError` listing the known names."""
    if name not in SOURCES:
        raise ValueError(f"no data named {name!r}; known: {', '.join(SOURCES)}")
    return SOURCES[name]


def cache_dir() -> Path:
    """Our cache: `$TRILLIUM_CACHE`, else `~/.cache/trillium`. Not created here."""
    given = os.environ.get("TRILLIUM_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "trillium"


def locate(name: str, *, folder: Path | None = None, verify: bool = True) -> Path:
    """Path of a source's wanted file or folder on this machine.

    A pickled checkpoint of an installed package is converted into the cache on the first call.

    Args:
        name: a name in `SOURCES`.
        folder: a local data folder that comes first; by default `$TRILLIUM_DATA`.
        verify: compare the content with the hash in the table.

    Raises:
        ValueError: an unknown name, or a local folder that does not exist.
        MissingData: it is in none of the places.
        DamagedData: it is there, but is not what the table says.
    """
    entry = source(name)
    damaged: DamagedData | None = None
    for place, path in _candidates(entry, folder):
        try:
            if verify or entry.is_pickle:
                _check(entry, path)
        except DamagedData as error:
            # Another version of a package may be installed for other reasons; our cache can still hold the listed one.
            if place != "installed":
                raise
            damaged = error
            continue
        return store(entry, path) if entry.is_pickle and place == "installed" else path
    if damaged is not None:
        raise damaged
    raise MissingData(
        f"{entry.name} {entry.version} ({entry.purpose}; {entry.size_bytes / 1e6:.1f} MB) is not on this machine: "
        f"{entry.how_to_get}"
    )


@dataclass(frozen=True)
class Status:
    """Where one source stands on this machine."""

    source: Source
    place: Place
    path: Path | None


def status(*, folder: Path | None = None) -> list[Status]:
    """One line per source, in the table's order. Looks only; neither hashes nor converts."""
    return [Status(entry, *next(_candidates(entry, folder), ("missing", None))) for entry in SOURCES.values()]


def get(name: str, *, folder: Path | None = None) -> Path:
    """Path of a source, fetched into the cache if it is not on this machine yet.

    A damaged copy in the cache is fetched anew, and so is a package installed in another version.

    Raises:
        ValueError: an unknown name.
        MissingData: it could not be fetched; the message has the client's reason.
        DamagedData: what came differs from the table.
    """
    from core.pretrained.download import fetch

    entry = source(name)
    try:
        return locate(name, folder=folder)
    except MissingData:
        pass
    except DamagedData:
        if "folder" in (place for place, _ in _candidates(entry, folder)):
            raise
        shutil.rmtree(cache_dir() / entry.folder_name, ignore_errors=True)
    return fetch(entry)


def store(entry: Source, path: Path) -> Path:
    """Copy a source's checked file or folder into the cache, in one atomic step; pickles become safetensors.

    Returns:
        Its path in the cache.
    """
    final = cache_dir() / entry.folder_name
    final.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".part-{entry.folder_name.replace('/', '-')}-", dir=final.parent))
    try:
        target = part / entry.converted_name
        if entry.is_pickle:
            _convert_pickle(path, target)
        elif path.is_dir():
            shutil.copytree(path, target)
        else:
            shutil.copyfile(path, target)
        record = {
            "name": entry.name,
            "version": entry.version,
            "licence": entry.licence,
            "package_sha256": entry.sha256,
            "original_sha256": entry.wanted_sha256,
            "sha256": content_hash(target),
        }
        (part / "source.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        try:
            part.rename(final)
        except OSError:
            # Another process was first. Its copy was checked like ours, so ours may go.
            if not (final / "source.json").is_file():
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return final / entry.converted_name


def content_hash(path: Path) -> str:
    """SHA-256 of a file, or of the sorted lines "HASH  NAME" of all files in a folder and its folders.

    NAME is the path from the folder, with slashes.
    """
    if path.is_file():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    files = (file for file in path.rglob("*") if file.is_file())
    return listing_hash((file.relative_to(path).as_posix(), content_hash(file)) for file in files)


def listing_hash(named_hashes: Iterable[tuple[str, str]]) -> str:
    """SHA-256 over the sorted lines "HASH  NAME" of (name, hash) pairs."""
    digest = hashlib.sha256()
    for name, sha256 in sorted(named_hashes):
        digest.update(f"{sha256}  {name}\n".encode())
    return digest.hexdigest()


def _candidates(entry: Source, folder: Path | None) -> Iterator[tuple[Place, Path]]:
    """The places that hold something of the right name, best first."""
    if folder is None and os.environ.get("TRILLIUM_DATA"):
        folder = Path(os.environ["TRILLIUM_DATA"]).expanduser()
    if folder is not None:
        if not folder.is_dir():
            raise ValueError(f"the data folder {folder} does not exist (argument `folder` or TRILLIUM_DATA)")
        path = folder / entry.folder_name / entry.converted_name
        if path.exists():
            yield "folder", path
    cached = cache_dir() / entry.folder_name / entry.converted_name
    # A converted checkpoint goes before the installed one, which would be converted again.
    if entry.is_pickle and cached.exists():
        yield "cache", cached
    if entry.module and (spec := importlib.util.find_spec(entry.module)) and spec.submodule_search_locations:
        installed = Path(spec.submodule_search_locations[0]) / entry.wanted
        if installed.exists():
            yield "installed", installed
    if not entry.is_pickle and cached.exists():
        yield "cache", cached


def _check(entry: Source, path: Path) -> None:
    """Raises `DamagedData` unless the content is what the table, or for a conversion its record, says."""
    expected = entry.wanted_sha256
    if entry.is_pickle and path.suffix == ".safetensors":
        expected = _recorded_hash(entry, path)
    if expected and content_hash(path) != expected:
        raise DamagedData(
            f"{path} is not {entry.name} {entry.version} as listed (SHA-256 {expected[:12]}...): {entry.how_to_get}"
        )


def _recorded_hash(entry: Source, path: Path) -> str:
    try:
        record = json.loads((path.parent / "source.json").read_text(encoding="utf-8"))
        matches = record["original_sha256"] == entry.wanted_sha256
        return str(record["sha256"]) if matches else "of another original"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedData(
            f"{path.parent / 'source.json'} cannot be read ({error}): remove {path.parent}, then {entry.how_to_get}"
        ) from error


def _convert_pickle(path: Path, target: Path) -> None:
    import torch
    from safetensors.torch import save_file

    tensors = torch.load(path, map_location="cpu", weights_only=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, target)
