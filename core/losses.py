"""Losses of language models, as pure functions.

Shape suffixes: B = batch, T = positions, N = positions of all rows, V = vocabulary, D = model width.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Logits of more elements than this are computed in pieces; below it one matrix product is faster.
MAX_LOGITS = 2**25


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
