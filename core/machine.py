"""What machine this is: processor, cores, memory, system. Imports no torch."""

import ctypes
import os
import platform
from pathlib import Path


def describe() -> dict[str, str]:
    """Names and values for a run's record and for `trillium doctor`; no host name, no path."""
    memory = memory_bytes()
    return {
        "cpu": processor_name(),
        "cores": str(usable_cores()),
        "memory": f"{memory / 2**30:.0f} GiB" if memory else "unknown",
        "system": f"{platform.system()} {platform.machine()}",
    }


def processor_name() -> str:
    """The processor's model name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return " ".join(value.split())
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def has_amd_avx512() -> bool:
    """Whether the processor is AMD's and has AVX-512."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False  # not Linux
    return "AuthenticAMD" in text and "avx512f" in text


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int | None:
    """Physical memory; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def keep_freed_memory() -> None:
    """Tell glibc to keep large freed blocks for the next request, instead of giving them back to the system.

    A training step asks for the same activations again and again, and fresh pages cost more than the arithmetic on
    them: 80 MB are had 2.5 times as fast on machine A of `benchmarks/RESULTS.md`. Without glibc nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return  # another C library, another system
    trim_threshold, mmap_threshold = -1, -3  # numbers from glibc's malloc.h
    # Older versions take no more than 32 MiB. One of the two must succeed first: any trim threshold freezes the other.
    if mallopt(mmap_threshold, 2**30) or mallopt(mmap_threshold, 2**25):
        mallopt(trim_threshold, 2**31 - 1)
