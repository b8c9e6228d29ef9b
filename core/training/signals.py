"""Stop signals. Imports no torch, so that the command line can catch a signal before the heavy imports.

Two phases. Between `install` and `fit` a SIGTERM or SIGINT ends the process at once with the right exit code: there is
nothing to save yet. Inside `watch` (which `fit` enters) the same signals only set a flag, so that the step in progress
finishes and its state is saved.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Preempted(SystemExit):
    """The run was asked to stop and has saved its state. Its code is 128 + the signal's number: 143 or 130."""


class StopFlag:
    """Remembers the first stop signal; while `deferred` is 0 it raises `Preempted` at once."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.deferred = 0

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler. A second signal changes nothing: the state is being saved already."""
        if self.number is None:
            self.number = number
        if not self.deferred:
            raise Preempted(128 + number)


def _installed() -> StopFlag | None:
    owner = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return owner if isinstance(owner, StopFlag) else None


def install() -> StopFlag:
    """Catch SIGTERM and SIGINT from now on. For the command line, before it imports anything heavy.

    Returns:
        The flag that `watch` will find and use.
    """
    flag = _installed() or StopFlag()
    for number in SIGNALS:
        signal.signal(number, flag.handle)
    return flag


@contextmanager
def installed() -> Iterator[None]:
    """`install` for the length of a block; afterwards the previous handlers are back."""
    previous = {number: signal.getsignal(number) for number in SIGNALS}
    install()
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def watch() -> Iterator[StopFlag]:
    """Within the block stop signals set the yielded flag; afterwards the previous handlers are back.

    A signal that came too late for the block to act on raises `Preempted` at its end, so that none is lost. In a thread
    other than the main one Python cannot set handlers; the flag then stays unset.
    """
    flag = _installed() or StopFlag()
    main = threading.current_thread() is threading.main_thread()
    flag.deferred += 1
    previous = {number: signal.signal(number, flag.handle) for number in SIGNALS} if main else {}
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        flag.deferred -= 1
    if flag.number is not None and not flag.deferred:
        raise Preempted(128 + flag.number)
