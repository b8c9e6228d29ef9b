"""One process per run directory."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from core.errors import UserError

LOCK_NAME = ".lock"


class RunLocked(UserError, ValueError):
    """Another process trains in this run directory."""


@contextmanager
def hold(out: Path) -> Iterator[None]:
    """Hold the run directory's lock; a nested call in the same process passes.

    The kernel drops the lock when its process ends, however it ends, so a lock file left by a dead process is free.

    Args:
        out: an existing run directory.

    Raises:
        RunLocked: another process holds it; the message has its process id.
    """
    with (out / LOCK_NAME).open("a+", encoding="ascii") as file:
        if _acquire(file):
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            try:
                yield
            finally:
                file.truncate(0)
            return
        file.seek(0)
        owner = file.read().strip()
        if owner != str(os.getpid()):
            raise RunLocked(
                f"{out} is in use by the process with pid {owner or 'unknown'}: "
                "wait for it, stop it, or choose another out"
            )
        yield


def _acquire(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
