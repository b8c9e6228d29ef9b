"""Learning what is shown."""

import dataclasses
import json

import gymnasium
import pytest

from rl.trainers import PolicyTrainer

LAKE = {"env": "trillium/FrozenLake-v0", "env_kwargs": {"horizon": 8}}


def test_shown_episodes_are_those_of_the_environment(make_task, seeds):
    task = make_task(clone_steps=1, clone="optimal", **LAKE)
    rollout = task.cloning.rollout(seeds(4))
    assert (rollout.returns_E == 1).all()
    env = gymnasium.make("trillium/FrozenLake-v0", horizon=8)
    observation, _ = env.reset(seed=seeds(1)[0].environment)
    for turn in [t for t, e in zip(rollout.turns, rollout.episode_N.tolist()) if e == 0]:
        assert (turn.observation, turn.action) == (observation, env.unwrapped.optimal_action())
        observation = env.step(turn.action)[0]
    random = make_task(clone_steps=1, **LAKE).cloning.rollout(seeds(40))
    assert {turn.action for turn in random.turns} == set("LDRU")
    assert all(turn.valid for turn in random.turns)


@pytest.mark.parametrize("context", ["observation", "history"])
def test_a_policy_learns_to_act_as_it_is_shown(make_task, config, context, seeds):
    optim = dataclasses.replace(config.optim, lr=1e-2)
    task = make_task(clone_steps=40, clone="optimal", context=context, noise=0.05, optim=optim, **LAKE)
    assert task.evaluate()["return_greedy"] < 1
    losses = [task.train_step(seeds(8, first=8 * n))["loss/cloning"] for n in range(40)]
    assert losses[-1] < losses[0] / 3
    assert task.evaluate()["return_greedy"] == 1


def test_random_play_teaches_the_form_of_actions(make_task, config, seeds):
    """Without a mask a fresh policy writes what is no action; after some random play it does not."""
    optim = dataclasses.replace(config.optim, lr=2e-2)
    task = make_task(clone_steps=30, mask_illegal=False, noise=0.05, optim=optim, **LAKE)
    before = task.evaluate()["valid"]
    for n in range(30):
        task.train_step(seeds(8, first=8 * n))
    scores = task.evaluate()
    assert before < 0.5
    assert scores["valid"] > 0.9
    # The divergence counts from here.
    assert scores["kl_from_start"] == pytest.approx(0, abs=1e-6)
    assert task.train_step(seeds(8, first=300))["valid"] > 0.8


def test_a_resumed_run_has_the_same_start(config, tmp_path):
    changes = {"clone_steps": 2, "steps": 4, "kl_coef": 0.1, "log_every": 1, "checkpoint_every": 1, "keep": 9, **LAKE}
    straight = PolicyTrainer(dataclasses.replace(config, **changes), quiet=True, report=False)
    scores = straight.train()
    resumed = PolicyTrainer.load(config.out, device="cpu")
    assert resumed.evaluate() == pytest.approx(scores, abs=1e-6)
    assert scores["kl_from_start"] > 0
    rows = [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    assert ["loss/cloning" in row for row in rows if "lr" in row] == [True, True, False, False]


def test_what_cannot_be_shown_is_named(make_task, config, tmp_path, seeds):
    with pytest.raises(ValueError, match="has no optimal_action to clone"):
        make_task(clone_steps=1, clone="optimal", env="tests/Counting-v0").train_step(seeds(2))
    with pytest.raises(ValueError, match="clone_steps needs an environment"):
        dataclasses.replace(config, clone_steps=1, prompts=tmp_path, reward="a:b", init_from=tmp_path)
