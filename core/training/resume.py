"""What a run directory must be before training starts, and what must agree when a run goes on."""

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from core.config import RunConfig
from core.training import configfile
from core.training.runtime import RUNTIME_FIELDS

FREE_FIELDS = frozenset(
    {"out", "resume", "keep", "log_every", "allow_config_change", "eval_every", "checkpoint_every"}
    | {*RUNTIME_FIELDS, "deterministic"}
)
"""Fields of the config that may differ on resume. `Runtime.from_config` compares what the runtime's fields come to."""
CHECKPOINTS_NAME = "checkpoints"
_RUN_PARTS = (
    "config.json",
    "metrics.jsonl",
    "eval.json",
    "report.html",
    "samples",
    "tensorboard",
    "tokenizer",
    CHECKPOINTS_NAME,
)


def prepare_directory(out: Path) -> None:
    """Make the run directory and check that it can be written, so that a run does not fail at its first checkpoint.

    Raises:
        ValueError: it is a file, or cannot be made or written.
    """
    probe = out / f".probe-{os.getpid()}"
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ValueError(f"cannot write in the run directory {out}: {error.strerror}; choose another out") from error


def set_aside(out: Path, also: Sequence[str] = ()) -> Path | None:
    """Move an earlier run's files into `replaced-N` of the same directory: for `resume=False`.

    Args:
        out: the run directory; what else it holds stays.
        also: names of files that only runs of this kind have.

    Returns:
        The folder, or `None` when there was no earlier run.
    """
    present = [out / name for name in (*_RUN_PARTS, *also) if (out / name).exists()]
    if not (out / CHECKPOINTS_NAME).exists() and not (out / "metrics.jsonl").exists():
        return None
    number = 1
    while (out / f"replaced-{number}").exists():
        number += 1
    folder = out / f"replaced-{number}"
    folder.mkdir()
    for path in present:
        path.rename(folder / path.name)
    return folder


def environment() -> dict[str, Any]:
    """What besides the config and the runtime decides the last bits."""
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    return {
        "torch": str(torch.__version__),
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cuda": cuda,
    }


def describe(run: RunConfig) -> dict[str, Any]:
    """A config for a checkpoint."""
    return {"class": configfile.class_name(run), "values": configfile.encode(run)}


def require_same_config(stored: Mapping[str, Any], run: RunConfig) -> None:
    """Compare a checkpoint's config with the present one.

    Args:
        stored: what `describe` gave.
        run: the present config; its `allow_config_change` names fields that may differ (`optim` allows all in it).

    Raises:
        ValueError: fields differ; the message lists them with both values.
    """
    before, now = _flatten(stored["values"]), _flatten(configfile.encode(run))
    differing = [
        f"{name} (stored {before[name]!r}, now {now.get(name, 'absent')!r})"
        for name in before
        if before[name] != now.get(name, _ABSENT) and not _allowed(name, run)
    ]
    if stored["class"] != configfile.class_name(run):
        differing.insert(0, f"config class (stored {stored['class']}, now {configfile.class_name(run)})")
    if differing:
        raise ValueError(
            f"{run.out} holds a run with another config: {', '.join(differing)}. Use the same config, another out, "
            "resume=False to start over, or name the fields in allow_config_change"
        )


_ABSENT = object()


def _allowed(name: str, run: RunConfig) -> bool:
    return name.partition(".")[0] in FREE_FIELDS or any(
        name == allowed or name.startswith(allowed + ".") for allowed in run.allow_config_change
    )


def _flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {prefix: values}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(_flatten(value, f"{prefix}.{key}" if prefix else key))
    return flat
