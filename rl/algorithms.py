"""The algorithms: each an advantage function, a loss per token, a way to average, and how often episodes are used.

A new one is an entry in `ALGORITHMS`; rollout, updates, metrics and evaluation stay as they are.

Shape suffixes: N = turns, T = tokens of a turn.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from core.losses import clipped_surrogate_loss
from rl.advantages import AdvantageFn, Baseline, gae_advantages, return_advantages, same_state_advantages
from rl.config import PolicyConfig
from rl.losses import Aggregate, clipped_weight_loss, reinforce_loss, sequence_surrogate_loss

PolicyLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(logprobs_NT with gradient, behaviour logprobs_NT, advantage_NT, mask_NT) → loss_NT."""


@dataclass(frozen=True)
class Algorithm:
    """What makes an algorithm."""

    advantages: AdvantageFn
    """From rewards, and values where there is a critic, to advantages."""
    loss: PolicyLoss
    """From advantages to the loss of each token."""
    aggregate: Aggregate = "token"
    """How the tokens' losses are averaged; see `rl.losses.token_weights`."""
    group_size: int = 1
    """Episodes with the same start."""
    limits: tuple[float, float] | None = None
    """Probability ratios of tokens beyond which a gradient may be cut; None where tokens are not clipped one by one."""
    critic: bool = False
    """Whether a critic is trained beside the policy."""
    greedy: bool = False
    """Whether each start is played greedily too, as a baseline."""
    dynamic: bool = False
    """Whether groups whose returns are all equal are replaced by others."""
    epochs: int = 1
    """Passes over the episodes of a step."""
    minibatches: int = 1
    """Updates a pass."""
    target_kl: float = 0.0
    """No further update of the policy on a step's episodes after one that began this far from what played; 0: no
    limit. A critic learns on."""


def reinforce(config: PolicyConfig) -> Algorithm:
    """REINFORCE with the return from each token on, less what other episodes had at that turn; one update a step.

    References:
        Williams 1992, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning".
    """
    baseline: Baseline = config.baseline
    return Algorithm(
        advantages=return_advantages(config.gamma, baseline=baseline, by_turn=config.credit == "turn"),
        loss=lambda logprobs_NT, behaviour_NT, advantage_NT, mask_NT: reinforce_loss(logprobs_NT, advantage_NT),
        group_size=1,
        greedy=baseline == "greedy",
    )


def remax(config: PolicyConfig) -> Algorithm:
    """ReMax, self-critical training: the return less that of greedy play from the same start.

    References:
        Li et al. 2023, "ReMax", arXiv:2310.10505; Rennie et al. 2017, "Self-Critical Sequence Training",
        arXiv:1612.00563.
    """
    return reinforce(replace(config, baseline="greedy", credit="episode"))


def ppo(config: PolicyConfig) -> Algorithm:
    """Proximal policy optimisation: a critic, generalised advantages, several clipped updates a step.

    References:
        Schulman et al. 2017, "Proximal Policy Optimization Algorithms", arXiv:1707.06347.
    """
    return Algorithm(
        advantages=gae_advantages(config.gamma, config.gae_lambda),
        loss=_clipped(config, config.clip),
        limits=_limits(config, config.clip),
        critic=True,
        epochs=config.epochs,
        minibatches=config.minibatches,
        target_kl=config.target_kl,
    )


def rloo(config: PolicyConfig) -> Algorithm:
    """REINFORCE leave one out: a response is one action, compared with the others from its start.

    References:
        Ahmadian et al. 2024, "Back to Basics", arXiv:2402.14740.
    """
    loss = partial(sequence_surrogate_loss, clip=config.clip, clip_high=config.clip_high or None, geometric=False)
    return _grouped(config, "leave_one_out", scaled=False, loss=loss)


def grpo(config: PolicyConfig) -> Algorithm:
    """Group relative policy optimisation: returns standardised within a group, every episode counting the same.

    References:
        Shao et al. 2024, "DeepSeekMath", arXiv:2402.03300.
    """
    algorithm = _grouped(config, "mean", scaled=True, loss=_clipped(config, config.clip), aggregate="episode")
    return replace(algorithm, limits=_limits(config, config.clip))


