"""Alternating timings: machines are noisy, so two systems are compared round by round and reported as ratios."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping

import torch


def alternate(variants: Mapping[str, Callable[[], object]], *, rounds: int, calls: int = 1) -> dict[str, list[float]]:
    """Seconds per call of each variant, one value a round; the variants take turns within a round."""
    for run in variants.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            start = time.perf_counter()
            for _ in range(calls):
                run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append((time.perf_counter() - start) / calls)
    return seconds


def ratio(slow: list[float], fast: list[float]) -> str:
    """Median over the rounds of slow / fast, with the range."""
    ratios = sorted(a / b for a, b in zip(slow, fast, strict=True))
    return f"{statistics.median(ratios):.2f} x (rounds {ratios[0]:.2f} to {ratios[-1]:.2f})"


def machine() -> str:
    """Processor, threads and versions, for the record."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    amx = "AMX" if torch.cpu._is_amx_tile_supported() else "no AMX"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    load = f"load {os.getloadavg()[0]:.1f}"
    return f"{name} ({amx}), {torch.get_num_threads()} threads, {device}, torch {torch.__version__}, {load}"
