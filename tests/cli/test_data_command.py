"""`trillium data`: what is here, and how the rest comes."""

import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from core.commands.data import data
from core.pretrained import sources
from core.pretrained.sources import MissingData, Source


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """An npm package of one file, the only source of the table; the cache is a fresh folder."""
    package = tmp_path / "package.tgz"
    with tarfile.open(package, "w:gz") as archive:
        member = tarfile.TarInfo("package/assets/a.txt")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"one"))
    entry = Source(
        name="@scope/toy",
        version="1.0",
        registry="npm",
        wanted="assets",
        size_bytes=3_000_000,
        sha256=sources.content_hash(package),
        wanted_sha256=sources.listing_hash([("a.txt", hashlib.sha256(b"one").hexdigest())]),
        licence="CC0-1.0",
        purpose="a toy",
    )
    monkeypatch.setattr(sources, "SOURCES", {entry.name: entry})
    monkeypatch.setenv("TRILLIUM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TRILLIUM_DATA", raising=False)
    client = tmp_path / "bin" / "npm"
    client.parent.mkdir()
    client.write_text(f"#!/bin/sh\n/bin/cp {package} scope-toy-1.0.tgz\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", str(client.parent))
    return entry


@pytest.mark.skipif(os.name == "nt", reason="the fake client is a shell script")
def test_a_package_is_listed_as_missing_then_fetched_then_listed_as_cached(
    toy: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert data(["list"]) == 0
    before = capsys.readouterr().out
    assert "@scope/toy" in before
    assert "missing" in before
    assert "3.0 MB" in before
    assert data(["get", "@scope/toy"]) == 0
    path = tmp_path / "cache" / "@scope" / "toy-1.0" / "assets"
    assert capsys.readouterr().out == f"@scope/toy: {path}\n"
    assert (path / "a.txt").read_bytes() == b"one"
    assert data(["list"]) == 0
    assert "cache" in capsys.readouterr().out


def test_without_its_client_the_reason_is_one_sentence(toy: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingData) as failure:
        data(["get", "@scope/toy"])
    assert str(failure.value) == (
        "fetching @scope/toy needs npm: install Node.js, which brings it; on a machine without network, copy "
        f"{tmp_path / 'cache' / '@scope' / 'toy-1.0'} from another one"
    )


def test_a_wrong_name_stops_before_anything_is_fetched(toy: Source, tmp_path: Path):
    with pytest.raises(ValueError, match="no data named 'toi'; known: @scope/toy"):
        data(["get", "@scope/toy", "toi"])
    assert not (tmp_path / "cache").exists()
