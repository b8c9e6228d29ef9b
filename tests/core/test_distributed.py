import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.training import checkpoint, distributed

sys.path.append(str(Path(__file__).parent))
ddprun: Any = importlib.import_module("ddprun")


def metrics(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def start(function: Callable[[int], None], world: int = 2) -> list[int]:
    """Fork processes with the environment that torchrun gives; their pids."""
    port, pids = free_port(), []
    for rank in range(world):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.environ.update(
                    RANK=str(rank),
                    LOCAL_RANK=str(rank),
                    WORLD_SIZE=str(world),
                    MASTER_ADDR="127.0.0.1",
                    MASTER_PORT=str(port),
                )
                function(rank)
                code = 0
            except SystemExit as stop:
                code = int(stop.code or 0)
            except ValueError as error:
                code = 2 if "processes" in str(error) else 3
            finally:
                os._exit(code)
        pids.append(pid)
    return pids


def finish(pids: list[int]) -> list[int]:
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def compare(single: Path, several: Path) -> None:
    expected, found = metrics(single), metrics(several)
    assert len(found) == len(expected) == 21
    for a, b in zip(expected[:20], found[:20]):
        assert b["loss"] == pytest.approx(a["loss"], abs=1e-5)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], abs=1e-4)
    assert expected[19]["loss"] < expected[0]["loss"] - 0.02
    assert found[20]["eval/spread"] == 0.0  # all processes hold the same weights, to the bit


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("single")
    for mode in ("mean", "micro", "raw"):
        ddprun.run(folder / mode, mode)
    return folder


@pytest.mark.parametrize("mode", ["micro", "raw"])
def test_two_processes_give_the_curve_of_one(tmp_path: Path, single: Path, mode: str) -> None:
    assert finish(start(lambda _: ddprun.run(tmp_path, mode) and None)) == [0, 0]
    compare(single / mode, tmp_path)


def test_torchrun(tmp_path: Path, single: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(free_port()),
    ]
    command += [str(Path(__file__).parent / "ddprun.py"), str(tmp_path), "mean"]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2], env={**os.environ, "PYTHONPATH": "."})
    compare(single / "mean", tmp_path / "mean")


def test_signal_to_one_process_stops_all_at_the_same_step_and_resume_is_exact(tmp_path: Path) -> None:
    assert finish(start(lambda _: ddprun.run(tmp_path / "whole", "micro", steps=60) and None)) == [0, 0]
    out = tmp_path / "cut"
    pids = start(lambda _: ddprun.run(out, "micro", steps=60, checkpoint_every=1) and None)
    deadline = time.monotonic() + 60
    while len(checkpoint.steps_in(out / "checkpoints")) < 2 and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(pids[1], signal.SIGTERM)
    assert finish(pids) == [143, 143]
    (newest,) = checkpoint.steps_in(out / "checkpoints")[-1:]
    assert newest < 60
    assert finish(start(lambda _: ddprun.run(out, "micro", steps=60) and None)) == [0, 0]
    first, second = (
        [{k: v for k, v in line.items() if not k.endswith("_s")} for line in metrics(folder)]
        for folder in (tmp_path / "whole", out)
    )
    assert first == second


def test_another_number_of_processes_is_refused_on_resume(tmp_path: Path) -> None:
    ddprun.run(tmp_path, "micro", steps=2)
    assert finish(start(lambda _: ddprun.run(tmp_path, "micro", steps=2) and None)) == [2, 2]


def test_one_process_needs_no_group() -> None:
    assert (distributed.world(), distributed.rank(), distributed.is_main()) == (1, 0, True)
    assert distributed.broadcast("x") == "x"
    assert distributed.gather("x") == ["x"]
    distributed.barrier()
