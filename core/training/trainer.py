"""The base of the public trainers."""

import dataclasses
import importlib
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from core.config import RunConfig
from core.errors import RunError
from core.interfaces import BatchSource, Task
from core.training import checkpoint, configfile, distributed, lock, loop
from core.training.checkpoint import Checkpoint
from core.training.log import RunLog, json_number
from core.training.resume import CHECKPOINTS_NAME, prepare_directory, require_same_config, set_aside
from core.training.runtime import Runtime, for_use
from core.training.state import seed_everything
from core.training.update import updaters_of

if TYPE_CHECKING:
    from core.nn.transformer import Transformer

EVAL_NAME = "eval.json"


class Trainer:
    """Builds what a config describes and trains, scores, samples and saves it.

    A subclass implements `build`; it may override `write_samples`, `sample`, `save` and `report_sections`.
    """

    own_files: ClassVar[tuple[str, ...]] = ()
    """Names of what `build` writes into the run directory: with `resume=False` an earlier run's are moved aside."""

    def __init__(
        self, config: RunConfig, *, recipe: str | None = None, quiet: bool = False, report: bool = True
    ) -> None:
        """Args:
        config: the run.
        recipe: `package:recipe` that the config came from, for the record.
        quiet: show no progress.
        report: write `report.html` after training.
        """
        self.config = config
        self.recipe = recipe
        self.quiet = quiet
        self.report = report
        self.step = 0
        self._runtime: Runtime | None = None
        self._built: tuple[Task, BatchSource] | None = None

    # What a subclass says.

    def build(self) -> tuple[Task, BatchSource]:
        """Make the task, with its modules and updaters, and its data. The generators are seeded already.

        May use `self.config` and `self.runtime`. The length of a schedule may be given as `self.config.steps`: the
        loop tells the updaters what it really is.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement build")

    def write_samples(self, task: Task, folder: Path, step: int) -> None:
        """Write samples of the present model, with `core.training.log.write_samples`; called after every evaluation.

        Args:
            task: holds its averaged weights, where there are any.
            folder: the run's `samples`.
            step: steps done.
        """

    def report_sections(self) -> Mapping[str, Any]:
        """Further entries of `eval.json`, which the report shows: `rows` (floors, controls, intervals) and `notes`."""
        return {}

    def sample(self, num_samples: int) -> Sequence[Any]:
        """Samples of the model."""
        raise NotImplementedError(f"{type(self).__name__} has nothing to sample")

    def export_parts(self) -> tuple[Any, Any]:
        """The language model and its tokenizer (or `None`), for `trillium export`."""
        raise RunError(f"a {type(self).__name__} run has no language model to export")

    def _transformer(self, model: Any) -> "Transformer":
        """A language model for `export_parts`, which must be a Transformer."""
        from core.nn.transformer import Transformer

        if not isinstance(model, Transformer):
            raise RunError(f"only a Transformer can be exported; {self.config.out} has: {type(model).__name__}")
        return model

    # What every trainer does.

    @property
    def runtime(self) -> Runtime:
        """Device, precision, compilation and threads; settled at the first use, and effective from then on."""
        if self._runtime is None:
            self._use(None)
        assert self._runtime is not None
        return self._runtime

    @property
    def task(self) -> Task:
        """The task, built at the first use."""
        return self._build()[0]

    @property
    def batches(self) -> BatchSource:
        """The training data, built at the first use."""
        return self._build()[1]

    def train(self) -> dict[str, float]:
        """Train, or go on training, `config.out`; then score the final weights and write the report.

        Returns:
            The scores, which `eval.json` holds too.

        Raises:
            Preempted: stopped by SIGTERM or SIGINT; the state is saved, and the same call goes on.
            ValueError: the run directory cannot be used, or holds a run with another config.
        """
        started = time.perf_counter()
        out = self.config.out
        distributed.init_from_env()
        if not distributed.broadcast(out.exists()):  # one answer for all: the first to be done makes the folder
            # A missing file or missing data stops the run here, before anything of it is written.
            self._use(None)
            self._build()
        with ExitStack() as stack:
            if distributed.is_main():
                prepare_directory(out)
                stack.enter_context(lock.hold(out))
            found = loop.newest(self.config)
            if found is not None:
                require_same_config(found.state["config"], self.config)
            self._use(found)
            if distributed.is_main():
                if not self.config.resume:
                    set_aside(out, self.own_files)
                configfile.write(out / configfile.NAME, self.config, self.recipe)
            task, batches = self._build()
            log = RunLog(out, quiet=self.quiet)

            def write_samples(step: int) -> None:
                if distributed.is_main():
                    self.write_samples(task, out / "samples", step)

            self.step = loop.fit(
                task,
                batches,
                self.config,
                self.runtime,
                log,
                started=started,
                resume_from=found,
                on_evaluate=write_samples,
            )
            scores = self._final_scores(log)
            self._write_report()
        return scores

    def evaluate(self) -> dict[str, float]:
        """Scores of the present weights (the averaged ones with `ema_decay`)."""
        return loop.evaluate(self.task)

    def save(self, folder: Path | str) -> Path:
        """Write the model's weights (the averaged ones with `ema_decay`) as safetensors, and the config as JSON.

        Args:
            folder: made if absent.

        Returns:
            The folder. One file `model.safetensors`, or one per updater when there are several.
        """
        from safetensors.torch import save_model

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        updaters = updaters_of(self.task)
        for name, updater in updaters.items():
            with updater.averaged():
                save_model(updater.module, str(folder / f"{'model' if len(updaters) == 1 else name}.safetensors"))
        configfile.write(folder / configfile.NAME, self.config, self.recipe)
        return folder

    @classmethod
    def load(cls, run_dir: Path | str, *, device: str = "auto") -> Self:
        """The trainer of a run directory with its newest good checkpoint's weights.

        The machine may be another than the one that trained: the runtime is settled anew.

        Args:
            run_dir: its `config.json` says which trainer it needs; called on a subclass, that must be the one.
            device: where to compute now.

        Raises:
            ValueError: not a run directory, no good checkpoint, or another trainer's.
        """
        run_dir = Path(run_dir)
        config = dataclasses.replace(for_use(configfile.read(run_dir / configfile.NAME), device), out=run_dir)
        kind: Any = cls
        if config.trainer:
            module, _, name = config.trainer.partition(":")
            kind = getattr(importlib.import_module(module), name)
        if not issubclass(kind, cls):
            raise ValueError(f"{run_dir} was trained by {kind.__name__}, not by {cls.__name__}")
        found = checkpoint.latest(run_dir / CHECKPOINTS_NAME)
        if found is None:
            raise ValueError(f"{run_dir} has no good checkpoint: train it first")
        trainer = kind(config)
        trainer.task.load_state_dict(found.state["task"])
        trainer.step = found.step
        return trainer

    def _use(self, found: Checkpoint | None) -> None:
        """Settle the runtime, as stored where there is a checkpoint, and make it effective."""
        self._runtime = Runtime.from_config(self.config, found.state["runtime"] if found else None)
        self._runtime.apply()

    def _build(self) -> tuple[Task, BatchSource]:
        if self._built is None:
            assert self.runtime is not None
            seed_everything(self.config.seed)
            self._built = self.build()
            if distributed.rank():
                seed_everything(self.config.seed + distributed.rank())  # equal weights, but own dropout
        return self._built

    def _final_scores(self, log: RunLog) -> dict[str, float]:
        """The scores of the last evaluation, written to `eval.json`; those there when nothing was trained any more."""
        path = self.config.out / EVAL_NAME
        stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        if log.last_scores is None and stored is not None and stored["step"] == self.step:
            return {name: float(value) for name, value in stored["metrics"].items()}
        began = time.perf_counter()
        scores = self.evaluate() if log.last_scores is None else log.last_scores
        seconds = time.perf_counter() - began + log.evaluation_s
        distributed.barrier()  # every process has looked whether the file is there
        if distributed.is_main():
            metrics = {name: json_number(value) for name, value in scores.items()}
            with loop.undisturbed(self.task):
                further = self.report_sections()
            content = {"step": self.step, "seconds": round(seconds, 3), "metrics": metrics, **further}
            part = path.with_name(f".{path.name}.part")
            part.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
            part.replace(path)
        return scores

    def _write_report(self) -> None:
        if self.report and distributed.is_main():
            from core.report.page import write_report

            write_report([self.config.out], self.config.out / "report.html")
