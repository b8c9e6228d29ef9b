"""The table of data and weights: where a name is looked for, what is checked, and what is said when it is missing."""

import hashlib
import importlib.util
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from core.pretrained import download, sources
from core.pretrained.sources import DamagedData, MissingData, Source


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def listing(files: dict[str, bytes]) -> str:
    return sources.listing_hash((name, sha256(data)) for name, data in files.items())


FILES = {"b.txt": b"two", "a.txt": b"one"}


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """A source named `toy`, known to the table, not on the machine; the cache is a fresh folder."""
    entry = Source(
        name="toy",
        version="1.0",
        module="toy_module_of_this_test",
        wanted="assets/pictures",
        size_bytes=1_500_000,
        wanted_sha256=listing(FILES),
        licence="CC0-1.0",
        purpose="a toy",
    )
    monkeypatch.setattr(sources, "SOURCES", {"toy": entry})
    monkeypatch.setenv("TRILLIUM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TRILLIUM_DATA", raising=False)
    return entry


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: Source, files: dict[str, bytes] = FILES) -> Path:
    site = tmp_path / "site"
    folder = write(site / entry.module / entry.wanted, files)
    monkeypatch.syspath_prepend(str(site))
    return folder


def test_folder_hash_by_hand():
    # Sorted by name: a.txt before b.txt.
    text = f"{sha256(b'one')}  a.txt\n{sha256(b'two')}  b.txt\n"
    assert listing(FILES) == sha256(text.encode())


def test_missing_data_says_how_to_get_it(entry: Source):
    with pytest.raises(MissingData, match=r"toy 1\.0 \(a toy; 1\.5 MB\).*`trillium data get toy`"):
        sources.locate("toy")
    assert [(line.place, line.path) for line in sources.status()] == [("missing", None)]


def test_unknown_name_lists_the_known_ones(entry: Source):
    with pytest.raises(ValueError, match=r"no data named 'toi'; known: toy"):
        sources.locate("toi")


def test_local_folder_comes_before_the_package_and_the_package_before_the_cache(
    entry: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cached = sources.store(entry, write(tmp_path / "original", FILES))
    assert sources.locate("toy") == cached
    assert sources.content_hash(cached) == entry.wanted_sha256
    installed = install(tmp_path, monkeypatch, entry)
    assert sources.locate("toy") == installed
    local = write(tmp_path / "data" / "toy-1.0" / "pictures", FILES)
    assert sources.locate("toy", folder=tmp_path / "data") == local
    monkeypatch.setenv("TRILLIUM_DATA", str(tmp_path / "data"))
    assert sources.locate("toy") == local
    assert [line.place for line in sources.status()] == ["folder"]


def test_local_folder_that_does_not_exist_is_refused(entry: Source, tmp_path: Path):
    with pytest.raises(ValueError, match="does not exist"):
        sources.locate("toy", folder=tmp_path / "nowhere")


def test_damaged_content_is_not_given_out(entry: Source, tmp_path: Path):
    cached = sources.store(entry, write(tmp_path / "original", FILES))
    (cached / "a.txt").write_bytes(b"onE")
    with pytest.raises(DamagedData, match=r"is not toy 1\.0 as listed"):
        sources.locate("toy")
    assert sources.locate("toy", verify=False) == cached


def test_another_installed_version_gives_way_to_the_cache(
    entry: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    install(tmp_path, monkeypatch, entry, {"a.txt": b"another version"})
    with pytest.raises(DamagedData):
        sources.locate("toy")
    cached = sources.store(entry, write(tmp_path / "original", FILES))
    assert sources.locate("toy") == cached


def test_pickle_is_converted_once_and_only_plain_tensors_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: Source
):
    weights = {"weight": torch.arange(6.0).reshape(2, 3).t(), "steps": torch.tensor(3)}
    site = tmp_path / "site" / entry.module
    site.mkdir(parents=True)
    torch.save(weights, site / "model.pth")
    pickled = Source(
        name="toy",
        version="2.0",
        module=entry.module,
        wanted="model.pth",
        size_bytes=1,
        wanted_sha256=sources.content_hash(site / "model.pth"),
        licence="",
        purpose="",
    )
    monkeypatch.setattr(sources, "SOURCES", {"toy": pickled})
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    path = sources.locate("toy")
    assert path == sources.cache_dir() / "toy-2.0" / "model.safetensors"
    loaded = load_file(path)
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)
    (site / "model.pth").unlink()
    assert sources.locate("toy") == path
    record = json.loads((path.parent / "source.json").read_text())
    record["original_sha256"] = "0" * 64
    (path.parent / "source.json").write_text(json.dumps(record))
    with pytest.raises(DamagedData):
        sources.locate("toy")


