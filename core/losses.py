"""Losses of language models, as pure functions.

Shape suffixes: B = batch, T = positions, N = positions of all rows, V = vocabulary, D = model width, R = positions
taken at a time.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from core.nn.attention import compute_dtype

# Logits of more elements than this are computed in pieces; below it one matrix product is faster.
MAX_LOGITS = 2**25
CACHED = 2**19
"""Logits in float32 that a core's second-level cache holds, 2 MB."""


def cross_entropy_sum(
    logits_NV: Tensor, targets_N: Tensor, mask_N: Tensor | None = None, *, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Sum of the token cross-entropies, and the number of tokens in it.

    -log p(target), or with smoothing e: (1 - e) * -log p(target) + e * mean_v(-log p(v)).

    Args:
        logits_NV: unnormalised scores, any float dtype; the sum is formed in float32.
        targets_N: int64 token ids; values where the mask is False are not read.
        mask_N: True (or 1) where a token counts; None counts all.
        label_smoothing: e.

    Returns:
        (loss_sum, count), both float32 scalars; (0, 0) where nothing counts.

    References:
        Label smoothing: Szegedy et al. 2016, arXiv:1512.00567.
    """
    if mask_N is None:
        losses = F.cross_entropy(logits_NV.float(), targets_N, label_smoothing=label_smoothing, reduction="sum")
        return losses, torch.tensor(float(targets_N.numel()), device=losses.device)
    ignored = torch.where(mask_N.bool(), targets_N, torch.full_like(targets_N, -100))
    losses = F.cross_entropy(
        logits_NV.float(), ignored, ignore_index=-100, label_smoothing=label_smoothing, reduction="sum"
    )
    return losses, mask_N.sum(dtype=torch.float32)


def lm_loss(
    project: Callable[[Tensor], Tensor],
    hidden_BTD: Tensor,
    targets_BT: Tensor,
    mask_BT: Tensor | None = None,
    *,
    vocab_size: int,
    label_smoothing: float = 0.0,
    max_logits: int = MAX_LOGITS,
) -> tuple[Tensor, Tensor]:
    """Next-token cross-entropy from hidden states, without ever holding the logits of all positions.

    Where B*T*V passes `max_logits` the positions are taken in pieces whose logits are computed again on the way back.

    Args:
        project: hidden states to logits, for example `model.logits`.
        hidden_BTD: hidden states; position t predicts targets_BT[:, t].
        targets_BT: int64 token ids, already shifted.
        mask_BT: True where a target counts.
        vocab_size: V.
        label_smoothing: see `cross_entropy_sum`.
        max_logits: most logit elements to hold at a time.

    Returns:
        (loss_sum, count): divide for the mean, after adding up over micro-batches and processes.
    """
    hidden_ND, targets_N = hidden_BTD.flatten(0, 1), targets_BT.flatten()
    mask_N = None if mask_BT is None else mask_BT.flatten()
    piece = max(1, max_logits // vocab_size)

    def one_piece(hidden: Tensor, targets: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        return cross_entropy_sum(project(hidden), targets, mask, label_smoothing=label_smoothing)

    if len(hidden_ND) <= piece:
        return one_piece(hidden_ND, targets_N, mask_N)
    total, count = hidden_ND.new_zeros((), dtype=torch.float32), hidden_ND.new_zeros((), dtype=torch.float32)
    for start in range(0, len(hidden_ND), piece):
        part = slice(start, start + piece)
        mask = None if mask_N is None else mask_N[part]
        loss_sum, tokens = checkpoint(one_piece, hidden_ND[part], targets_N[part], mask, use_reentrant=False)
        total, count = total + loss_sum, count + tokens
    return total, count


def clipped_surrogate_loss(
    logprobs_BT: Tensor, behaviour_BT: Tensor, advantage_BT: Tensor, *, clip: float, clip_high: float | None = None
) -> Tensor:
    """-min(rho A, clamp(rho, 1 - clip, 1 + clip_high) A) with the probability ratio rho = p / p_behaviour.

    Args:
        logprobs_BT: log-probabilities of the sampled tokens, with gradient.
        behaviour_BT: their log-probabilities when they were drawn.
        advantage_BT: A; a constant.
        clip: how far the ratio may move; 0 means no limit.
        clip_high: how far it may move up, where that differs.

    Returns:
        loss_BT.

    References:
        Schulman et al. 2017, "Proximal Policy Optimization Algorithms", arXiv:1707.06347; two limits: Yu et al. 2025,
        "DAPO", arXiv:2503.14476.
    """
    ratio_BT = (logprobs_BT - behaviour_BT.detach()).exp()
    gain_BT = ratio_BT * advantage_BT.detach()
    if not clip:
        return -gain_BT
    high = clip if clip_high is None else clip_high
    return -torch.minimum(gain_BT, ratio_BT.clamp(1 - clip, 1 + high) * advantage_BT.detach())


def linear_cross_entropy(
    hidden_ND: Tensor,
    head: nn.Linear,
    targets_N: Tensor,
    weights_N: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Weighted sum of the token cross-entropies of `head(hidden)`, whose gradient is formed on the way forward.

    So no more logits exist at a time than the processor's cache holds (on a GPU: than `MAX_LOGITS`): twice as fast on a
    CPU as the same by way of logits. It cannot be differentiated twice.

    With advantages as weights its gradient is that of the policy-gradient loss -sum_n A_n log p(token_n).

    Args:
        hidden_ND: hidden states.
        head: from hidden states to logits.
        targets_N: int64 token ids.
        weights_N: float factors of the rows, without gradient: a mask, advantages; None counts every row once.

    Returns:
        (loss_sum, losses_N): the scalar sum_n weight_n * loss_n, and the float32 losses without gradient. Divide the
        sum by a constant as you like.

    References:
        Hsu et al. 2024, "Liger Kernel", arXiv:2410.10989 (the gradient in the forward pass, piece by piece).
    """
    return _LinearCrossEntropy.apply(hidden_ND, head.weight, head.bias, targets_N, weights_N)


class _LinearCrossEntropy(torch.autograd.Function):
    """See `linear_cross_entropy`."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        weights_N: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        wanted = any(ctx.needs_input_grad)
        dtype = compute_dtype(hidden_ND)
        inputs_ND, table_VD = hidden_ND.to(dtype), weight_VD.to(dtype)
        losses_N = hidden_ND.new_empty(len(hidden_ND), dtype=torch.float32)
        to_hidden_ND = torch.empty_like(hidden_ND) if wanted else None
        to_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if wanted else None
        to_bias_V = torch.zeros_like(bias_V, dtype=torch.float32) if wanted and bias_V is not None else None
        most = MAX_LOGITS if hidden_ND.device.type != "cpu" else CACHED
        rows = max(64, most // len(weight_VD))
        for start in range(0, len(hidden_ND), rows):
            part = slice(start, start + rows)
            logits_RV = (inputs_ND[part] @ table_VD.t()).float()
            if bias_V is not None:
                logits_RV += bias_V
            targets_R1 = targets_N[part, None]
            chosen_R1 = logits_RV.gather(1, targets_R1)
            top_R1 = logits_RV.amax(1, keepdim=True)
            sums_R1 = logits_RV.sub_(top_R1).exp_().sum(1, keepdim=True)
            losses_N[part] = (sums_R1.log() + top_R1 - chosen_R1).squeeze(1)
            if to_hidden_ND is None or to_weight_VD is None:
                continue
            # From here on logits_RV is the gradient: weight * (softmax - onehot).
            weights_R1 = torch.ones_like(sums_R1) if weights_N is None else weights_N[part, None].float()
            logits_RV.mul_(weights_R1 / sums_R1).scatter_add_(1, targets_R1, -weights_R1)
            gradient_RV = logits_RV.to(dtype)
            to_hidden_ND[part] = gradient_RV @ table_VD
            if dtype == torch.float32:
                to_weight_VD.addmm_(gradient_RV.t(), inputs_ND[part])
            else:
                to_weight_VD += gradient_RV.t() @ inputs_ND[part]
            if to_bias_V is not None:
                to_bias_V += logits_RV.sum(0)
        ctx.save_for_backward(to_hidden_ND, to_weight_VD, to_bias_V)
        ctx.dtypes = weight_VD.dtype, None if bias_V is None else bias_V.dtype
        ctx.mark_non_differentiable(losses_N)
        return (losses_N if weights_N is None else losses_N * weights_N).sum(), losses_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        to_hidden_ND, to_weight_VD, to_bias_V = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        to_bias_V = None if to_bias_V is None else (to_bias_V * factor).to(bias_dtype)
        return to_hidden_ND * factor, (to_weight_VD * factor).to(weight_dtype), to_bias_V, None, None


def token_logprobs(logits_BTV: Tensor, tokens_BT: Tensor) -> Tensor:
    """logprobs_BT of the given tokens under softmax(logits), in float32."""
    return F.log_softmax(logits_BTV.float(), dim=-1).gather(-1, tokens_BT.unsqueeze(-1)).squeeze(-1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask` is True; 0 where nothing is. Values elsewhere, NaN included, are not read."""
    kept = torch.where(mask.bool(), values, torch.zeros_like(values))
    return kept.sum() / mask.sum().clamp(min=1)


def mse(predicted: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of (predicted - target)^2 over the elements where `mask` is True."""
    squares = (predicted - target) ** 2
    return squares.mean() if mask is None else masked_mean(squares, mask)


def kl_divergence(logits_NV: Tensor, reference_NV: Tensor, mask_N: Tensor | None = None) -> Tensor:
    """Mean over positions of KL(softmax(logits) || softmax(reference)) = sum_v p_v (log p_v - log q_v), in nats."""
    logp, logq = F.log_softmax(logits_NV.float(), -1), F.log_softmax(reference_NV.float(), -1)
    terms_N = (logp.exp() * torch.where(logp.exp() > 0, logp - logq, torch.zeros_like(logp))).sum(-1)
    return terms_N.mean() if mask_N is None else masked_mean(terms_N, mask_N)
