"""Losses of policy optimisation: pure functions of tensors, one value per token, to be minimised.

They do not know which algorithm made the advantages. The caller averages over the tokens that count.

Shape suffixes: B = turns, T = tokens of a turn, V = vocabulary.
"""

import torch
from torch import Tensor


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
    logp_BTV = logits_BTV.float().log_softmax(-1)
    possible_BTV = logp_BTV > float("-inf")
    # Masked before the product: 0 * -inf is NaN, and NaN would come back in the gradient.
    return -(logp_BTV.exp() * logp_BTV.masked_fill(~possible_BTV, 0.0)).sum(-1)


def token_kl(logits_BTV: Tensor, reference_BTV: Tensor) -> Tensor:
    """kl_BT = KL(softmax(logits) || softmax(reference)) in nats; both under the same token mask."""
    logp_BTV, logq_BTV = logits_BTV.float().log_softmax(-1), reference_BTV.float().log_softmax(-1)
    possible_BTV = logp_BTV > float("-inf")
    return (logp_BTV.exp() * (logp_BTV - logq_BTV).masked_fill(~possible_BTV, 0.0)).sum(-1)


def kl_estimates(logprobs_BT: Tensor, other_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Estimates k1 and k3 of KL(other || policy) from tokens that `other` drew.

    With l = log p - log p_other: k1 = -l and k3 = e^l - 1 - l. Both have the KL as their mean; k3 is never negative and
    varies less.

    References:
        Schulman 2020, "Approximating KL Divergence" (names k1 and k3).
    """
    log_ratio_BT = logprobs_BT - other_BT
    return -log_ratio_BT, torch.expm1(log_ratio_BT) - log_ratio_BT
