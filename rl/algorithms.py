"""The algorithms: each an advantage function, a loss per token, and how often the episodes are used.

A new one is an entry in `ALGORITHMS`; rollout, updates, metrics and evaluation stay as they are.

Shape suffixes: B = turns, T = tokens of a turn.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from core.losses import clipped_surrogate_loss
from rl.advantages import AdvantageFn, gae_advantages, return_advantages
from rl.config import PolicyConfig
from rl.losses import reinforce_loss

PolicyLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logprobs_BT with gradient, behaviour logprobs_BT, advantage_BT) → loss_BT."""


@dataclass(frozen=True)
class Algorithm:
    """What makes an algorithm."""

    advantages: AdvantageFn
    """From rewards, and values where there is a critic, to advantages."""
    loss: PolicyLoss
    """From advantages to the loss of each token."""
    critic: bool = False
    """Whether a critic is trained beside the policy."""
    epochs: int = 1
    """Passes over the episodes of a step."""
    minibatches: int = 1
    """Updates a pass."""
    target_kl: float = 0.0
    """No further update on a step's episodes after one that began this far from the policy that played; 0: no limit."""


def reinforce(config: PolicyConfig) -> Algorithm:
    """REINFORCE with the return from each token on, less the mean return of the other episodes; one update a step.

    References:
        Williams 1992, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning".
    """
    leave_one_out = config.baseline == "leave_one_out"
    return Algorithm(
        advantages=return_advantages(config.gamma, leave_one_out=leave_one_out),
        loss=lambda logprobs_BT, behaviour_BT, advantage_BT: reinforce_loss(logprobs_BT, advantage_BT),
    )


def ppo(config: PolicyConfig) -> Algorithm:
    """Proximal policy optimisation: a critic, generalised advantages, several clipped updates a step.

    References:
        Schulman et al. 2017, "Proximal Policy Optimization Algorithms", arXiv:1707.06347.
    """
    return Algorithm(
        advantages=gae_advantages(config.gamma, config.gae_lambda),
        loss=lambda logprobs_BT, behaviour_BT, advantage_BT: clipped_surrogate_loss(
            logprobs_BT, behaviour_BT, advantage_BT, clip=config.clip
        ),
        critic=True,
        epochs=config.epochs,
        minibatches=config.minibatches,
        target_kl=config.target_kl,
    )


ALGORITHMS: dict[str, Callable[[PolicyConfig], Algorithm]] = {"reinforce": reinforce, "ppo": ppo}
"""By the name that `PolicyConfig.algorithm` takes."""
