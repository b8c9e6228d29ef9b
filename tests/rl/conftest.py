"""Small environments and tasks that the tests of the package share."""

import copy
import dataclasses

import gymnasium
import pytest
import torch
from gymnasium.spaces import Text

from core.config import ModelConfig, OptimConfig
from core.training.runtime import Runtime
from core.training.state import seed_everything
from rl.config import PolicyConfig
from rl.episodes import TRAINING, EpisodeSeed
from rl.networks import build_policy
from rl.task import PolicyTask

TINY = ModelConfig(width=16, num_layers=1, num_heads=1, max_length=64)


class Counting(gymnasium.Env):
    """Say `+` or `-` (or a longer word of them) for `length` turns. The observation is the sum, of varying length."""

    observation_space = Text(6, min_length=1, charset="0123456789-")
    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, length=3, longest=1, legal=None, ends=True, render_mode=None):
        self.length, self.legal, self.ends = length, legal, ends
        self.action_space = Text(longest, min_length=1, charset="+-")
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.turns, self.sum = 0, int(self.np_random.choice([0, 100, -7]))
        return str(self.sum), self._info()

    def step(self, action):
        self.turns += 1
        change = action.count("+") - action.count("-")
        self.sum += change
        done = self.turns >= self.length
        return str(self.sum), float(change), done and self.ends, done and not self.ends, self._info()

    def _info(self):
        return {} if self.legal is None else {"legal_actions": self.legal.split()}


@pytest.fixture(scope="session", autouse=True)
def counting_environment():
    gymnasium.register(id="tests/Counting-v0", entry_point=Counting)
    yield
    del gymnasium.registry["tests/Counting-v0"]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def config(tmp_path):
    """A tiny run; override fields with `dataclasses.replace`."""
    return PolicyConfig(
        out=tmp_path / "run", model=TINY, steps=4, batch_size=8, eval_episodes=8, sample_episodes=2, threads=1,
        device="cpu", optim=OptimConfig(lr=1e-2, schedule="constant"),
    )  # fmt: skip


@pytest.fixture
def seeds():
    """Seeds of so many training episodes, from a number on, in groups with the same start."""

    def make(count, first=0, group_size=1):
        return [EpisodeSeed.derive(7, TRAINING, first + n, group_size) for n in range(count)]

    return make


@pytest.fixture
def make_task(config):
    """Task of the tiny run with some fields changed; `noise` moves the zero-initialised weights off zero."""

    def make(*, noise=0.3, dtype=torch.float32, **changes):
        run = dataclasses.replace(config, **changes)
        seed_everything(run.seed)
        critic = run.algorithm == "ppo"
        model, value, player = build_policy(run, critic=critic)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=noise)
        return PolicyTask(model, copy.deepcopy(model), value, player, run, Runtime(torch.device("cpu"), dtype))

    return make
