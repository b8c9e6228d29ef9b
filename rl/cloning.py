"""What a policy can be shown before it learns by itself: random or optimal play of an environment."""

from collections.abc import Sequence
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from torch import Tensor

from core.training.runtime import Runtime
from core.training.update import Updater
from rl.collect import demonstrate
from rl.config import PolicyConfig
from rl.environments import EnvironmentPool
from rl.episodes import EpisodeSeed
from rl.evaluation import random_action
from rl.players import EnvironmentPlayer
from rl.rollout import Rollout, select

Shown = Literal["random", "optimal"]


def optimal_action(env: gymnasium.Env[Any, Any], legal: Sequence[str] | None, chance: np.random.Generator) -> str:
    """What the policy behind the environment's `optimal_return` does."""
    return str(env.unwrapped.optimal_action())  # type: ignore[attr-defined]


class Cloning:
    """Makes a policy likelier to act as it is shown.

    Args:
        player: where is played.
        config: the run; `clone` says what is shown.
        runtime: device and precision.

    Raises:
        ValueError: optimal play is to be shown, and the environment knows none.

    References:
        Pomerleau 1991, "Efficient Training of Artificial Neural Networks for Autonomous Navigation".
    """

    def __init__(self, player: EnvironmentPlayer, config: PolicyConfig, runtime: Runtime) -> None:
        self.player, self.config, self.runtime = player, config, runtime
        self._pool = EnvironmentPool(config.env, config.env_kwargs)
        self._act = random_action if config.clone == "random" else optimal_action
        if config.clone == "optimal" and not hasattr(self._pool.first(1)[0].unwrapped, "optimal_action"):
            raise ValueError(f"{config.env} has no optimal_action to clone: set clone to random")

    def rollout(self, seeds: Sequence[EpisodeSeed]) -> Rollout:
        """Episodes of what is shown."""
        return demonstrate(
            self._act, self.player.interface, self._pool, seeds, max_turns=self.config.max_turns,
            history=self.config.context == "history", device=self.runtime.device,
        )  # fmt: skip

    def step(self, model: Updater, policy: Any, seeds: Sequence[EpisodeSeed]) -> dict[str, float]:
        """One update on the cross-entropy of the shown tokens, without a mask: the policy learns what is legal too."""
        rollout = self.rollout(seeds)

        def loss(turns: Tensor) -> tuple[Tensor, Tensor]:
            samples = select(rollout.samples, turns)
            with self.runtime.autocast():
                logprobs_NT = policy.logprobs(rollout.contexts_of(turns), samples)
            return -logprobs_NT.sum(), samples.mask_BT.sum()

        order = torch.arange(len(rollout.turns))
        report = model.step_micro(list(order.tensor_split(model.config.accumulate)), loss)
        return {
            "return": float(rollout.returns_E.mean()),
            "loss/cloning": report.loss,
            "grad_norm": report.grad_norm,
            "lr": report.lr,
            "tokens": float(rollout.mask_NT.sum()),
        }
