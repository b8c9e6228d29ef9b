"""The training loop."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch

from core.config import RunConfig
from core.interfaces import BatchSource, Task
from core.training import checkpoint, distributed, lock, signals
from core.training.budget import TimePlan
from core.training.checkpoint import Checkpoint
from core.training.log import RunLog
from core.training.resume import (
    CHECKPOINTS_NAME,
    describe,
    environment,
    prepare_directory,
    require_same_config,
    set_aside,
)
from core.training.runtime import Runtime
from core.training.signals import Preempted
from core.training.state import RngState
from core.training.update import NonFiniteStep, updaters_of

PROVISIONAL_STEPS = 10**9
"""Length of the schedule while a time budget is being turned into steps: warm-up, then the peak."""


@contextmanager
def undisturbed(task: Task) -> Iterator[None]:
    """Within the block the task's modules hold their averaged weights, where there are any.

    Afterwards weights, training modes and the global random-number generators are as before.
    """
    rng = RngState.capture()
    updaters = updaters_of(task).values()
    modes = [(module, module.training) for updater in updaters for module in updater.module.modules()]
    try:
        with ExitStack() as stack:
            for updater in updaters:
                stack.enter_context(updater.averaged())
            yield
    finally:
        for module, training in modes:
            module.training = training
        rng.restore()


def evaluate(task: Task) -> dict[str, float]:
    """The task's scores with the averaged weights where there are any; leaves no trace in the training state."""
    with undisturbed(task):
        return {name: float(value) for name, value in task.evaluate().items()}


def newest(run: RunConfig) -> Checkpoint | None:
    """The checkpoint to go on from: the newest good one in `run.out`, or none when `run.resume` is off.

    Every process gets the one that the main process chose.
    """
    folder = run.out / CHECKPOINTS_NAME
    if not run.resume:
        return None
    found = checkpoint.latest(folder) if distributed.is_main() else None
    path = distributed.broadcast(found.path if found else None)
    return checkpoint.load(path) if found is None and path is not None else found


def fit(
    task: Task,
    batches: BatchSource,
    run: RunConfig,
    runtime: Runtime,
    log: RunLog,
    *,
    started: float | None = None,
    resume_from: Checkpoint | Literal["newest"] | None = "newest",
    on_evaluate: Callable[[int], None] | None = None,
) -> int:
    """Train until `run.steps`, or as many steps as fit into `run.time_budget_s`, going on from the newest checkpoint.

    Every `Updater` that is an attribute of the task follows the run's schedule. The task is evaluated every
    `eval_every` steps and at the end; `log.last_scores` has the latest scores. A checkpoint is written every
    `checkpoint_every` steps, at the end, on SIGTERM and SIGINT, and when a value is not finite. A run that was stopped
    or killed and is started again gives the same bits as one that never stopped, on the same machine with the same
    versions, threads and config.

    Args:
        task: what to train.
        batches: endless; its position is part of the checkpoint.
        run: the config.
        runtime: applied already.
        log: where metrics go.
        started: `time.perf_counter()` at the start of the run, from which a time budget counts; now if absent.
        resume_from: a checkpoint that was read already, or `None` for a fresh start.
        on_evaluate: called with the step after every evaluation, with the averaged weights in place.

    Returns:
        Steps done.

    Raises:
        Preempted: stopped by a signal; the state is saved.
        NonFiniteStep: a value was not finite; the state before that step is saved.
        ValueError: the run directory cannot be used, or holds a run with another config.
        RunLocked: another process trains in the run directory.
    """
    with signals.watch() as stop, ExitStack() as stack:
        if distributed.is_main():
            prepare_directory(run.out)
            stack.enter_context(lock.hold(run.out))
        distributed.barrier()
        session = _Session(task, batches, run, runtime, log, time.perf_counter() if started is None else started)
        session.restore(newest(run) if resume_from == "newest" else resume_from)
        log.begin(session.step, session.total_steps)
        stack.callback(lambda: log.close(session.step))
        return session.train(stop, on_evaluate)


