import os
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from core.training import checkpoint
from core.training.checkpoint import CheckpointWriteError


def state_of(step: int) -> dict[str, Any]:
    return {"weights": torch.full((2000,), float(step)), "n": step}


def in_child(function: Callable[[], None]) -> int:
    """Run in a forked process; its exit code, or minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_at(operation: int) -> None:
    """SIGKILL this process when it comes to the given I/O operation of a save."""
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        if count == operation:
            os.kill(os.getpid(), signal.SIGKILL)

    watched = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}
    sys.addaudithook(lambda event, _: step() if event in watched else None)
    plain_sync, plain_save = os.fsync, checkpoint.save_file

    def fsync(descriptor: int) -> None:
        step()
        plain_sync(descriptor)
        step()

    def save_file(tensors: Any, path: Path) -> None:
        step()
        plain_save(tensors, path)
        content = path.read_bytes()
        for share in (0, 1, 2, 3):
            path.write_bytes(content[: len(content) * share // 3])
            step()

    os.fsync, checkpoint.save_file = fsync, save_file  # type: ignore[assignment]


def test_killed_at_any_operation_of_a_save_the_old_or_the_new_checkpoint_is_whole(tmp_path: Path) -> None:
    outcomes = []
    for operation in range(1, 200):
        folder = tmp_path / str(operation)
        checkpoint.save(folder, 1, state_of(1))

        def save(folder: Path = folder, operation: int = operation) -> None:
            kill_at(operation)
            checkpoint.save(folder, 2, state_of(2), keep=1)

        code = in_child(save)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # nothing may look damaged
            found = checkpoint.latest(folder)
        assert found is not None
        assert found.step in (1, 2)
        assert torch.equal(found.state["weights"], state_of(found.step)["weights"])
        checkpoint.save(folder, 3, state_of(3), keep=1)
        assert sorted(path.name for path in folder.iterdir()) == ["step-00000003"]
        if code == 0:
            break
        assert code == -signal.SIGKILL
        outcomes.append(found.step)
    assert len(outcomes) >= 15
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {1, 2}


def test_killed_while_replacing_a_damaged_checkpoint_the_older_one_is_whole(tmp_path: Path) -> None:
    for operation in range(1, 200):
        folder = tmp_path / str(operation)
        for step in (1, 2):
            checkpoint.save(folder, step, state_of(step))
        (folder / "step-00000002" / checkpoint.STATE).unlink()

        def save(folder: Path = folder, operation: int = operation) -> None:
            kill_at(operation)
            checkpoint.save(folder, 2, state_of(2), keep=2)

        code = in_child(save)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = checkpoint.latest(folder)
        assert found is not None
        if code == 0:
            break
    assert found.step == 2


def limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))


def test_write_error_names_path_and_free_space_and_leaves_nothing(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, state_of(1))

    def save() -> None:
        limit_file_size()
        with pytest.raises(CheckpointWriteError, match=r"cannot write checkpoint .*step-00000002: .*\d MB free"):
            checkpoint.save(tmp_path, 2, state_of(2))

    assert in_child(save) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]).returncode:
        pytest.skip("not permitted to mount a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_full_disk(small_disk: Path) -> None:
    checkpoint.save(small_disk, 1, state_of(1))
    filler = small_disk / "filler"
    filler.write_bytes(bytes(48_000 - 8192))
    fitting = 0
    with pytest.raises(CheckpointWriteError, match="MB free on the disk"):  # noqa: PT012
        for step in range(2, 20):
            checkpoint.save(small_disk, step, state_of(step))
            fitting = step
    assert not list(small_disk.glob(".part-*"))
    found = checkpoint.latest(small_disk)
    assert found is not None
    assert found.step == max(fitting, 1)
    filler.unlink()
    checkpoint.save(small_disk, found.step + 1, state_of(9), keep=2)
    assert checkpoint.steps_in(small_disk)[-1] == found.step + 1