def test_pickle_with_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: Source):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    site = tmp_path / "site" / entry.module
    site.mkdir(parents=True)
    torch.save({"weight": Bomb()}, site / "model.pth")
    bomb = Source(
        name="toy", version="2", module=entry.module, wanted="model.pth", size_bytes=1, licence="", purpose=""
    )
    monkeypatch.setattr(sources, "SOURCES", {"toy": bomb})
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(pickle.UnpicklingError):
        sources.locate("toy")
    assert not (tmp_path / "exploded").exists()
    assert not list((tmp_path / "cache").glob("*"))


def wheel(path: Path, entry: Source, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(f"{entry.module}/{entry.wanted}/{name}", data)
        archive.writestr(f"{entry.module}/unwanted.bin", b"x" * 100)
    return path


@pytest.mark.parametrize("client", ["uv", "pip"])
def test_get_fetches_once_into_the_cache(entry: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: str):
    calls: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        requirement = Path(command[command.index("-r") + 1])
        assert requirement.read_text() == "toy==1.0 --hash=sha256:\n"
        if client == "uv":
            write(Path(command[command.index("--target") + 1]) / entry.module / entry.wanted, FILES)
        else:
            wheel(Path(command[command.index("-d") + 1]) / "toy-1.0-py3-none-any.whl", entry, FILES)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(download.subprocess, "run", run)
    monkeypatch.setattr(download.shutil, "which", lambda _: None)
    present = {client: object(), entry.module: None}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: present.get(name))
    path = sources.get("toy")
    assert {file.name: file.read_bytes() for file in path.iterdir()} == FILES
    assert sources.get("toy") == path
    assert len(calls) == 1
    assert calls[0][:3] == [sys.executable, "-m", client]
    assert "--no-deps" in calls[0]
    assert "--require-hashes" in calls[0]
    (path / "a.txt").write_bytes(b"rotten")
    assert {file.name: file.read_bytes() for file in sources.get("toy").iterdir()} == FILES
    assert len(calls) == 2
    assert sorted(item.name for item in sources.cache_dir().iterdir()) == ["toy-1.0"]


def test_get_without_network_says_what_to_do_and_leaves_nothing(entry: Source, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        download.subprocess,
        "run",
        lambda command, **_: subprocess.CompletedProcess(command, 1, "", "error: no\n route"),
    )
    with pytest.raises(MissingData, match=r"could not download toy 1\.0; .*copy .*toy-1\.0.*said: error: no route"):
        sources.get("toy")
    assert list(sources.cache_dir().iterdir()) == []


def test_package_with_other_content_is_refused(entry: Source, monkeypatch: pytest.MonkeyPatch):
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        flag = "--target" if "--target" in command else "-d"
        write(Path(command[command.index(flag) + 1]) / entry.module / entry.wanted, {"a.txt": b"evil"})
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(download, "_uv_command", lambda _, target: ["uv", "-r", "x", "--target", str(target)])
    monkeypatch.setattr(download.shutil, "which", lambda _: "uv")
    monkeypatch.setattr(download.subprocess, "run", run)
    with pytest.raises(DamagedData, match="listed is"):
        sources.get("toy")
    assert list(sources.cache_dir().iterdir()) == []


def test_a_package_that_is_used_as_code_is_not_fetched(entry: Source, monkeypatch: pytest.MonkeyPatch):
    code = Source(name="code", version="1.0", size_bytes=1, licence="", purpose="")
    monkeypatch.setattr(sources, "SOURCES", {"code": code})
    with pytest.raises(MissingData, match=r"`pip install code==1\.0`"):
        sources.get("code")


NESTED = {"samples/low/a.flac": b"one", "samples/b.flac": b"two"}


