import dataclasses
import importlib
import json
import math
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from core.config import OptimConfig
from core.training import checkpoint, loop, signals
from core.training.resume import CHECKPOINTS_NAME
from core.training.runtime import Runtime
from core.training.signals import Preempted
from core.training.update import NonFiniteStep

sys.path.append(str(Path(__file__).parents[1] / "faults"))
toyrun: Any = importlib.import_module("toyrun")
toychecks: Any = importlib.import_module("toychecks")
config, equal, final_state, metrics, stop_at, train = (
    toychecks.config, toychecks.equal, toychecks.final_state, toychecks.metrics, toychecks.stop_at, toychecks.train
)  # fmt: skip
OPTIM = OptimConfig(lr=0.01, warmup_steps=3, ema_decay=0.9)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    train(out)
    return out


# Resume.


@pytest.mark.parametrize("cut", [1, 3, 4, 7, 10, 23, 24])
def test_resume_is_exact_wherever_the_run_was_cut(tmp_path: Path, whole: Path, cut: int) -> None:
    """27 items in batches of 8: epochs end within steps 4, 7, 11, …; 7 is a checkpoint, 10 an evaluation."""
    with pytest.raises(Preempted) as stopped:
        train(tmp_path, stop_at(cut))
    assert stopped.value.code == 143
    assert checkpoint.steps_in(tmp_path / CHECKPOINTS_NAME)[-1] == cut
    torch.rand(17)  # a new process would have other generators
    trainer = train(tmp_path)
    assert trainer.step == 24
    assert metrics(tmp_path) == metrics(whole)
    assert equal(final_state(tmp_path), final_state(whole))
    assert json.loads((tmp_path / "eval.json").read_text())["metrics"] == {"score": metrics(whole)[-1]["eval/score"]}


def test_resume_through_many_cuts_is_exact(tmp_path: Path, whole: Path) -> None:
    for cut in (2, 3, 9, 17):
        with pytest.raises(Preempted):
            train(tmp_path, stop_at(cut))
    train(tmp_path)
    assert metrics(tmp_path) == metrics(whole)
    assert equal(final_state(tmp_path), final_state(whole))


RESTORED = {
    "weights": ("task", "updater", "module"),
    "optimizer": ("task", "updater", "optimizer"),
    "weight average": ("task", "updater", "ema"),
    "updater's steps": ("task", "updater", "steps"),
    "task's own counter": ("task", "done"),
    "data position": ("batches",),
    "torch generator": ("rng", 0, "torch"),
    "numpy generator": ("rng", 0, "numpy"),
    "python generator": ("rng", 0, "python"),
    "log window": ("log",),
}


@pytest.mark.parametrize("item", RESTORED)
def test_every_restored_item_is_needed(tmp_path: Path, whole: Path, item: str) -> None:
    """The resume test has teeth: with any one item as in a fresh run, the results differ."""
    fresh, cut = tmp_path / "fresh", tmp_path / "cut"
    train(fresh, steps=0, seed=5)
    with pytest.raises(Preempted):
        train(cut, stop_at(9))
    blank = checkpoint.latest(fresh / CHECKPOINTS_NAME)
    found = checkpoint.latest(cut / CHECKPOINTS_NAME)
    assert blank is not None
    assert found is not None
    source: Any = blank.state
    target: Any = found.state
    *path, last = RESTORED[item]
    for key in path:
        source, target = source[key], target[key]
    target[last] = source[last]
    checkpoint.save(cut / CHECKPOINTS_NAME, 9, found.state)
    train(cut)
    assert not (metrics(cut) == metrics(whole) and equal(final_state(cut), final_state(whole)))


def test_a_finished_run_is_left_as_it_is(tmp_path: Path, whole: Path) -> None:
    before = {path: path.read_bytes() for path in whole.rglob("step-*/*")}
    eval_before = (whole / "eval.json").read_bytes()
    assert train(whole).step == 24
    assert {path: path.read_bytes() for path in whole.rglob("step-*/*")} == before
    assert (whole / "eval.json").read_bytes() == eval_before


def test_resumed_run_does_not_write_into_the_checkpoint_it_came_from(tmp_path: Path) -> None:
    with pytest.raises(Preempted):
        train(tmp_path, stop_at(9))
    train(tmp_path, keep=9)
    assert 9 in checkpoint.steps_in(tmp_path / CHECKPOINTS_NAME)
    for step in checkpoint.steps_in(tmp_path / CHECKPOINTS_NAME):
        checkpoint.verify(checkpoint.path_of(tmp_path / CHECKPOINTS_NAME, step))


