"""Environments in other processes: for those that take longer to step than a process takes to ask."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import gymnasium

from core.errors import UserError
from rl.environments import EnvironmentFault, EnvironmentPool, Outcome

TIMEOUT_S = 60.0
"""Seconds that a reset or a step may take before it counts as hanging."""
_FAREWELL_S = 2.0
"""Seconds that a process gets to close its environments."""


def environment_pool(
    env: str, kwargs: Mapping[str, Any], workers: int = 0, *, timeout_s: float = TIMEOUT_S
) -> EnvironmentPool:
    """Copies of an environment, in this process or in others; episodes are the same either way.

    Args:
        env: Gymnasium id.
        kwargs: arguments of the environment.
        workers: processes; 0 for this one.
        timeout_s: seconds that a reset or a step may take; it holds with workers only.
    """
    return WorkerPool(env, kwargs, workers, timeout_s=timeout_s) if workers else EnvironmentPool(env, kwargs)


class WorkerPool(EnvironmentPool):
    """An `EnvironmentPool` whose copies live in other processes, each of which steps its share of them.

    Gymnasium's `AsyncVectorEnv` is not used: it takes a process for every copy, steps all of them even if some have
    ended, resets by itself, and waits forever for one that was killed. Here copy i lives in process i modulo `workers`,
    and only the copies that are named are stepped.

    Processes are forked, so that environments registered in a script are known to them; they end with this one. `first`
    still gives copies in this process, for their spaces and known returns.

    Args:
        env: Gymnasium id.
        kwargs: arguments of the environment.
        workers: processes.
        timeout_s: seconds that a reset or a step of one copy may take.

    Raises:
        UserError: the system is not Linux.
        ValueError: less than one worker, or no time.
    """

    def __init__(self, env: str, kwargs: Mapping[str, Any], workers: int, *, timeout_s: float = TIMEOUT_S) -> None:
        if workers < 1:
            raise ValueError(f"env_workers must be >= 1 for a pool of workers, got {workers}")
        if not timeout_s > 0:
            raise ValueError(f"timeout_s must be > 0, got {timeout_s}")
        if not sys.platform.startswith("linux"):
            raise UserError("environments in other processes need Linux: set env_workers to 0")
        super().__init__(env, kwargs)
        self.num_workers = workers
        self.timeout_s = timeout_s
        self._workers: list[_Worker] = []
        self._seeds: dict[int, int] = {}
        self._steps: dict[int, int] = {}
        self._finalizer: Any = None

    def reset(self, seeds: Mapping[int, int]) -> list[tuple[str, dict[str, Any]]]:
        """Start an episode in some copies, side by side; see `EnvironmentPool.reset`.

        Raises:
            EnvironmentFault: one of them failed, hung or died; all processes are ended.
        """
        self._seeds.update(seeds)
        self._steps.update(dict.fromkeys(seeds, 0))
        made = self._ask("reset", seeds)
        return [made[row] for row in seeds]

    def step(self, actions: Mapping[int, str]) -> dict[int, Outcome]:
        """Play an action in some copies, side by side; see `EnvironmentPool.step`.

        Raises:
            EnvironmentFault: one of them failed, hung or died; all processes are ended.
        """
        for row in actions:
            self._steps[row] = self._steps.get(row, 0) + 1
        made = self._ask("step", actions)
        return {row: made[row] for row in actions}

    def close(self) -> None:
        """Let all processes close their environments and end; they start again when the pool is used again."""
        super().close()
        for worker in self._workers:
            with contextlib.suppress(OSError):
                worker.connection.send(None)
        end = time.monotonic() + _FAREWELL_S
        for worker in self._workers:
            worker.process.join(max(0.0, end - time.monotonic()))
        self._end()

    def _ask(self, command: str, arguments: Mapping[int, Any]) -> dict[int, Any]:
        """Send each process its share of the arguments, and gather the answers as they come."""
        if not self._workers:
            self._start()
        try:
            open_rows: dict[Connection, list[int]] = {}
            for number, worker in enumerate(self._workers):
                share = [(row, argument) for row, argument in arguments.items() if row % self.num_workers == number]
                if share:
                    open_rows[worker.connection] = [row for row, _ in share]
                    self._send(worker.connection, (command, share), share[0][0])
            return self._gather(open_rows)
        except BaseException:
            # Also after a Ctrl-C: answers that nobody took would be taken for those to the next question.
            self._end()
            raise

    def _gather(self, open_rows: dict[Connection, list[int]]) -> dict[int, Any]:
        """The answers to all rows that are open; a process answers them in their order."""
        answers: dict[int, Any] = {}
        deadline = dict.fromkeys(open_rows, time.monotonic() + self.timeout_s)
        while open_rows:
            first = min(open_rows, key=deadline.__getitem__)
            ready = wait(list(open_rows), max(0.0, deadline[first] - time.monotonic()))
            if not ready:
                raise self._fault(open_rows[first][0], f"has not answered for {self.timeout_s:g} s")
            for connection in ready:
                assert isinstance(connection, Connection)
                row = open_rows[connection].pop(0)
                answers[row] = self._receive(connection, row)
                deadline[connection] = time.monotonic() + self.timeout_s
                if not open_rows[connection]:
                    del open_rows[connection]
        return answers

    def _send(self, connection: Connection, question: Any, row: int) -> None:
        try:
            connection.send(question)
        except OSError as error:
            raise self._lost(row) from error

    def _receive(self, connection: Connection, row: int) -> Any:
        try:
            answer = connection.recv()
        except (EOFError, OSError) as error:
            raise self._lost(row) from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _start(self) -> None:
        self.first(1)  # what it imports and works out when it is made, the forks share
        context = multiprocessing.get_context("fork")
        for _ in range(self.num_workers):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(theirs, self.env, self.kwargs, self.num_workers), daemon=True
            )
            process.start()
            # Closed before the next fork, so that nobody but the worker holds it and its death is an end of file.
            theirs.close()
            self._workers.append(_Worker(process, ours))
        self._finalizer = weakref.finalize(self, _kill, os.getpid(), self._workers)

    def _lost(self, row: int) -> EnvironmentFault:
        return self._fault(row, "lost its process, which crashed or was killed,")

    def _fault(self, row: int, what: str) -> EnvironmentFault:
        return EnvironmentFault(
            f"{self.env} {what} at step {self._steps.get(row, 0)} of the episode with seed {self._seeds.get(row)}: "
            "play it with env_workers 0 to see why, or look for a lack of memory"
        )

    def _end(self) -> None:
        """End the processes at once."""
        if self._finalizer is not None:
            self._finalizer()
        self._workers, self._finalizer = [], None


class _Worker:
    """A process and our end of the pipe to it."""

    def __init__(self, process: Any, connection: Connection) -> None:
        self.process = process
        self.connection = connection


def _kill(owner: int, workers: Sequence[_Worker]) -> None:
    if os.getpid() != owner:  # a forked copy of the pool owns no process
        return
    for worker in workers:
        worker.process.kill()
    for worker in workers:
        worker.process.join()
        worker.connection.close()


def _serve(connection: Connection, env: str, kwargs: Mapping[str, Any], num_workers: int) -> None:
    """What a worker does: send a result, or the error instead, for each row that it is asked for."""
    # The parent's handlers would save a run that is not this process's; a Ctrl-C reaches the parent, which ends us.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)
    pool = EnvironmentPool(env, kwargs)
    while (asked := connection.recv()) is not None:
        command, share = asked
        for row, argument in share:
            copy = row // num_workers
            try:
                connection.send(
                    pool.reset({copy: argument})[0] if command == "reset" else pool.step({copy: argument})[copy]
                )
            except Exception as error:
                connection.send(_portable(env, error))
    pool.close()


def _portable(env: str, error: Exception) -> Exception:
    """The same error without its cause, which may not survive the way to another process."""
    for kind in (EnvironmentFault, gymnasium.error.ResetNeeded, ValueError):
        if isinstance(error, kind):
            return kind(str(error))
    return EnvironmentFault(
        f"{env} gave what cannot be sent to another process ({type(error).__name__}: {error}): set env_workers to 0"
    )


def _follow_parent() -> None:
    """End this process when its parent has ended, however that happened and whatever the environment is doing."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
