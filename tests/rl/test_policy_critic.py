"""The critic: what it reads, when it is asked, and how it learns."""

import dataclasses

import pytest
import torch

from core.config import OptimConfig
from rl.rollout import select


def test_a_critic_can_read_what_comes_after_the_last_turn_of_a_history(make_task, config, seeds):
    long = {"env": "tests/Counting-v0", "env_kwargs": {"length": 30, "longest": 2}}
    task = make_task(
        algorithm="ppo", context="history", max_turns=4, model=dataclasses.replace(config.model, max_length=1), **long
    )
    assert task.train_step(seeds(4))["truncated"] == 1


def test_a_limit_is_bootstrapped_and_an_end_is_not(make_task, seeds):
    for ends in (True, False):
        task = make_task(algorithm="ppo", env="tests/Counting-v0", env_kwargs={"length": 2, "ends": ends})
        with torch.no_grad():
            task.critic.module.head.linear.bias.fill_(5.0)
        rollout = task.play(seeds(4))
        assert rollout.truncated_E.all() == (not ends)
        assert task.learner._bootstrap(rollout).tolist() == ([0.0] * 4 if ends else [5.0] * 4)


def test_the_critic_reads_the_context_that_a_next_turn_would_have(make_task, seeds):
    task = make_task(algorithm="ppo", max_turns=2, env="tests/Counting-v0", env_kwargs={"longest": 2})
    torch.nn.init.normal_(task.critic.module.head.linear.weight)
    torch.nn.init.normal_(task.critic.module.model.model.layers[0].mlp.down_proj.weight)
    rollout = task.play(seeds(5))
    one = select(rollout.samples, slice(0, 1))
    for e, context in enumerate(rollout.final_contexts):
        expected = task.critic.module([context], one)[0, 0].item()
        assert task.learner._bootstrap(rollout)[e].item() == pytest.approx(expected, abs=1e-5)


def test_a_critic_starts_at_0_and_learns_what_to_expect(make_task, seeds):
    """One legal action that is rewarded each turn: what is still to come follows from the observation."""
    game = {"env": "tests/Counting-v0", "env_kwargs": {"legal": "+"}}
    task = make_task(algorithm="ppo", critic_lr=1e-2, epochs=8, **game)
    explained = [task.train_step(seeds(8, first=8 * n))["explained_variance"] for n in range(10)]
    assert explained[0] == 0
    assert explained[-1] > 0.9


def test_the_critic_learns_on_when_the_policy_has_moved_far_enough(make_task, monkeypatch, seeds):
    task = make_task(algorithm="ppo", epochs=6, target_kl=1e-9, optim=OptimConfig(lr=1e-2))
    updates = {"policy": 0, "critic": 0}
    for name, updater in (("policy", task.model), ("critic", task.critic)):
        original = updater.step_micro

        def counted(*arguments, name=name, original=original):
            updates[name] += 1
            return original(*arguments)

        monkeypatch.setattr(updater, "step_micro", counted)
    metrics = task.train_step(seeds(8))
    assert updates == {"policy": 2, "critic": 6}  # the second began with a policy that had moved
    assert metrics["updates"] == 2
