"""From rewards to advantages, as pure functions of tensors: what differs between algorithms first of all.

Shape suffixes: E = episodes, J = policy tokens of an episode, those of all its turns in a row.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from core.training import distributed


@dataclass(frozen=True)
class Credit:
    """What an advantage function sees of a rollout."""

    reward_EJ: Tensor
    """float32; a turn's reward stands on its last token."""
    mask_EJ: Tensor
    """bool, True = a policy token."""
    ends_turn_EJ: Tensor
    """bool, True at the last token of a turn."""
    value_EJ: Tensor
    """float32; what the critic expected before each token; 0 without a critic."""
    bootstrap_E: Tensor
    """float32; what the critic expects after the last turn of a truncated episode; 0 for a terminated one."""


@dataclass(frozen=True)
class Advantages:
    """What an advantage function gives."""

    advantage_EJ: Tensor
    """float32; how much better than expected each token was; 0 where nothing was sampled."""
    target_EJ: Tensor
    """float32; what the critic should have expected."""


AdvantageFn = Callable[[Credit], Advantages]


def generalized_advantages(
    reward_EJ: Tensor,
    value_EJ: Tensor,
    mask_EJ: Tensor,
    bootstrap_E: Tensor,
    *,
    discount_EJ: Tensor,
    lam: float,
) -> Advantages:
    """Generalised advantage estimation over the tokens of each episode.

    delta_j = r_j + d_j V_{j+1} - V_j and A_j = delta_j + d_j lam A_{j+1}, where V after the last token is the
    bootstrap value. Targets are A + V.

    Args:
        reward_EJ: rewards.
        value_EJ: the critic's value before each token.
        mask_EJ: bool, True = a token of the episode; an episode's tokens stand in a row from 0.
        bootstrap_E: value after the last token: 0 for an episode that terminated, the critic's for one that was cut.
        discount_EJ: d, the discount between a token and the next.
        lam: lambda; 1 gives returns minus values, 0 one-step temporal differences.

    Returns:
        Advantages and targets, 0 where the mask is False.

    References:
        Schulman et al. 2015, "High-Dimensional Continuous Control Using Generalized Advantage Estimation",
        arXiv:1506.02438. Truncation: Pardo et al. 2017, "Time Limits in Reinforcement Learning", arXiv:1712.00378.
    """
    advantage_EJ = torch.zeros_like(reward_EJ)
    following_A_E = torch.zeros_like(bootstrap_E)
    following_V_E = bootstrap_E
    for j in range(reward_EJ.shape[1] - 1, -1, -1):
        real_E, discount_E = mask_EJ[:, j], discount_EJ[:, j]
        delta_E = reward_EJ[:, j] + discount_E * following_V_E - value_EJ[:, j]
        advantage_E = delta_E + discount_E * lam * following_A_E
        advantage_EJ[:, j] = torch.where(real_E, advantage_E, 0.0)
        # Behind the end of an episode the recursion waits with the bootstrap value.
        following_A_E = torch.where(real_E, advantage_E, following_A_E)
        following_V_E = torch.where(real_E, value_EJ[:, j], following_V_E)
    return Advantages(advantage_EJ, torch.where(mask_EJ, advantage_EJ + value_EJ, 0.0))


def turn_discounts(credit: Credit, gamma: float) -> Tensor:
    """discount_EJ: gamma from one turn to the next, 1 between the tokens of a turn, which are one action."""
    return torch.ones_like(credit.reward_EJ).masked_fill(credit.ends_turn_EJ, gamma)


def gae_advantages(gamma: float, lam: float) -> AdvantageFn:
    """`generalized_advantages` with a discount per turn: PPO's advantage function."""

    def advantages(credit: Credit) -> Advantages:
        return generalized_advantages(
            credit.reward_EJ, credit.value_EJ, credit.mask_EJ, credit.bootstrap_E,
            discount_EJ=turn_discounts(credit, gamma), lam=lam,
        )  # fmt: skip

    return advantages


def return_advantages(gamma: float, *, leave_one_out: bool) -> AdvantageFn:
    """Discounted return from each token on, less the mean return of the other episodes: REINFORCE's.

    A baseline that does not depend on the episode's own actions leaves the gradient unbiased; the mean over all
    episodes, its own included, would shrink it by (E - 1) / E.

    Args:
        gamma: discount per turn.
        leave_one_out: subtract the baseline.

    References:
        Williams 1992, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning".
        Kool et al. 2019, "Buy 4 REINFORCE Samples, Get a Baseline for Free!" (leave one out).
    """

    def advantages(credit: Credit) -> Advantages:
        to_go = generalized_advantages(
            credit.reward_EJ, torch.zeros_like(credit.reward_EJ), credit.mask_EJ, torch.zeros_like(credit.bootstrap_E),
            discount_EJ=turn_discounts(credit, gamma), lam=1.0,
        ).advantage_EJ  # fmt: skip
        if not leave_one_out:
            return Advantages(to_go, to_go)
        baseline_E1 = leave_one_out_mean(to_go[:, 0])[:, None]
        return Advantages(torch.where(credit.mask_EJ, to_go - baseline_E1, 0.0), to_go)

    return advantages


def leave_one_out_mean(value_E: Tensor) -> Tensor:
    """For each value the mean of the others, those of other processes included.

    Raises:
        ValueError: there is only one value.
    """
    total, count = distributed.all_reduce_sum(torch.stack((value_E.sum(), value_E.new_tensor(len(value_E)))))
    if count < 2:
        raise ValueError("a leave-one-out baseline needs at least two episodes a step")
    return (total - value_E) / (count - 1)


def normalized(advantage_EJ: Tensor, mask_EJ: Tensor, *, eps: float = 1e-8) -> Tensor:
    """Advantages with mean 0 and standard deviation 1 over the policy tokens of all processes.

    Advantages that are all equal become 0.
    """
    kept_EJ = torch.where(mask_EJ, advantage_EJ, 0.0)
    total, count = distributed.all_reduce_sum(torch.stack((kept_EJ.sum(), mask_EJ.sum().to(kept_EJ))))
    centred_EJ = torch.where(mask_EJ, kept_EJ - total / count, 0.0)
    variance = distributed.all_reduce_sum((centred_EJ**2).sum()) / count
    return centred_EJ / (variance.sqrt() + eps)
