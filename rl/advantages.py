"""From rewards to advantages, as pure functions of tensors: what differs between algorithms first of all.

Shape suffixes: E = episodes, J = policy tokens of an episode, those of all its turns in a row, K = turns of the longest
episode, G = groups of episodes with the same start.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from core.training import distributed

Baseline = Literal["none", "mean", "leave_one_out", "greedy"]


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
    group_E: Tensor | None = None
    """int64 group of each episode, from 0: episodes of a group began alike. None: all episodes are one group."""
    state_EJ: Tensor | None = None
    """int64 number of the state in which a token's turn was taken; the same number means the same state."""
    greedy_E: Tensor | None = None
    """float32 return of greedy play from the same start."""

    @property
    def turn_EJ(self) -> Tensor:
        """int64 number of each token's turn in its episode, from 0."""
        return self.ends_turn_EJ.long().cumsum(1) - self.ends_turn_EJ.long()

    @property
    def first_EJ(self) -> Tensor:
        """bool, True at the first token of a turn."""
        first_EJ = self.mask_EJ.clone()
        first_EJ[:, 1:] &= self.ends_turn_EJ[:, :-1]
        return first_EJ


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


def return_advantages(
    gamma: float,
    *,
    baseline: Baseline,
    by_turn: bool = True,
    scaled: bool = False,
) -> AdvantageFn:
    """Returns compared with those of other episodes: the advantages of REINFORCE, RLOO, ReMax, GRPO and their kin.

    A = (value - baseline) / scale. A baseline that does not depend on the episode's own actions (`leave_one_out`,
    `greedy`) leaves the gradient unbiased; the mean, its own value included, shrinks it by (n - 1) / n, and the scale
    of the group changes its direction.

    Args:
        gamma: discount per turn.
        baseline: `leave_one_out` subtracts the mean of the other episodes of the group, `mean` that of all, `greedy`
            the return of greedy play from the same start.
        by_turn: a token's value is the discounted return from it on, and it is compared with those of other episodes
            at the same turn; else every token has the value of its whole episode.
        scaled: divide by the standard deviation of what is compared within the group (n - 1 in its denominator), of
            all its turns or of its episodes, plus 1e-4.

    References:
        Williams 1992, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning".
        Kool et al. 2019, "Buy 4 REINFORCE Samples, Get a Baseline for Free!"; Ahmadian et al. 2024, "Back to Basics"
        (RLOO), arXiv:2402.14740. Li et al. 2023, "ReMax", arXiv:2310.10505. Shao et al. 2024, "DeepSeekMath" (GRPO),
        arXiv:2402.03300. Liu et al. 2025, "Understanding R1-Zero-Like Training" (no scale), arXiv:2503.20783.
    """

    def advantages(credit: Credit) -> Advantages:
        to_go_EJ = returns_to_go(credit, gamma)
        value_EJ = to_go_EJ if by_turn else torch.where(credit.mask_EJ, to_go_EJ[:, :1], 0.0)
        if baseline == "none":
            compared_EJ = value_EJ
        elif baseline == "greedy":
            assert credit.greedy_E is not None
            compared_EJ = value_EJ - credit.greedy_E[:, None]
        else:
            expected_EK = turn_baseline(credit, to_go_EJ, own=baseline == "mean")
            turn_EJ = credit.turn_EJ if by_turn else torch.zeros_like(credit.turn_EJ)
            compared_EJ = value_EJ - expected_EK.gather(1, turn_EJ.clamp(max=expected_EK.shape[1] - 1))
        if scaled:
            # Over all turns: episodes with equal returns may still differ in when their rewards came.
            first_EJ = credit.first_EJ if by_turn else credit.first_EJ & (credit.turn_EJ == 0)
            compared_EJ = compared_EJ / (_spread(compared_EJ, first_EJ, credit) + 1e-4)
        return Advantages(torch.where(credit.mask_EJ, compared_EJ, 0.0), to_go_EJ)

    return advantages


