import importlib
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.training import checkpoint, lock
from core.training.lock import RunLocked

sys.path.append(str(Path(__file__).parent))
toyrun: Any = importlib.import_module("toyrun")
killrun: Any = importlib.import_module("killrun")
OPTIONS = ["--steps", "40", "--pause", "0.005", "--checkpoint-every", "1"]


def fork(function: Callable[[], None]) -> int:
    """Run in a forked process, with the exit code that the interpreter would give; returns its pid.

    Forking costs milliseconds where a new interpreter needs seconds to import torch; `killrun.py` starts new ones.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            os._exit(code)
    return pid


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def toy(out: Path, *options: str) -> Callable[[], None]:
    return lambda: toyrun.main(["--out", str(out), *OPTIONS, *options])


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """An undisturbed run, and the seconds it took."""
    out = tmp_path_factory.mktemp("whole")
    toy(tmp_path_factory.mktemp("warm"), "--steps", "1")()  # what torch imports in the first step, the forks then have
    began = time.monotonic()
    assert exit_code(fork(toy(out))) == 0
    return out, time.monotonic() - began


def test_killed_at_random_moments_and_restarted_the_run_is_the_same_to_the_bit(
    tmp_path: Path, whole: tuple[Path, float]
) -> None:
    moments, met = random.Random(0), 0
    for _ in range(3):
        pid = fork(toy(tmp_path))
        time.sleep(moments.uniform(0.1, 0.6) * whole[1])
        os.kill(pid, signal.SIGKILL)
        met += exit_code(pid) == -signal.SIGKILL
    assert met >= 1
    assert exit_code(fork(toy(tmp_path))) == 0
    assert killrun.differences(whole[0], tmp_path) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stop_signal_ends_the_process_soon_and_resume_is_exact(
    tmp_path: Path, whole: tuple[Path, float], number: signal.Signals, code: int
) -> None:
    pid = fork(toy(tmp_path))
    wait_for(lambda: len(checkpoint.steps_in(tmp_path / "checkpoints")) >= 2)
    began = time.monotonic()
    for _ in range(3):
        os.kill(pid, number)
    assert exit_code(pid) == code
    assert time.monotonic() - began < 5
    assert exit_code(fork(toy(tmp_path))) == 0
    assert killrun.differences(whole[0], tmp_path) == []


def test_signal_during_the_heavy_imports_gives_the_right_exit_code() -> None:
    code = (
        "from core.training import signals; signals.install(); print('ready', flush=True); import torch; import time; "
    )
    code += "time.sleep(60)"
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=root)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143


def test_full_disk_in_a_run_leaves_a_good_checkpoint_and_the_rerun_continues_exactly(
    tmp_path: Path, whole: tuple[Path, float]
) -> None:
    def train() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
        plain = checkpoint.save

        def save(folder: Path, step: int, state: Any, **options: Any) -> Path:
            if step == 9:
                resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 2**20))
            return plain(folder, step, state, **options)

        checkpoint.save = save
        try:
            toy(tmp_path)()
        except checkpoint.CheckpointWriteError as error:
            raise SystemExit(9) from error

    assert exit_code(fork(train)) == 9
    assert checkpoint.steps_in(tmp_path / "checkpoints") == [7, 8]
    assert not list(tmp_path.rglob(".part-*"))
    assert exit_code(fork(toy(tmp_path))) == 0
    assert killrun.differences(whole[0], tmp_path) == []


def test_second_process_is_refused_with_the_pid_of_the_first_and_a_stale_lock_is_free(tmp_path: Path) -> None:
    pid = fork(toy(tmp_path, "--pause", "10"))
    wait_for(lambda: (tmp_path / lock.LOCK_NAME).exists() and (tmp_path / lock.LOCK_NAME).read_text() == str(pid))
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(RunLocked, match=f"in use by the process with pid {pid}:"):
        toy(tmp_path)()
    assert set(before) <= {path.name for path in tmp_path.iterdir()}
    os.kill(pid, signal.SIGKILL)
    exit_code(pid)
    assert (tmp_path / lock.LOCK_NAME).read_text() == str(pid)
    with lock.hold(tmp_path), lock.hold(tmp_path):
        assert (tmp_path / lock.LOCK_NAME).read_text() == str(os.getpid())
    assert (tmp_path / lock.LOCK_NAME).read_text() == ""


@pytest.mark.soak
def test_ten_kills_of_a_real_command(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).parent / "toyrun.py"), "--out", "{out}", *OPTIONS, "--steps", "300"]
    script = str(Path(__file__).parent / "killrun.py")
    run = subprocess.run([sys.executable, script, "--kills", "10", "--folder", str(tmp_path), "--", *command])
    assert run.returncode == 0
