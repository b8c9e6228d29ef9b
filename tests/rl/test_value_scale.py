"""The critic's units: its values stay what they were, and the size of rewards does not matter."""

import dataclasses

import pytest
import torch

from core.policy import ValueHead
from rl.value_scale import RATE, ValueScale


@pytest.fixture
def head():
    torch.manual_seed(0)
    head = ValueHead(8)
    torch.nn.init.normal_(head.linear.weight)
    torch.nn.init.normal_(head.linear.bias)
    return head


def test_mean_and_deviation_by_hand():
    scale = ValueScale(ValueHead(2))
    scale.follow(torch.tensor([1.0, 5.0]))
    assert (scale.mean, scale.deviation) == (3, 2)
    scale.follow(torch.tensor([11.0, 11.0]))  # squares: (13 + 121) / 2 less the mean's 49
    assert scale.mean == 7
    assert scale.deviation == pytest.approx(18**0.5)
    assert scale.units(torch.tensor(7.0)) == 0
    assert scale.values(torch.tensor(1.0)) == pytest.approx(7 + 18**0.5)


def test_old_returns_are_forgotten():
    scale = ValueScale(ValueHead(2))
    for _ in range(20):
        scale.follow(torch.tensor([-1000.0, 0.0]))
    for _ in range(300):
        scale.follow(torch.tensor([0.0, 2.0]))
    assert scale.mean == pytest.approx(1, abs=500 * (1 - RATE) ** 290)
    assert scale.deviation == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_values_do_not_change_with_their_units(head, size):
    scale, hidden_BTD = ValueScale(head), torch.randn(3, 4, 8)
    scale.follow(torch.randn(50))
    before_BT = scale.values(head(hidden_BTD)).detach()
    for _ in range(400):
        scale.follow(torch.randn(50) * size + 3 * size)
    assert scale.deviation == pytest.approx(size, rel=0.3)
    torch.testing.assert_close(scale.values(head(hidden_BTD)).detach(), before_BT, rtol=1e-5, atol=1e-5 * (1 + size))


@pytest.mark.parametrize("value", [0.0, 0.1, -1e6])
def test_equal_returns_have_no_deviation_to_divide_by(head, value):
    scale = ValueScale(head)
    scale.follow(torch.full((7,), value))
    assert scale.deviation == 1
    assert all(parameter.isfinite().all() for parameter in head.parameters())


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_a_critic_learns_as_much_whatever_the_size_of_the_rewards(make_task, seeds, size):
    """One legal action, so what is still to come follows from the observation."""
    task = make_task(algorithm="ppo", critic_lr=1e-2, epochs=8, env="tests/Counting-v0", env_kwargs={"legal": "+"})
    for first in range(0, 40, 8):
        rollout = task.play(seeds(8, first))
        turns = [turn._replace(reward=turn.reward * size) for turn in rollout.turns]
        learned = task.learner.learn(dataclasses.replace(rollout, turns=turns))
    assert learned["explained_variance"] > 0.95


def test_the_units_are_stored_with_the_run(make_task, seeds):
    task = make_task(algorithm="ppo", env="trillium/FrozenLake-v0", env_kwargs={"horizon": 6})
    task.train_step(seeds(8))
    other = make_task(algorithm="ppo", env="trillium/FrozenLake-v0", env_kwargs={"horizon": 6})
    other.load_state_dict(task.state_dict())
    assert other.learner.scale.state_dict() == task.learner.scale.state_dict()