def same_state_advantages(gamma: float, weight: float, *, scaled: bool) -> AdvantageFn:
    """GiGPO: an episode's return compared within its group, plus each turn's compared with turns from the same state.

    A = A_episode + weight A_state, where A_state = G_t less the mean of the discounted returns G of all turns in the
    group that were taken in the same state, scaled as A_episode is. Turns whose state nobody else met have A_state 0.

    Args:
        gamma: discount per turn.
        weight: omega of the paper.
        scaled: divide both parts by the standard deviations of what is compared, plus 1e-4.

    References:
        Feng et al. 2025, "Group-in-Group Policy Optimization for LLM Agent Training", arXiv:2505.10978. The states here
        are exact: environments name them.
    """
    whole = return_advantages(gamma, baseline="mean", by_turn=False, scaled=scaled)

    def advantages(credit: Credit) -> Advantages:
        assert credit.state_EJ is not None
        found = whole(credit)
        ends_EJ, group_E = credit.ends_turn_EJ, _groups(credit)
        to_go_EJ = found.target_EJ
        # Turns are compared by what follows their last token, where their reward stands.
        value_N = to_go_EJ[ends_EJ]
        states = torch.stack((group_E[:, None].expand_as(credit.state_EJ)[ends_EJ], credit.state_EJ[ends_EJ]), 1)
        kind_N = states.unique(dim=0, return_inverse=True)[1]
        compared_N = value_N - group_mean(value_N, kind_N)
        if scaled:
            compared_N = compared_N / (group_deviation(value_N, kind_N) + 1e-4)
        turns_EJ = torch.zeros_like(to_go_EJ)
        turns_EJ[ends_EJ] = compared_N
        # From the last token of each turn to all of them.
        turn_EJ = credit.turn_EJ
        by_turn_EK = turns_EJ.new_zeros(len(turns_EJ), int(turn_EJ.max()) + 1)
        by_turn_EK.scatter_add_(1, turn_EJ, turns_EJ)
        state_EJ = torch.where(credit.mask_EJ, by_turn_EK.gather(1, turn_EJ), 0.0)
        return Advantages(found.advantage_EJ + weight * state_EJ, to_go_EJ)

    return advantages


def returns_to_go(credit: Credit, gamma: float) -> Tensor:
    """to_go_EJ: discounted return from each token on, 0 where nothing was sampled."""
    zeros_EJ, zeros_E = torch.zeros_like(credit.reward_EJ), torch.zeros_like(credit.bootstrap_E)
    return generalized_advantages(
        credit.reward_EJ, zeros_EJ, credit.mask_EJ, zeros_E, discount_EJ=turn_discounts(credit, gamma), lam=1.0
    ).advantage_EJ


def turn_baseline(credit: Credit, to_go_EJ: Tensor, *, own: bool) -> Tensor:
    """expected_EK: the mean return from turn k on of the group's episodes that have such a turn.

    Where no other episode has come so far, the baseline is that of the last turn to which one had: like all others it
    does not depend on the episode's own actions.

    Args:
        credit: of the rollout.
        to_go_EJ: from `returns_to_go`.
        own: count the episode itself; else it is left out.

    Raises:
        ValueError: an episode is to be left out of a group that has no other.
    """
    turn_EJ, group_E = credit.turn_EJ, _groups(credit)
    first_EJ = credit.first_EJ
    num_turns = max(distributed.gather(int(turn_EJ.max()) + 1))
    value_EK = to_go_EJ.new_zeros(len(to_go_EJ), num_turns)
    value_EK.scatter_add_(1, turn_EJ, torch.where(first_EJ, to_go_EJ, 0.0))
    alive_EK = torch.zeros_like(value_EK).scatter_add_(1, turn_EJ, first_EJ.to(value_EK.dtype))
    sums_GK, counts_GK = (_group_sum(x_EK, group_E, shared=credit.group_E is None) for x_EK in (value_EK, alive_EK))
    total_EK, count_EK = sums_GK[group_E], counts_GK[group_E]
    others_EK = count_EK - alive_EK
    if not own:
        total_EK, count_EK = total_EK - value_EK.double(), others_EK
        if not bool((count_EK[:, 0] > 0).all()):
            raise ValueError("a leave-one-out baseline needs at least two episodes of each start")
    expected_EK = (total_EK / count_EK.clamp(min=1)).to(value_EK)
    for k in range(1, num_turns):
        expected_EK[:, k] = torch.where(others_EK[:, k] > 0, expected_EK[:, k], expected_EK[:, k - 1])
    return expected_EK


