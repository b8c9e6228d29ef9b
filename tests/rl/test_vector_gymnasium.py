"""Vector environments of Gymnasium that a user made."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Text
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from rl.adapters.gymnasium_vector import VectorPool, check_vector_env
from rl.environments import EnvironmentFault, EnvironmentPool, make_environment
from rl.episodes import TRAINING, derived_seed

ENV, KWARGS = "trillium/FrozenLake-v0", {"slippery": True, "horizon": 12}


def make():
    return make_environment(ENV, KWARGS)


def episode_starts_and_steps(pool, seeds, limit):
    """Random play, each episode cut after `limit` turns, some copies idle."""
    rngs = [np.random.default_rng(seed) for seed in seeds]
    now = dict(enumerate(pool.reset(dict(enumerate(seeds)))))
    told = [[start] for start in now.values()]
    for _ in range(limit):
        actions = {row: info["legal_actions"][rngs[row].integers(4)] for row, (_, info) in now.items()}
        outcomes = pool.step(actions)
        for row, outcome in outcomes.items():
            told[row].append((actions[row], *outcome))
        now = {row: (o[0], o[4]) for row, o in outcomes.items() if not (o[2] or o[3])}
        if not now:
            break
    return told


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_episodes_are_the_same_as_in_a_pool(kind, mode):
    if kind == "sync":
        vector = SyncVectorEnv([make] * 4, autoreset_mode=mode)
    else:
        vector = AsyncVectorEnv([make] * 4, shared_memory=False, autoreset_mode=mode)
    pool, plain = VectorPool(vector), EnvironmentPool(ENV, KWARGS)
    lengths = set()
    for round_number, count in enumerate((4, 3, 4)):  # fewer episodes than copies, too
        seeds = [derived_seed(5, TRAINING, 10 * round_number + n) for n in range(count)]
        told = episode_starts_and_steps(pool, seeds, 9)
        assert told == episode_starts_and_steps(plain, seeds, 9)
        lengths |= {len(episode) for episode in told}
    assert len(lengths) > 2  # some ended early, while others went on
    pool.close()


def test_shared_memory_gives_zeros_instead_of_text_and_is_refused():
    vector = AsyncVectorEnv([make] * 2, autoreset_mode=AutoresetMode.DISABLED)
    try:
        seen, _ = vector.reset(seed=1)
        assert seen[0] != make().reset(seed=1)[0]  # the defect; the check may go when this fails
        with pytest.raises(ValueError, match="make it with shared_memory=False"):
            check_vector_env(vector)
    finally:
        vector.close()


def test_a_reset_in_the_place_of_a_step_is_refused():
    with pytest.raises(ValueError, match=r"NEXT_STEP .* autoreset_mode=AutoresetMode\.DISABLED"):
        VectorPool(SyncVectorEnv([make] * 2))


def test_spaces_without_text_are_refused():
    vector = SyncVectorEnv([lambda: gymnasium.make("FrozenLake-v1")], autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(ValueError, match=r"observation space Discrete\(16\), which is no text: .*make_environment"):
        VectorPool(vector)


def test_more_episodes_than_copies_are_refused():
    pool = VectorPool(SyncVectorEnv([make] * 2, autoreset_mode=AutoresetMode.DISABLED))
    with pytest.raises(ValueError, match="3 episodes at once need as many copies, got 2"):
        pool.reset({0: 1, 2: 3})


class Broken(gymnasium.Env):
    observation_space = Text(1, charset="x")
    action_space = Text(1, charset="+")

    def __init__(self, reward):
        self.reward = reward

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return "x", {"nested": {"seed": seed}}

    def step(self, action):
        if self.reward is None:
            raise OSError("gone")
        return "x", self.reward, False, False, {}


@pytest.mark.parametrize(
    ("reward", "named"), [(float("nan"), "gave the reward nan"), (None, r"raised OSError \(gone\)")]
)
def test_faults_are_named(reward, named):
    pool = VectorPool(SyncVectorEnv([lambda: Broken(reward)] * 2, autoreset_mode=AutoresetMode.DISABLED))
    assert pool.reset({0: 7, 1: 8})[1] == ("x", {"nested": {"seed": 8}})
    with pytest.raises(EnvironmentFault, match=f"{named} at step 1 of the episode with seed 8"):
        pool.step({1: "+"})
    with pytest.raises(gymnasium.error.ResetNeeded):
        pool.step({1: "+"})
