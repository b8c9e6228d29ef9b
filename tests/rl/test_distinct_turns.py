"""Situations that come up several times are computed once, without a difference."""

import torch

from core.interfaces import Samples
from rl.episodes import TRAINING, EpisodeSeed
from rl.networks import hidden_states
from rl.rollout import distinct


def test_turns_are_of_one_kind_when_the_model_reads_the_same():
    contexts = [[1, 2], [1, 2], [1], [1, 2], [1, 2]]
    tokens = torch.tensor([[5, 6, 0], [5, 7, 0], [5, 6, 0], [4, 6, 0], [5, 6, 9]])
    mask = torch.tensor([[1, 1, 0]] * 4 + [[1, 1, 1]]).bool()
    samples = Samples(tokens, mask, torch.zeros(5, 3), mask[:, -1])
    rows, inverse = distinct(contexts, samples)
    # Turns 0 and 1 differ in their last token only, which nothing is predicted from.
    assert rows.tolist() == [0, 2, 3, 4]
    assert inverse.tolist() == [0, 0, 1, 2, 3]


def test_computing_them_once_changes_neither_values_nor_gradients(make_task):
    task = make_task(env="trillium/FrozenLake-v0", env_kwargs={"horizon": 6})
    rollout = task.play([EpisodeSeed.derive(1, TRAINING, n) for n in range(12)])
    assert len(distinct(rollout.contexts, rollout.samples)[0]) < len(rollout.turns) / 2
    weight = torch.randn(len(rollout.turns), 1, 16)
    found = []
    for states in (
        hidden_states(task.policy, rollout.contexts, rollout.samples),
        task.policy.hidden(rollout.contexts, rollout.samples),
    ):
        task.model.module.zero_grad()
        (states * weight).sum().backward()
        found.append((states.detach(), [p.grad.clone() for p in task.model.module.parameters() if p.grad is not None]))
    (once, once_gradients), (each, each_gradients) = found
    torch.testing.assert_close(once, each)
    for ours, theirs in zip(once_gradients, each_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
