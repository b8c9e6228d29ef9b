"""Losses of policy optimisation: pure functions of tensors, one value per token, to be minimised.

They do not know which algorithm made the advantages. `token_weights` says how the caller averages over tokens.

Shape suffixes: B = turns, T = tokens of a turn, V = vocabulary.
"""

from typing import Literal

import torch
from torch import Tensor

from core.losses import clipped_surrogate_loss

Aggregate = Literal["token", "sequence", "episode", "constant"]


def reinforce_loss(logprobs_BT: Tensor, advantage_BT: Tensor) -> Tensor:
    """-A log p, whose gradient is that of the expected return when the tokens are the policy's own.

    Args:
        logprobs_BT: log-probabilities of the sampled tokens, with gradient.
        advantage_BT: A; a constant.

    Returns:
        loss_BT.

    References:
        Williams 1992, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning".
    """
    return -advantage_BT.detach() * logprobs_BT


def sequence_surrogate_loss(
    logprobs_NT: Tensor,
    behaviour_NT: Tensor,
    advantage_NT: Tensor,
    mask_NT: Tensor,
    *,
    clip: float,
    clip_high: float | None = None,
    geometric: bool,
) -> Tensor:
    """The clipped surrogate with one probability ratio for the whole response: of RLOO as TRL has it, and of GSPO.

    With d_t = log p_t - log p_behaviour_t the ratio is exp(sum_t d_t), or with `geometric` exp(mean_t d_t). The
    advantage is that of the response's first token.

    Args:
        logprobs_NT: log-probabilities of the sampled tokens, with gradient.
        behaviour_NT: their log-probabilities when they were drawn.
        advantage_NT: a constant.
        mask_NT: bool, True = a sampled token.
        clip, clip_high: see `clipped_surrogate_loss`.
        geometric: GSPO's length-normalised ratio. Its loss stands on every token of the response (to be averaged by
            `sequence`); else it stands on the first alone.

    Returns:
        loss_NT.

    References:
        Zheng et al. 2025, "Group Sequence Policy Optimization", arXiv:2507.18071. Ahmadian et al. 2024, "Back to
        Basics", arXiv:2402.14740 (the whole response is one action).
    """
    change_NT = torch.where(mask_NT, logprobs_NT - behaviour_NT.detach(), 0.0)
    change_N1 = change_NT.sum(1, keepdim=True)
    if geometric:
        change_N1 = change_N1 / mask_NT.sum(1, keepdim=True).clamp(min=1)
    loss_N1 = clipped_surrogate_loss(
        change_N1, torch.zeros_like(change_N1), advantage_NT[:, :1], clip=clip, clip_high=clip_high
    )
    if geometric:
        return loss_N1.expand_as(mask_NT)
    return torch.cat((loss_N1, loss_N1.new_zeros(len(loss_N1), mask_NT.shape[1] - 1)), 1)


def clipped_weight_loss(logprobs_BT: Tensor, behaviour_BT: Tensor, advantage_BT: Tensor, *, clip_high: float) -> Tensor:
    """-min(rho, 1 + clip_high) A log p, the weight without gradient: every token keeps its gradient (CISPO).

    Args:
        logprobs_BT: log-probabilities of the sampled tokens, with gradient.
        behaviour_BT: their log-probabilities when they were drawn.
        advantage_BT: A; a constant.
        clip_high: how far above 1 the importance weight may be. There is no lower limit, as in the paper's experiments.

    Returns:
        loss_BT.

    References:
        MiniMax 2025, "MiniMax-M1" (CISPO), arXiv:2506.13585.
    """
    weight_BT = (logprobs_BT.detach() - behaviour_BT.detach()).exp().clamp(max=1 + clip_high)
    return -weight_BT * advantage_BT.detach() * logprobs_BT