def test_without_resume_the_earlier_run_is_moved_aside(tmp_path: Path) -> None:
    train(tmp_path, steps=3)
    train(tmp_path, steps=2, resume=False, seed=1)
    assert checkpoint.steps_in(tmp_path / CHECKPOINTS_NAME) == [2]
    assert checkpoint.steps_in(tmp_path / "replaced-1" / CHECKPOINTS_NAME) == [3]
    assert (tmp_path / "replaced-1" / "metrics.jsonl").exists()


# Config and runtime on resume.


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"hidden": 7}, "hidden (stored 6, now 7)"),
        ({"seed": 1}, "seed (stored 0, now 1)"),
        ({"batch_size": 9, "steps": 4}, "steps (stored 3, now 4), batch_size (stored 8, now 9)"),
        ({"optim": dataclasses.replace(OPTIM, lr=0.5)}, "optim.lr (stored 0.01, now 0.5)"),
    ],
)
def test_changed_config_is_refused_with_the_differing_keys(tmp_path: Path, change: Any, named: str) -> None:
    train(tmp_path, steps=3)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ValueError, match="another config") as error:
        train(tmp_path, **{"steps": 3, **change})
    assert named in str(error.value)
    assert (tmp_path / "config.json").read_bytes() == before


def test_only_the_named_keys_may_change(tmp_path: Path) -> None:
    train(tmp_path, steps=3)
    with pytest.raises(ValueError, match=r"optim.lr") as error:
        train(tmp_path, steps=4, optim=dataclasses.replace(OPTIM, lr=0.5), allow_config_change=("steps",))
    assert "steps (" not in str(error.value)
    trainer = train(
        tmp_path, steps=4, optim=dataclasses.replace(OPTIM, lr=0.5), allow_config_change=("steps", "optim.lr")
    )
    assert trainer.step == 4


def test_free_settings_may_always_change(tmp_path: Path) -> None:
    train(tmp_path, steps=3)
    assert train(tmp_path, steps=3, keep=5, log_every=1, eval_every=1, checkpoint_every=1).step == 3


def test_stored_runtime_settles_what_the_config_leaves_open(tmp_path: Path) -> None:
    train(tmp_path, steps=2, precision="bf16", threads=1)
    trainer = train(tmp_path, steps=2, precision="auto", threads=None, compile="auto")
    assert (trainer.runtime.dtype, trainer.runtime.threads) == (torch.bfloat16, 1)
    with pytest.raises(ValueError, match=r"precision \(stored bf16, now fp32\)"):
        train(tmp_path, steps=2, precision="fp32")
    with pytest.raises(ValueError, match=r"threads \(stored 1, now 2\)"):
        train(tmp_path, steps=2, precision="bf16", threads=2)
    train(tmp_path, steps=2, precision="fp32", allow_config_change=("precision",))


def test_fit_refuses_another_runtime(tmp_path: Path) -> None:
    trainer = train(tmp_path, steps=2)
    other = dataclasses.replace(trainer.runtime, dtype=torch.bfloat16)
    log = loop.RunLog(tmp_path, quiet=True)
    with pytest.raises(ValueError, match=r"precision \(stored fp32, now bf16\)"):
        loop.fit(trainer.task, trainer.batches, trainer.config, other, log)


def test_runtime_refuses_what_is_not_there() -> None:
    with pytest.raises(ValueError, match="fp16 needs a CUDA device"):
        Runtime.from_config(config(Path("x"), precision="fp16"))
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="cuda is not available here: use --device cpu"):
            Runtime.from_config(config(Path("x"), device="cuda"))
        with pytest.raises(ValueError, match="the stored run used cuda"):
            Runtime.from_config(config(Path("x"), device="auto"), {"device": "cuda", "precision": "fp32"})


def test_compile_is_automatic_only_where_it_pays() -> None:
    runtime = Runtime.from_config(config(Path("x"), precision="auto"))
    assert runtime.device.type == "cpu"
    assert not runtime.compile
    assert not Runtime.from_config(config(Path("x"), time_budget_s=59)).compile
    assert Runtime.from_config(config(Path("x"), time_budget_s=60)).compile
    assert Runtime.from_config(config(Path("x"), compile="on")).compile


# Run directory.


def test_unusable_run_directory_is_refused_before_the_first_step(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    for out in (file, file / "below", Path("/proc/nowhere")):
        with pytest.raises(ValueError, match="cannot write in the run directory"):
            train(out, lambda task: pytest.fail("a step was done"))
    assert file.read_text() == "x"


def test_corrupt_newest_checkpoint_is_skipped_on_resume(tmp_path: Path, whole: Path) -> None:
    with pytest.raises(Preempted):
        train(tmp_path, stop_at(9))
    damaged = tmp_path / CHECKPOINTS_NAME / "step-00000009" / checkpoint.TENSORS
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="step-00000009/tensors.safetensors: has"):
        train(tmp_path)
    assert metrics(tmp_path) == metrics(whole)
    assert equal(final_state(tmp_path), final_state(whole))


