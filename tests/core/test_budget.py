import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from core.config import OptimConfig
from core.training import checkpoint, loop
from core.training import trainer as trainer_module
from core.training.budget import TimePlan
from core.training.log import write_samples
from core.training.resume import CHECKPOINTS_NAME
from core.training.signals import Preempted
from core.training.trainer import Trainer

sys.path.append(str(Path(__file__).parents[1] / "faults"))
toyrun: Any = importlib.import_module("toyrun")
toychecks: Any = importlib.import_module("toychecks")
config, equal, final_state, metrics, stop_at, train = (
    toychecks.config, toychecks.equal, toychecks.final_state, toychecks.metrics, toychecks.stop_at, toychecks.train
)  # fmt: skip
OPTIM = OptimConfig(lr=0.01, warmup_steps=3, ema_decay=0.9)


# Time budget.


def simulate(budget_s: float, pace: Callable[[int], float], setup_s: float = 3.0) -> tuple[int, float, list[int]]:
    """Steps done, seconds needed, and the different plans on the way."""
    plan, elapsed, step = TimePlan(budget_s), setup_s, 0
    plans: list[int] = []
    while plan.total_steps is None or step < plan.total_steps:
        seconds = pace(step) + (10.0 if step == 0 else 0.0)  # the first step compiles
        elapsed, step = elapsed + seconds, step + 1
        total = plan.tick(step, seconds, elapsed)
        if total is not None and (not plans or plans[-1] != total):
            plans.append(total)
    return step, elapsed, plans


def test_time_plan_uses_the_budget_and_keeps_to_it() -> None:
    step, elapsed, plans = simulate(94.0, lambda _: 0.02)
    assert 91.0 < elapsed <= 94.0
    assert step == pytest.approx((94 - 13) / 0.02, rel=0.03)
    assert abs(plans[0] - plans[-1]) / plans[-1] < 0.05


def test_time_plan_follows_a_machine_that_slows_down_or_speeds_up() -> None:
    for factor in (0.5, 2.0):
        _, elapsed, _ = simulate(94.0, lambda i, factor=factor: 0.02 * (factor if i > 500 else 1.0))
        assert 85.0 < elapsed <= 94.0


def test_time_plan_of_few_slow_steps() -> None:
    step, elapsed, _ = simulate(60.0, lambda _: 4.0, setup_s=0.0)
    assert elapsed <= 64.0
    assert 10 <= step <= 13
    step, _, _ = simulate(1.0, lambda _: 4.0)
    assert step == 1


def test_budget_becomes_a_stored_number_of_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Preempted):
        train(tmp_path, stop_at(25), steps=1, time_budget_s=60.0, pause_s=0.001)
    found = checkpoint.latest(tmp_path / CHECKPOINTS_NAME)
    assert found is not None
    stored = found.state["loop"]["total_steps"]
    assert stored > 25
    found.state["loop"]["total_steps"] = 40
    checkpoint.save(tmp_path / CHECKPOINTS_NAME, 25, found.state)
    monkeypatch.setattr(TimePlan, "tick", lambda *_: pytest.fail("estimated again"))
    trainer = train(tmp_path, steps=1, time_budget_s=60.0, pause_s=0.001)
    assert trainer.step == 40
    assert trainer.task.updater.total_steps == 40


def test_budget_is_used_and_kept_and_the_schedule_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    for module in (loop, trainer_module):
        monkeypatch.setattr(module, "time", clock)

    def hook(task: Any) -> None:
        clock.now += 5.0 if task.done == 0 else 0.1 if task.done < 60 else 0.13

    trainer = train(tmp_path, hook, time_budget_s=20.0, checkpoint_every=1000)
    assert 19.2 < clock.now <= 20.0
    found = checkpoint.latest(tmp_path / CHECKPOINTS_NAME)
    assert found is not None
    assert trainer.step == found.state["loop"]["total_steps"] == found.step
    rates = [line["lr"] for line in metrics(tmp_path) if "lr" in line]
    assert max(rates) > 0.009
    assert rates[-1] < 0.001


# The trainer's files.


def test_further_entries_and_samples_are_written(tmp_path: Path) -> None:
    class Talkative(toyrun.ToyTrainer):  # type: ignore[misc]
        def write_samples(self, task: Any, folder: Path, step: int) -> None:
            write_samples(folder, step, [{"output": str(task.done)}])

        def report_sections(self) -> dict[str, Any]:
            return {"rows": [{"name": "floor", "score": 0.0}]}

    Talkative(config(tmp_path), quiet=True, report=False).train()
    assert json.loads((tmp_path / "eval.json").read_text())["rows"] == [{"name": "floor", "score": 0.0}]
    files = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert files == [f"step-000000{step}.jsonl" for step in (10, 20, 24)]


def test_load_save_and_subclass_check(tmp_path: Path) -> None:
    trainer = train(tmp_path / "run")
    loaded = Trainer.load(tmp_path / "run")
    assert type(loaded) is toyrun.ToyTrainer
    assert loaded.step == 24
    assert loaded.evaluate() == trainer.evaluate()
    folder = loaded.save(tmp_path / "export")
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    with trainer.task.updater.averaged():
        assert equal(weights, dict(trainer.task.model.state_dict()))
    with pytest.raises(ValueError, match="not by Other"):
        type("Other", (Trainer,), {}).load(tmp_path / "run")
    with pytest.raises(ValueError, match="is not a run"):
        Trainer.load(tmp_path)