class _Session:
    """One process's part of a run: from a checkpoint, or the beginning, to the end or a stop."""

    def __init__(
        self, task: Task, batches: BatchSource, run: RunConfig, runtime: Runtime, log: RunLog, started: float
    ) -> None:
        self.task, self.batches, self.run, self.runtime, self.log = task, batches, run, runtime, log
        self.started = started
        self.folder = run.out / CHECKPOINTS_NAME
        self.updaters = updaters_of(task)
        self.step = 0
        self.saved_step = -1
        self.plan = TimePlan(run.time_budget_s) if run.time_budget_s is not None else None
        self.total_steps: int | None = run.steps if self.plan is None else None

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self.started

    def restore(self, found: Checkpoint | None) -> None:
        """Put everything back as it was when the checkpoint was written."""
        if distributed.is_main():
            if not self.run.resume:
                set_aside(self.run.out)
            checkpoint.remove_parts(self.folder)
        if found is None:
            return
        state = found.state
        require_same_config(state["config"], self.run)
        self._require_same_runtime(state["runtime"])
        self.task.load_state_dict(state["task"])
        self.batches.load_state_dict(state["batches"])
        self.log.load_state_dict(state["log"])
        self.step = self.saved_step = found.step
        loop = state["loop"]
        self.started = time.perf_counter() - loop["elapsed_s"]
        if self.plan is not None and loop["time_budget_s"] == self.run.time_budget_s and loop["total_steps"]:
            self.total_steps, self.plan = loop["total_steps"], None
        if len(state["rng"]) != distributed.world():
            raise ValueError(
                f"{self.run.out} was trained by {len(state['rng'])} processes, now there are {distributed.world()}: "
                "resume is exact only with the same number"
            )
        RngState.from_state_dict(state["rng"][distributed.rank()]).restore()
        if state["environment"] != environment():
            self.log.display.note(
                f"resuming in another environment (stored {state['environment']}, now {environment()}): "
                "the last bits may differ from those of an uninterrupted run"
            )

    def _require_same_runtime(self, stored: dict[str, Any]) -> None:
        now = self.runtime.describe()
        differing = [k for k in stored if stored[k] != now.get(k) and k not in self.run.allow_config_change]
        if differing:
            pairs = ", ".join(f"{k} (stored {stored[k]}, now {now.get(k)})" for k in differing)
            raise ValueError(
                f"{self.run.out} was trained with another runtime: {pairs}. Build it with "
                "Runtime.from_config(run, stored), or name the fields in allow_config_change"
            )

    def train(self, stop: signals.StopFlag, on_evaluate: Callable[[int], None] | None) -> int:
        run, log = self.run, self.log
        stream = iter(self.batches)
        while True:
            number = self._agree(stop.number)
            if number:
                self.save()
                log.display.note(f"stopped by signal {number} after step {self.step}; the state is saved")
                raise Preempted(128 + number)
            done = self.total_steps is not None and self.step >= self.total_steps
            if done or (self.step and self.step % run.checkpoint_every == 0):
                self.save()
            # After the checkpoint, which a long evaluation would put at risk; a resumed run makes up for it.
            if self._evaluation_due(done):
                began = time.perf_counter()
                with undisturbed(self.task):
                    scores = evaluate(self.task)
                    log.evaluation(self.step, self.elapsed_s, scores, time.perf_counter() - began)
                    if on_evaluate is not None:
                        on_evaluate(self.step)
            if done:
                return self.step
            self._train_step(stream)
            if self.step % run.log_every == 0 or self.step == self.total_steps:
                log.flush(self.step, self.elapsed_s)

    def _evaluation_due(self, done: bool) -> bool:
        every = self.run.eval_every
        due = done or (every > 0 and self.step > 0 and self.step % every == 0)
        return due and distributed.broadcast(self.log.last_evaluation) != self.step

    def _train_step(self, stream: Any) -> None:
        rng, position = RngState.capture(), self.batches.state_dict()
        steps_before = [updater.steps for updater in self.updaters.values()]
        for updater in self.updaters.values():
            updater.follow(self.step, self.total_steps or PROVISIONAL_STEPS)
        began = time.perf_counter()
        try:
            metrics = self.task.train_step(next(stream))
        except NonFiniteStep:
            # Nothing was updated, so with generators and data put back this is the state of the last good step. When
            # another updater of the task had stepped already it is not, and the newest checkpoint has to do.
            if steps_before == [updater.steps for updater in self.updaters.values()]:
                rng.restore()
                self.save(position)
            raise
        self.step += 1
        self.log.add(self.step, metrics)
        if self.plan is not None:
            total = self.plan.tick(self.step, time.perf_counter() - began, self.elapsed_s)
            total = distributed.broadcast(total)
            if total is not None and total != self.total_steps:
                if self.total_steps is None and self.step == total:
                    self.log.display.note(
                        f"the time budget of {self.run.time_budget_s:g} s went into set-up and {total} steps: raise "
                        "time_budget_s, or try compile=off"
                    )
                self.total_steps = total
                self.log.display.set_total(total)

    def _agree(self, number: int | None) -> int:
        """The stop signal of any process, or 0: all stop at the same step."""
        if not distributed.active():
            return number or 0
        flag = torch.tensor([number or 0])
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        return int(flag)

    def save(self, position: dict[str, Any] | None = None) -> None:
        """Write the checkpoint of this step, once. `position` overrides where the data stands."""
        if self.saved_step == self.step:
            return
        rng = distributed.gather(RngState.capture().state_dict())
        if distributed.is_main():
            self.log.sync()
            state = {
                "task": self.task.state_dict(),
                "batches": self.batches.state_dict() if position is None else position,
                "rng": rng,
                "log": self.log.state_dict(),
                "loop": {
                    "elapsed_s": self.elapsed_s,
                    "total_steps": self.total_steps,
                    "time_budget_s": self.run.time_budget_s,
                },
                "runtime": self.runtime.describe(),
                "config": describe(self.run),
                "environment": environment(),
            }
            checkpoint.save(self.folder, self.step, state, keep=self.run.keep)
        self.saved_step = self.step
        distributed.barrier()
