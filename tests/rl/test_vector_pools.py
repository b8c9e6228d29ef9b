"""Copies of an environment, in this process and in others: the same episodes, and every fault named."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Text

from rl.environments import CheckedEnvironment, EnvironmentFault, EnvironmentPool
from rl.episodes import TRAINING, derived_seed
from rl.vector import WorkerPool, environment_pool

STEP = 3
"""At which the faulty environment does what it may not do."""


class Faulty(gymnasium.Env):
    """Counts, until it does what `fault` says; copies with an even seed only, unless `everywhere`."""

    observation_space = Text(3, min_length=1, charset="0123456789")
    action_space = Text(1, charset="+")

    def __init__(self, fault="", everywhere=True):
        self.fault, self.everywhere = fault, everywhere

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.odd = 0, bool(seed % 2)
        if self.fault == "reset":
            raise OSError("no such board")
        return (7 if self.fault == "start" else "0"), {}

    def step(self, action):
        self.steps += 1
        result = {"observation": str(self.steps), "reward": 1.0, "terminated": False, "truncated": False, "info": {}}
        if self.fault and self.steps == STEP and (self.everywhere or not self.odd):
            self._go_wrong(result)
        return tuple(result.values())

    def _go_wrong(self, result):
        match self.fault:
            case "raise":
                raise ZeroDivisionError("oh")
            case "hang":
                time.sleep(60)
            case "spin":
                while True:
                    pass
            case "die":
                os._exit(3)
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "lambda":
                result["info"] = {"hook": lambda: 0}
            case "short":
                del result["info"]
            case "done":
                result["terminated"] = np.bool_(True)
            case fault:
                name, value = VALUES[fault]
                result[name] = value


VALUES = {
    "nan": ("reward", float("nan")),
    "inf": ("reward", np.float32("inf")),
    "minus": ("reward", -float("inf")),
    "word": ("reward", "1"),
    "array": ("reward", np.ones(2)),
    "none": ("reward", None),
    "bytes": ("observation", b"3"),
    "long": ("observation", "3333"),
    "foreign": ("observation", "x3"),
    "number": ("terminated", 1),
    "nothing": ("truncated", None),
    "list": ("info", []),
}
NAMED = {
    "nan": "gave the reward nan",
    "inf": "gave the reward inf",
    "minus": "gave the reward -inf",
    "word": "gave a reward of type str",
    "array": "gave a reward of type ndarray",
    "none": "gave a reward of type NoneType",
    "bytes": "gave an observation of type bytes",
    "long": "gave an observation of 4 characters, over its space's 3",
    "foreign": "gave an observation with 'x', which its space lacks",
    "number": "gave terminated of type int",
    "nothing": "gave truncated of type NoneType",
    "list": "gave an info of type list",
    "raise": r"raised ZeroDivisionError \(oh\)",
    "short": r"raised ValueError \(not enough values",
}


@pytest.fixture(scope="module", autouse=True)
def faulty_environment():
    gymnasium.register(id="tests/Faulty-v0", entry_point=Faulty)
    yield
    del gymnasium.registry["tests/Faulty-v0"]


def pool_of(workers, fault, **kwargs):
    return environment_pool("tests/Faulty-v0", {"fault": fault, **kwargs}, workers, timeout_s=5)


def pids(pool):
    return [worker.process.pid for worker in pool._workers]


def gone(pid, within_s=10):
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.02)
    return False


def trajectories(pool, seeds, at_once):
    """Episodes of random legal actions, so many of them side by side, the next ones when all of those have ended."""
    told = []
    for first in range(0, len(seeds), at_once):
        part = seeds[first : first + at_once]
        rngs = [np.random.default_rng(seed) for seed in part]
        now = dict(enumerate(pool.reset(dict(enumerate(part)))))
        episodes = [[start] for start in now.values()]
        while now:
            legal = {row: info["legal_actions"] for row, (_, info) in now.items()}
            actions = {row: actions[rngs[row].integers(len(actions))] for row, actions in legal.items()}
            outcomes = pool.step(actions)
            assert list(outcomes) == list(actions)
            for row, outcome in outcomes.items():
                episodes[row].append((actions[row], *outcome))
            now = {row: (o[0], o[4]) for row, o in outcomes.items() if not (o[2] or o[3])}
        told += episodes
    return told


@pytest.mark.parametrize(
    ("env", "kwargs"),
    [("trillium/FrozenLake-v0", {"slippery": True, "horizon": 12}), ("Blackjack-v1", {}), ("CartPole-v1", {})],
)
def test_an_episode_is_the_same_however_many_copies_and_processes_there_are(env, kwargs):
    seeds = [derived_seed(11, TRAINING, number) for number in range(7)]
    expected = trajectories(EnvironmentPool(env, kwargs), seeds, 1)
    assert len({str(episode) for episode in expected}) > 1
    assert trajectories(EnvironmentPool(env, kwargs), seeds, 7) == expected
    for workers, at_once in ((1, 7), (2, 3), (3, 7)):
        pool = WorkerPool(env, kwargs, workers)
        assert trajectories(pool, seeds, at_once) == expected
        started = pids(pool)
        assert len(started) == workers
        pool.close()
        assert all(gone(pid) for pid in started)
        assert trajectories(pool, seeds[:2], 2) == expected[:2]  # it starts again
        pool.close()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("fault", list(NAMED))
def test_what_no_environment_may_give_is_named_with_its_step_and_seed(workers, fault):
    pool = pool_of(workers, fault, everywhere=False)
    pool.reset({0: 41, 1: 42, 2: 43, 3: 45})
    started = pids(pool) if workers else []
    for _ in range(STEP - 1):
        pool.step(dict.fromkeys(range(4), "+"))
    with pytest.raises(
        EnvironmentFault, match=f"^tests/Faulty-v0 {NAMED[fault]}.* at step 3 of the episode with seed 42:"
    ):
        pool.step(dict.fromkeys(range(4), "+"))
    assert all(gone(pid) for pid in started)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_fault_of_the_reset_is_named(workers):
    with pytest.raises(
        EnvironmentFault, match=r"raised OSError \(no such board\) at step 0 of the episode with seed 8"
    ):
        pool_of(workers, "reset").reset({1: 8})
    with pytest.raises(EnvironmentFault, match=r"gave an observation of type int, which is no text, at step 0"):
        pool_of(workers, "start").reset({1: 8})


@pytest.mark.parametrize("fault", ["hang", "spin"])
def test_an_environment_that_hangs_is_named_after_the_timeout_and_all_processes_end(fault):
    pool = WorkerPool("tests/Faulty-v0", {"fault": fault, "everywhere": False}, 3, timeout_s=0.5)
    pool.reset({0: 1, 1: 2, 2: 3, 3: 5})
    started = pids(pool)
    pool.step(dict.fromkeys(range(4), "+"))
    pool.step(dict.fromkeys(range(4), "+"))
    begin = time.monotonic()
    with pytest.raises(EnvironmentFault, match=r"has not answered for 0\.5 s at step 3 of the episode with seed 2"):
        pool.step(dict.fromkeys(range(4), "+"))
    assert time.monotonic() - begin < 5
    assert all(gone(pid) for pid in started)


@pytest.mark.parametrize("fault", ["die", "killed"])
def test_a_process_that_dies_is_named_and_the_others_end(fault):
    pool = WorkerPool("tests/Faulty-v0", {"fault": fault, "everywhere": False}, 2)
    pool.reset({0: 1, 1: 2})
    started = pids(pool)
    pool.step({0: "+", 1: "+"})
    pool.step({0: "+", 1: "+"})
    with pytest.raises(EnvironmentFault, match=r"lost its process.* at step 3 of the episode with seed 2"):
        pool.step({0: "+", 1: "+"})
    assert all(gone(pid) for pid in started)


def test_a_process_that_was_killed_between_two_steps_is_named():
    pool = WorkerPool("tests/Faulty-v0", {}, 2)
    pool.reset({0: 1, 1: 2})
    started = pids(pool)
    os.kill(started[0], signal.SIGKILL)
    assert gone(started[0])
    with pytest.raises(EnvironmentFault, match=r"lost its process"):
        pool.step({0: "+", 1: "+"})
    assert gone(started[1])


def test_what_cannot_be_sent_is_named():
    pool = pool_of(1, "lambda")
    pool.reset({0: 1})
    pool.step({0: "+"})
    pool.step({0: "+"})
    with pytest.raises(EnvironmentFault, match=r"gave what cannot be sent to another process .*: set env_workers to 0"):
        pool.step({0: "+"})


@pytest.mark.parametrize("workers", [0, 2])
def test_a_step_without_an_episode_is_refused(workers):
    pool = pool_of(workers, "done")
    with pytest.raises(gymnasium.error.ResetNeeded, match="tests/Faulty-v0 has no episode going on"):
        pool.step({1: "+"})
    pool.reset({0: 1})
    for _ in range(STEP):
        outcome = pool.step({0: "+"})[0]
    assert outcome[2] is True
    with pytest.raises(gymnasium.error.ResetNeeded):
        pool.step({0: "+"})
    pool.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_environment_that_cannot_be_made_is_a_value_error(workers):
    with pytest.raises(ValueError, match="slipperiness"):
        environment_pool("FrozenLake-v1", {"slipperiness": 1}, workers).reset({0: 1})


def test_only_the_named_copies_are_stepped():
    pool = pool_of(2, "")
    pool.reset({0: 1, 1: 1, 2: 1, 3: 1})
    for row in (3, 3, 0):
        pool.step({row: "+"})
    assert {row: o[0] for row, o in pool.step(dict.fromkeys((2, 0, 3), "+")).items()} == {2: "1", 0: "2", 3: "3"}
    pool.close()


def test_processes_work_side_by_side():
    gymnasium.register(id="tests/Slow-v0", entry_point=Slow)
    try:
        times = {}
        for workers in (1, 4):
            pool = WorkerPool("tests/Slow-v0", {}, workers)
            pool.reset(dict.fromkeys(range(4), 1))
            begin = time.monotonic()
            pool.step(dict.fromkeys(range(4), "+"))
            times[workers] = time.monotonic() - begin
            pool.close()
    finally:
        del gymnasium.registry["tests/Slow-v0"]
    assert times[1] > 0.8  # four of 0.2 s
    assert times[4] < 0.6


class Slow(Faulty):
    def step(self, action):
        time.sleep(0.2)
        return super().step(action)


def test_a_pool_that_is_forgotten_leaves_no_process():
    pool = WorkerPool("tests/Faulty-v0", {}, 2)
    pool.reset({0: 1, 1: 2})
    started = pids(pool)
    del pool
    assert all(gone(pid) for pid in started)


SCRIPT = """
import gymnasium
from gymnasium.spaces import Text
from core.training.signals import install
from rl.vector import WorkerPool

