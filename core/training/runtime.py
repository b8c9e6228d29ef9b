"""Where and how precisely to compute: device, autocast dtype, compilation, threads.

The choice is stored in every checkpoint and used again on resume, because each part of it changes the last bits of
the results.
"""

import dataclasses
import os
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from core.config import RunConfig
from core.machine import keep_freed_memory
from core.training import distributed

COMPILE_PAYS_S = 60.0
"""On a CPU, compiling the blocks takes some 10 s; a run with a time budget of at least this repays it."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
RUNTIME_FIELDS = ("device", "precision", "compile", "threads")
"""Fields of `RunConfig` that a runtime settles."""


def _auto_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _auto_precision(device: str) -> str:
    if device == "cuda":
        return "bf16"
    fast = device == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return "bf16" if fast else "fp32"


def _auto_compile(device: str, time_budget_s: float | None) -> bool:
    if device == "cuda":
        return True
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    return device == "cpu" and bool(compiler) and (time_budget_s or 0.0) >= COMPILE_PAYS_S


def _auto_threads() -> int:
    if "OMP_NUM_THREADS" in os.environ or not hasattr(os, "sched_getaffinity"):
        return torch.get_num_threads()
    return min(torch.get_num_threads(), len(os.sched_getaffinity(0)))


@dataclass(frozen=True)
class Runtime:
    """Settled choices of a run."""

    device: torch.device
    """Where parameters and batches live."""
    dtype: torch.dtype = torch.float32
    """Autocast dtype; float32 means no autocast. Parameters are float32 in any case."""
    compile: bool | Literal["whole"] = False
    """Whether trainers compile their models: block by block, or as one graph."""
    threads: int = 1
    """CPU threads within an operation."""
    deterministic: bool = False
    """Whether CUDA kernels must be deterministic."""

    @classmethod
    def from_config(cls, run: RunConfig, stored: Mapping[str, Any] | None = None) -> "Runtime":
        """Settle what the config leaves open.

        The rules: CUDA, then MPS, then CPU; bf16 on CUDA and on CPUs with bf16 instructions, else fp32; compile on
        CUDA, and on a CPU when `time_budget_s` is at least 60 and a C++ compiler is there (a number of steps says
        nothing about time); threads as torch counts the cores, within the process's affinity and OMP_NUM_THREADS.

        Args:
            run: the config.
            stored: `describe()` of the run to resume. It settles what the config leaves open; what the config names
                must agree with it, or be listed in `allow_config_change`.

        Returns:
            The runtime; call `apply` to make it effective.

        Raises:
            ValueError: the device is absent, a setting does not go with it, or a setting differs from the stored one.
        """
        wanted: dict[str, Any] = {
            "device": None if run.device == "auto" else run.device,
            "precision": None if run.precision == "auto" else run.precision,
            "compile": {"auto": None, "on": True, "whole": "whole", "off": False}[run.compile],
            "threads": run.threads,
        }
        if stored is not None:
            _require_equal(run, stored, wanted)
        kept = {name: stored.get(name) if stored else None for name in RUNTIME_FIELDS}
        choice = {name: kept[name] if wanted[name] is None else wanted[name] for name in RUNTIME_FIELDS}
        device = torch.device(choice["device"] or _auto_device())
        precision = choice["precision"] or _auto_precision(device.type)
        if device.type == "cuda" and not torch.cuda.is_available():
            raise ValueError(
                "device cuda is not available here: use --device cpu"
                + (" --allow-config-change device, since the stored run used cuda" if kept["device"] else "")
            )
        if precision == "fp16" and device.type != "cuda":
            raise ValueError(f"precision fp16 needs a CUDA device, got {device.type}: use bf16 or fp32")
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", distributed.local_rank())
        compiled = choice["compile"]
        return cls(
            device=device,
            dtype=DTYPES[precision],
            compile=_auto_compile(device.type, run.time_budget_s) if compiled is None else compiled,
            threads=choice["threads"] or _auto_threads(),
            deterministic=run.deterministic,
        )

    def apply(self) -> None:
        """Make the choices effective in this process. Float32 products stay in full precision on every device.

        `torch.set_float32_matmul_precision` is left at `highest`: `medium` rounds to bf16 on CPUs with AMX.
        """
        torch.set_num_threads(self.threads)
        torch.set_float32_matmul_precision("highest")
        if self.device.type == "cpu":
            keep_freed_memory()
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        if self.deterministic:
            # cuBLAS reads this when CUDA starts; an earlier value of the user's stays.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.backends.cudnn.benchmark = False
            torch.use_deterministic_algorithms(True)

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision for a forward pass."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def maybe_compile(self, module: nn.Module, *, shapes_vary: bool = False) -> None:
        """Compile in place when the runtime compiles; the state-dict keys stay as they are.

        Unless `whole` is asked for, the Transformer blocks inside the module are compiled one by one: they share one
        compiled graph, which takes much less time than the whole model would, for some speed (benchmarks/RESULTS.md).
        A module without blocks is compiled whole.

        Args:
            module: what is trained.
            shapes_vary: batches come in many lengths. One graph then serves all of them; otherwise each shape is
                compiled by itself, which is right where there is only one.
        """
        from core.nn.block import Block

        if self.compile:
            blocks: list[nn.Module] = [part for part in module.modules() if isinstance(part, Block)]
            for part in [module] if self.compile == "whole" or not blocks else blocks:
                part.compile(dynamic=shapes_vary)

    def describe(self) -> dict[str, Any]:
        """JSON values for a checkpoint: the names and values of the config's fields."""
        return {
            "device": self.device.type,
            "precision": next(name for name, dtype in DTYPES.items() if dtype == self.dtype),
            "compile": self.compile,
            "threads": self.threads,
            "deterministic": self.deterministic,
        }


def _require_equal(run: RunConfig, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    now = dict(wanted, deterministic=run.deterministic)
    if now["device"] is not None:
        now["device"] = torch.device(now["device"]).type
    differing = [
        f"{name} (stored {stored[name]}, now {value})"
        for name, value in now.items()
        if value is not None and name in stored and value != stored[name] and name not in run.allow_config_change
    ]
    if differing:
        raise ValueError(
            f"{run.out} was trained with other settings: {', '.join(differing)}. Resume is exact only with the same: "
            "drop the options, or name the fields in allow_config_change"
        )


def for_use(run: RunConfig, device: str) -> RunConfig:
    """The config of a trained run, for answers on a machine that may be another: nothing is compiled for them.

    Args:
        run: as it was trained.
        device: where to compute now. Without CUDA there, a run in fp16 is used in the precision that the device has.
    """
    on_cuda = torch.cuda.is_available() if device == "auto" else device.startswith("cuda")
    precision = "auto" if run.precision == "fp16" and not on_cuda else run.precision
    return dataclasses.replace(run, device=device, compile="off", precision=precision)