def dr_grpo(config: PolicyConfig) -> Algorithm:
    """Dr. GRPO: neither the standard deviation nor the length divides anything, so nothing is biased by them.

    References:
        Liu et al. 2025, "Understanding R1-Zero-Like Training", arXiv:2503.20783.
    """
    algorithm = _grouped(config, "mean", scaled=False, loss=_clipped(config, config.clip), aggregate="constant")
    return replace(algorithm, limits=_limits(config, config.clip))


def dapo(config: PolicyConfig) -> Algorithm:
    """DAPO: a higher limit for what becomes likelier, token means, and only groups whose returns differ.

    References:
        Yu et al. 2025, "DAPO", arXiv:2503.14476.
    """
    algorithm = _grouped(config, "mean", scaled=True, loss=_clipped(config, 0.28))
    return replace(algorithm, dynamic=True, limits=_limits(config, 0.28))


def gspo(config: PolicyConfig) -> Algorithm:
    """Group sequence policy optimisation: one length-normalised ratio for each response.

    References:
        Zheng et al. 2025, "Group Sequence Policy Optimization", arXiv:2507.18071.
    """
    loss = partial(sequence_surrogate_loss, clip=config.clip, clip_high=config.clip_high or None, geometric=True)
    return _grouped(config, "mean", scaled=True, loss=loss, aggregate="sequence")


def cispo(config: PolicyConfig) -> Algorithm:
    """CISPO: importance weights are clipped, not updates, so that no token loses its gradient.

    References:
        MiniMax 2025, "MiniMax-M1", arXiv:2506.13585.
    """
    high = config.clip_high or 4.0

    def loss(logprobs_NT: Tensor, behaviour_NT: Tensor, advantage_NT: Tensor, mask_NT: Tensor) -> Tensor:
        return clipped_weight_loss(logprobs_NT, behaviour_NT, advantage_NT, clip_high=high)

    return _grouped(config, "mean", scaled=True, loss=loss)


def gigpo(config: PolicyConfig) -> Algorithm:
    """GiGPO: as GRPO with credit for whole episodes, and turns from the same state are compared with one another.

    References:
        Feng et al. 2025, "Group-in-Group Policy Optimization", arXiv:2505.10978.
    """
    algorithm = grpo(config)
    return replace(algorithm, advantages=same_state_advantages(config.gamma, 1.0, scaled=True))


def _grouped(
    config: PolicyConfig, baseline: Baseline, *, scaled: bool, loss: PolicyLoss, aggregate: Aggregate = "token"
) -> Algorithm:
    return Algorithm(
        advantages=return_advantages(config.gamma, baseline=baseline, by_turn=config.credit == "turn", scaled=scaled),
        loss=loss,
        aggregate=aggregate,
        group_size=8,
        epochs=config.epochs,
        minibatches=config.minibatches,
        target_kl=config.target_kl,
    )


def _limits(config: PolicyConfig, high: float) -> tuple[float, float] | None:
    return (1 - config.clip, 1 + (config.clip_high or high)) if config.clip else None


def _clipped(config: PolicyConfig, high: float) -> PolicyLoss:
    def loss(logprobs_NT: Tensor, behaviour_NT: Tensor, advantage_NT: Tensor, mask_NT: Tensor) -> Tensor:
        return clipped_surrogate_loss(
            logprobs_NT, behaviour_NT, advantage_NT, clip=config.clip, clip_high=config.clip_high or high
        )

    return loss


ALGORITHMS: dict[str, Callable[[PolicyConfig], Algorithm]] = {
    algorithm.__name__: algorithm
    for algorithm in (reinforce, remax, ppo, rloo, grpo, dr_grpo, dapo, gspo, cispo, gigpo)
}
"""By the name that `PolicyConfig.algorithm` takes."""


def build_algorithm(config: PolicyConfig) -> Algorithm:
    """The algorithm that a config names, with what the config sets itself in place of the algorithm's own."""
    algorithm = ALGORITHMS[config.algorithm](config)
    if config.group_size:
        algorithm = replace(algorithm, group_size=config.group_size)
    if config.aggregate != "auto":
        algorithm = replace(algorithm, aggregate=config.aggregate)
    if config.dynamic_sampling != "auto":
        algorithm = replace(algorithm, dynamic=config.dynamic_sampling == "on")
    if algorithm.dynamic and algorithm.group_size < 2:
        raise ValueError("dynamic sampling needs a group_size of at least 2: alone no episode differs from others")
    return algorithm