def tarball(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str) -> None:
    """A program of this name on a PATH that has nothing else but the tools of a shell script."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: str, files: dict[str, bytes]) -> Source:
    """A source of the table in a package file that holds `files`, with the client that hands it out."""
    package = tarball(tmp_path / "toy-1.0.tgz", files)
    entry = Source(
        name="@scope/toy" if registry == "npm" else "toy",
        version="1.0",
        registry="npm" if registry == "npm" else "apt",
        wanted="samples",
        size_bytes=1,
        sha256=sources.content_hash(package),
        wanted_sha256=listing({"low/a.flac": b"one", "b.flac": b"two"}),
        licence="CC0-1.0",
        purpose="a toy",
    )
    monkeypatch.setattr(sources, "SOURCES", {entry.name: entry})
    note = f'echo "$0 $@" >> {tmp_path / "calls"}'
    if registry == "npm":
        program(tmp_path, monkeypatch, "npm", f"{note}; cp {package} scope-toy-1.0.tgz")
    else:
        program(tmp_path, monkeypatch, "apt-get", f"{note}; cp {package} toy_1.0_all.deb")
        program(tmp_path, monkeypatch, "dpkg-deb", f'{note}; mkdir "$3" && tar -xzf "$2" -C "$3"')
    return entry


@pytest.mark.skipif(os.name == "nt", reason="the fake clients are shell scripts")
@pytest.mark.parametrize("registry", ["npm", "apt"])
def test_get_fetches_npm_and_debian_packages_once(
    registry: str, entry: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    top = "package/" if registry == "npm" else ""
    toy = packed(tmp_path, monkeypatch, registry, {f"{top}{name}": data for name, data in NESTED.items()})
    with pytest.raises(MissingData, match=f"trillium data get {toy.name}"):
        sources.locate(toy.name)
    path = sources.get(toy.name)
    assert path == tmp_path / "cache" / f"{toy.name}-1.0" / "samples"
    assert (path / "low" / "a.flac").read_bytes() == b"one"
    assert sources.get(toy.name) == path == sources.locate(toy.name)
    calls = (tmp_path / "calls").read_text().splitlines()
    if registry == "npm":
        assert calls == [f"{tmp_path}/bin/npm pack --ignore-scripts --silent @scope/toy@1.0"]
    else:
        assert calls[0] == f"{tmp_path}/bin/apt-get download --quiet toy=1.0"
        assert len(calls) == 2
    assert not list((tmp_path / "cache").glob(".part-*"))
    (path / "low" / "a.flac").write_bytes(b"onE")
    with pytest.raises(DamagedData, match=r"is not .*toy 1\.0 as listed"):
        sources.locate(toy.name)


@pytest.mark.skipif(os.name == "nt", reason="the fake clients are shell scripts")
@pytest.mark.parametrize("registry", ["npm", "apt"])
def test_another_package_file_is_refused_before_it_is_unpacked(
    registry: str, entry: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    toy = packed(tmp_path, monkeypatch, registry, NESTED)
    tarball(tmp_path / "toy-1.0.tgz", {**NESTED, "more.txt": b"evil"})
    with pytest.raises(DamagedData, match=r"toy 1\.0 has SHA-256 .*, listed is .*mirror or registry"):
        sources.get(toy.name)
    assert list(sources.cache_dir().iterdir()) == []
    assert len((tmp_path / "calls").read_text().splitlines()) == 1


@pytest.mark.skipif(os.name == "nt", reason="the fake clients are shell scripts")
def test_a_tarball_cannot_write_outside_its_folder(entry: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    toy = packed(tmp_path, monkeypatch, "npm", {"package/../../../../escaped.txt": b"evil"})
    with pytest.raises(tarfile.OutsideDestinationError):
        sources.get(toy.name)
    assert not list(tmp_path.rglob("escaped.txt"))


@pytest.mark.skipif(os.name == "nt", reason="the fake clients are shell scripts")
@pytest.mark.parametrize("registry", ["npm", "apt"])
def test_a_client_without_network_or_without_output_is_named(
    registry: str, entry: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    toy = packed(tmp_path, monkeypatch, registry, NESTED)
    client = "npm" if registry == "npm" else "apt-get"
    program(tmp_path, monkeypatch, client, "echo 'no route' >&2; exit 7")
    with pytest.raises(MissingData, match=r"could not download .*toy 1\.0; .*copy .*The client said: no route"):
        sources.get(toy.name)
    program(tmp_path, monkeypatch, client, "exit 0")
    with pytest.raises(MissingData, match=r"downloaded no package file for .*toy 1\.0; .*copy "):
        sources.get(toy.name)
    assert list(sources.cache_dir().iterdir()) == []


@pytest.mark.parametrize(("registry", "words"), [("npm", "needs npm: install Node.js"), ("apt", "needs apt-get and")])
def test_a_missing_client_is_named(
    registry: str, words: str, entry: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    toy = packed(tmp_path, monkeypatch, registry, NESTED)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(MissingData, match=words):
        sources.get(toy.name)


def test_table_is_complete():
    for entry in sources.SOURCES.values():
        assert entry.licence
        assert entry.purpose
        assert entry.size_bytes > 0
        assert len(entry.sha256) == 64
        assert bool(entry.wanted_sha256) == bool(entry.wanted)
        assert entry.wanted or entry.registry == "pip"


def test_installed_packages_match_the_table():
    """The real thing, for what is on this machine."""
    found = [line for line in sources.status() if line.place in ("installed", "cache") and line.source.wanted]
    if not found:
        pytest.skip("none of the data packages is installed")
    for line in found:
        assert sources.locate(line.source.name).exists()