def group_mean(value_E: Tensor, group_E: Tensor) -> Tensor:
    """For each value the mean of its group, itself included."""
    sums_G = _group_sum(torch.stack((value_E, torch.ones_like(value_E)), 1), group_E)
    return (sums_G[:, 0] / sums_G[:, 1]).to(value_E)[group_E]


def group_deviation(value_E: Tensor, group_E: Tensor | None) -> Tensor:
    """For each value the standard deviation of its group (n - 1 in the denominator); 0 for a value alone."""
    group_E = torch.zeros(len(value_E), dtype=torch.long, device=value_E.device) if group_E is None else group_E
    squares_E = (value_E - group_mean(value_E, group_E)) ** 2
    sums_G = _group_sum(torch.stack((squares_E, torch.ones_like(value_E)), 1), group_E)
    return (sums_G[:, 0] / (sums_G[:, 1] - 1).clamp(min=1)).sqrt().to(value_E)[group_E]


def _spread(compared_EJ: Tensor, counted_EJ: Tensor, credit: Credit) -> Tensor:
    """For each episode the root of its group's mean square (n - 1 in the denominator) of the counted values, E1."""
    kept_EJ = torch.where(counted_EJ, compared_EJ, 0.0)
    sums_E2 = torch.stack((kept_EJ.square().sum(1), counted_EJ.sum(1).to(kept_EJ)), 1)
    sums_G2 = _group_sum(sums_E2, _groups(credit), shared=credit.group_E is None)
    return (sums_G2[:, 0] / (sums_G2[:, 1] - 1).clamp(min=1)).sqrt().to(compared_EJ)[_groups(credit)][:, None]


def _groups(credit: Credit) -> Tensor:
    if credit.group_E is not None:
        return credit.group_E
    return torch.zeros(len(credit.reward_EJ), dtype=torch.long, device=credit.reward_EJ.device)


def _group_sum(value_EK: Tensor, group_E: Tensor, *, shared: bool = False) -> Tensor:
    """sums_GK over the episodes of each group; a group that all processes share is summed over them too.

    In float64, in which the mean of equal float32 numbers is that number: else groups without a difference would have
    one.
    """
    shape = int(group_E.max()) + 1, value_EK.shape[1]
    sums_GK = value_EK.new_zeros(shape, dtype=torch.float64).index_add_(0, group_E, value_EK.double())
    return distributed.all_reduce_sum(sums_GK) if shared else sums_GK


def normalized(advantage_EJ: Tensor, mask_EJ: Tensor, *, eps: float = 1e-8) -> Tensor:
    """Advantages with mean 0 and standard deviation 1 over the policy tokens of all processes.

    Advantages that are all equal become 0.
    """
    kept_EJ = torch.where(mask_EJ, advantage_EJ, 0.0)
    total, count = distributed.all_reduce_sum(torch.stack((kept_EJ.sum(), mask_EJ.sum().to(kept_EJ))))
    centred_EJ = torch.where(mask_EJ, kept_EJ - total / count, 0.0)
    variance = distributed.all_reduce_sum((centred_EJ**2).sum()) / count
    return centred_EJ / (variance.sqrt() + eps)