# Evaluation, averages, non-finite values.


def test_evaluation_leaves_no_trace(tmp_path: Path, whole: Path) -> None:
    train(tmp_path, eval_every=1)
    assert equal(final_state(tmp_path), final_state(whole))
    assert sum("eval/score" in line for line in metrics(tmp_path)) == 24


def test_evaluation_uses_the_averaged_weights_and_restores_modes(tmp_path: Path) -> None:
    trainer = train(tmp_path)
    task = trainer.task
    assert all(module.training for module in task.model.modules())
    with task.updater.averaged():
        expected = task.evaluate()["score"]
    task.model.train()
    assert trainer.evaluate() == {"score": expected}
    task.updater._ema = {}
    assert trainer.evaluate() != {"score": expected}


@pytest.mark.parametrize("poison", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("step", [0, 7, 12])
def test_nonfinite_step_raises_and_saves_the_state_before_it(
    tmp_path: Path, whole: Path, step: int, poison: str
) -> None:
    """Step 12 neither logs nor saves by itself. Without the poison, the run goes on as if it had never been there."""
    with pytest.raises(NonFiniteStep, match=rf"step {step}: loss=-?(nan|inf)") as caught:
        train(tmp_path, poison_step=step, poison=poison)
    assert caught.value.step == step
    assert checkpoint.steps_in(tmp_path / CHECKPOINTS_NAME)[-1] == step
    train(tmp_path, allow_config_change=("poison_step", "poison"))
    assert metrics(tmp_path) == metrics(whole)
    assert equal(final_state(tmp_path), final_state(whole))


def test_skipped_step_is_counted_and_the_raw_value_logged(tmp_path: Path) -> None:
    train(tmp_path, poison_step=6, optim=dataclasses.replace(OPTIM, on_nonfinite="skip"))
    first, second, *rest = [line for line in metrics(tmp_path) if "loss" in line]
    assert second["loss"] == "nan"
    assert second["skipped"] == 0.2
    assert (first.get("nonfinite_total"), second["nonfinite_total"]) == (None, 2)  # loss and gradient norm
    assert all(math.isfinite(line["loss"]) for line in [first, *rest])


# Signals.


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_save_at_the_step_boundary_and_a_second_one_changes_nothing(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    def hook(task: Any) -> None:
        if task.done == 4:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), signal.SIGTERM)

    before = [signal.getsignal(s) for s in signals.SIGNALS]
    with pytest.raises(Preempted) as stopped:
        train(tmp_path, hook)
    assert stopped.value.code == code
    assert [signal.getsignal(s) for s in signals.SIGNALS] == before
    assert checkpoint.steps_in(tmp_path / CHECKPOINTS_NAME) == [5]


def test_signal_during_evaluation_or_save_is_kept_until_the_boundary(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = checkpoint.save

    def save(*args: Any, **options: Any) -> Path:
        if args[1] == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(*args, **options)

    monkeypatch.setattr(checkpoint, "save", save)
    with pytest.raises(Preempted):
        train(tmp_path)
    assert checkpoint.steps_in(tmp_path / CHECKPOINTS_NAME)[-1] in (7, 8)
    monkeypatch.undo()
    train(tmp_path)
    assert metrics(tmp_path) == metrics(whole)


def test_early_handler_ends_at_once_outside_training_and_is_shared_inside() -> None:
    previous = [signal.getsignal(s) for s in signals.SIGNALS]
    try:
        flag = signals.install()
        with pytest.raises(Preempted) as stopped:
            os.kill(os.getpid(), signal.SIGTERM)
        assert stopped.value.code == 143
        flag.number = None
        with pytest.raises(Preempted) as stopped, signals.watch() as inner:  # noqa: PT012
            assert inner is flag
            os.kill(os.getpid(), signal.SIGINT)
            assert flag.number == signal.SIGINT
        assert stopped.value.code == 130  # a signal that the block did not act on is not lost
    finally:
        for number, handler in zip(signals.SIGNALS, previous):
            signal.signal(number, handler)


def test_training_in_another_thread_works_without_handlers(tmp_path: Path) -> None:
    thread = threading.Thread(target=train, args=(tmp_path,), kwargs={"steps": 2})
    thread.start()
    thread.join()
    assert checkpoint.steps_in(tmp_path / CHECKPOINTS_NAME) == [2]