def token_weights(mask_NT: Tensor, episode_N: Tensor, aggregate: Aggregate, *, length: int) -> tuple[Tensor, Tensor]:
    """How tokens are averaged: the loss of a step is sum(weight_NT loss_NT) / sum(count_NT).

    - `token`: the mean over all tokens (DAPO): long episodes count more.
    - `sequence`: the mean over responses of their token means (GSPO).
    - `episode`: the mean over episodes of their token means (GRPO): tokens of long episodes count less.
    - `constant`: the sum over tokens divided by `length`, the mean over episodes (Dr. GRPO): unbiased.

    Args:
        mask_NT: bool, True = a sampled token.
        episode_N: int64 episode of each turn.
        aggregate: which mean.
        length: the divisor of `constant`.

    Returns:
        (weight_NT, count_NT), float32, 0 where nothing was sampled.

    References:
        Yu et al. 2025, "DAPO", arXiv:2503.14476; Liu et al. 2025, "Understanding R1-Zero-Like Training",
        arXiv:2503.20783 (what the choice does to long answers).
    """
    mask = mask_NT.float()
    if aggregate == "token":
        return mask, mask
    tokens_N = mask.sum(1)
    if aggregate == "sequence":
        weight_NT = mask / tokens_N[:, None]
        return weight_NT, weight_NT
    tokens_E = torch.zeros(int(episode_N.max()) + 1, device=mask.device).index_add_(0, episode_N, tokens_N)
    share_NT = mask / tokens_E[episode_N][:, None]
    return (share_NT if aggregate == "episode" else mask / length), share_NT


def clipped_value_loss(value_BT: Tensor, old_value_BT: Tensor, target_BT: Tensor, *, clip: float) -> Tensor:
    """0.5 max((V - R)^2, (V_old + clamp(V - V_old, -clip, clip) - R)^2).

    Args:
        value_BT: the critic's values, with gradient.
        old_value_BT: its values when the rollout was made.
        target_BT: R.
        clip: how far a value may move; 0 means no limit.

    Returns:
        loss_BT.

    References:
        The clipping is OpenAI Baselines'; Huang et al. 2022, "The 37 Implementation Details of Proximal Policy
        Optimization", no. 9.
    """
    error_BT = (value_BT - target_BT.detach()) ** 2
    if clip:
        near_BT = old_value_BT.detach() + (value_BT - old_value_BT.detach()).clamp(-clip, clip)
        error_BT = torch.maximum(error_BT, (near_BT - target_BT.detach()) ** 2)
    return 0.5 * error_BT


def token_entropy(logits_BTV: Tensor) -> Tensor:
    """entropy_BT = -sum_v p_v log p_v in nats; tokens whose logit is -inf count nothing, also in the gradient."""
    return entropy_of(logits_BTV.float().log_softmax(-1))


def entropy_of(logp_BTV: Tensor) -> Tensor:
    """The same from log-probabilities."""
    # Masked before the product: 0 * -inf is NaN, and NaN would come back in the gradient.
    return -(logp_BTV.exp() * logp_BTV.masked_fill(logp_BTV == float("-inf"), 0.0)).sum(-1)


def token_kl(logits_BTV: Tensor, reference_BTV: Tensor) -> Tensor:
    """kl_BT = KL(softmax(logits) || softmax(reference)) in nats; both under the same token mask."""
    logp_BTV, logq_BTV = logits_BTV.float().log_softmax(-1), reference_BTV.float().log_softmax(-1)
    possible_BTV = logp_BTV > float("-inf")
    return (logp_BTV.exp() * (logp_BTV - logq_BTV).masked_fill(~possible_BTV, 0.0)).sum(-1)


def square_kl(logprobs_NT: Tensor, reference_NT: Tensor) -> Tensor:
    """k2 = 0.5 (log p - log p_ref)^2, as a loss: on the policy's own samples its gradient is that of KL(p || p_ref).

    The mean of k1 = log p - log p_ref has the right value and, as a loss, no gradient at all; that of k3, which GRPO
    adds to its loss, is the gradient of KL(p_ref || p). See tests/rl/test_policy_losses.py.

    Args:
        logprobs_NT: log-probabilities of the sampled tokens, with gradient.
        reference_NT: those of the reference.

    Returns:
        loss_NT.

    References:
        Schulman 2020, "Approximating KL Divergence" (names k2).
    """
    return 0.5 * (logprobs_NT - reference_NT.detach()) ** 2


def kl_estimates(logprobs_BT: Tensor, other_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Estimates k1 and k3 of KL(other || policy) from tokens that `other` drew.

    With l = log p - log p_other: k1 = -l and k3 = e^l - 1 - l. Both have the KL as their mean; k3 is never negative and
    varies less.

    References:
        Schulman 2020, "Approximating KL Divergence" (names k1 and k3).
    """
    log_ratio_BT = logprobs_BT - other_BT
    return -log_ratio_BT, torch.expm1(log_ratio_BT) - log_ratio_BT