class Spinning(gymnasium.Env):
    observation_space = action_space = Text(1, charset="+")
    def reset(self, *, seed=None, options=None):
        return "+", {}
    def step(self, action):
        while True:
            pass

gymnasium.register(id="tests/Spinning-v0", entry_point=Spinning)
install()
pool = WorkerPool("tests/Spinning-v0", {}, 2)
pool.reset({0: 1, 1: 2})
print(*[worker.process.pid for worker in pool._workers], flush=True)
pool.step({0: "+", 1: "+"})
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_a_run_that_is_stopped_while_environments_spin(number):
    run = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL)
    started = [int(pid) for pid in run.stdout.readline().split()]
    assert len(started) == 2
    time.sleep(0.3)
    os.kill(run.pid, number)
    assert run.wait(20) != 0
    assert all(gone(pid) for pid in started)


def test_wrong_options_are_named(monkeypatch):
    with pytest.raises(ValueError, match="env_workers must be >= 1"):
        WorkerPool("tests/Faulty-v0", {}, 0)
    with pytest.raises(ValueError, match="timeout_s must be > 0"):
        WorkerPool("tests/Faulty-v0", {}, 1, timeout_s=float("nan"))
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(Exception, match="set env_workers to 0"):
        WorkerPool("tests/Faulty-v0", {}, 1)


def test_a_checked_step_costs_less_than_two_microseconds_more():
    class Bare(gymnasium.Env):
        observation_space = Text(5, charset="r0123456789c:")
        action_space = Text(1, charset="LDRU")
        result = "r2c3:", 0.0, False, False, {}

        def reset(self, *, seed=None, options=None):
            return "r2c3:", {}

        def step(self, action):
            return self.result

    bare = Bare()
    checked = CheckedEnvironment(bare)
    checked.reset()

    def seconds(step):
        begin = time.process_time()
        for _ in range(20_000):
            step("L")
        return (time.process_time() - begin) / 20_000

    # The smallest of several, because other programs may run on the core.
    extra = min(seconds(checked.step) for _ in range(7)) - min(seconds(bare.step) for _ in range(7))
    assert extra < 2e-6
