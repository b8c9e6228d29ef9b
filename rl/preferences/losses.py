"""Losses of preference learning: pure functions of tensors, one value per example, to be minimised.

They read what a policy and its reference give whole completions: sums or means of log-probabilities over the
completion's tokens, end-of-sequence included.

Shape suffixes: B = examples (pairs of completions, or single ones).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST_LOSS = 1e-6
"""ORPO: mean log-probabilities nearer to 0, whose odds would be infinite, count as this far away."""


def bradley_terry_loss(
    chosen_B: Tensor, rejected_B: Tensor, margin_B: Tensor | None = None, *, centring: float = 0.0
) -> Tensor:
    """-log sigma(r_w - r_l - m) + c (r_w + r_l)^2, of a reward model.

    Args:
        chosen_B: r_w, rewards of the preferred completions.
        rejected_B: r_l, those of the others.
        margin_B: m, by how much the preferred one should win; none is 0.
        centring: c, which keeps rewards around 0.

    Returns:
        loss_B.

    References:
        Bradley and Terry 1952, "Rank Analysis of Incomplete Block Designs"; margin: Touvron et al. 2023, "Llama 2",
        arXiv:2307.09288; centring: Eisenstein et al. 2023, "Helping or Herding?", arXiv:2312.09244.
    """
    advantage_B = chosen_B - rejected_B if margin_B is None else chosen_B - rejected_B - margin_B
    return -F.logsigmoid(advantage_B) + centring * (chosen_B + rejected_B) ** 2


def dpo_loss(chosen_B: Tensor, rejected_B: Tensor, *, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """-(1 - e) log sigma(beta (l_w - l_l)) - e log sigma(-beta (l_w - l_l)).

    Without smoothing its optimum under Bradley-Terry preferences is pi_ref e^(r / beta) / Z.

    Args:
        chosen_B: l_w = log pi(y_w) - log pi_ref(y_w), summed over the tokens.
        rejected_B: l_l, the same of the rejected completions.
        beta: strength of the tie to the reference.
        label_smoothing: e, the share of preferences that are the wrong way round (cDPO).

    References:
        Rafailov et al. 2023, "Direct Preference Optimization", arXiv:2305.18290, eq. 7; Mitchell 2023, "A note on DPO
        with noisy preferences" (smoothing).
    """
    logits_B = beta * (chosen_B - rejected_B)
    loss_B = -F.logsigmoid(logits_B)
    if not label_smoothing:
        return loss_B
    return (1 - label_smoothing) * loss_B - label_smoothing * F.logsigmoid(-logits_B)


def hinge_loss(chosen_B: Tensor, rejected_B: Tensor, *, beta: float) -> Tensor:
    """max(0, 1 - beta (l_w - l_l)), with log-ratios as in `dpo_loss`.

    References:
        Zhao et al. 2023, "SLiC-HF", arXiv:2305.10425; on log-ratios as in Liu et al. 2023, "RSO", arXiv:2309.06657.
    """
    return torch.relu(1 - beta * (chosen_B - rejected_B))


def ipo_loss(chosen_B: Tensor, rejected_B: Tensor, *, beta: float) -> Tensor:
    """(l_w - l_l - 1 / (2 beta))^2: the lead over the reference is driven to a value and no further.

    Args:
        chosen_B: log-ratios as in `dpo_loss`. Our trainer gives means over the tokens, not the sums of the paper, as
            TRL does: with sums the target would not fit completions of different lengths.
        rejected_B: the same of the rejected completions.
        beta: the paper's tau.

    References:
        Azar et al. 2023, "A General Theoretical Paradigm to Understand Learning from Human Preferences",
        arXiv:2310.12036, eq. 17.
    """
    return (chosen_B - rejected_B - 1 / (2 * beta)) ** 2


def kto_loss(
    ratio_B: Tensor,
    desirable_B: Tensor,
    kl: Tensor,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """w_d (1 - sigma(beta (l - z))) for good completions, w_u (1 - sigma(beta (z - l))) for bad ones.

    Args:
        ratio_B: l, log-ratios as in `dpo_loss`, of single completions.
        desirable_B: bool, True = labelled good.
        kl: z, the reference point: an estimate of KL(pi || pi_ref) that is not negative; a constant. See
            `kl_reference_point`.
        beta: strength of the tie to the reference.
        desirable_weight: w_d.
        undesirable_weight: w_u.

    References:
        Ethayarajh et al. 2024, "KTO: Model Alignment as Prospect Theoretic Optimization", arXiv:2402.01306.
    """
    lead_B = beta * (ratio_B - kl.detach())
    good_B = desirable_weight * (1 - torch.sigmoid(lead_B))
    return torch.where(desirable_B, good_B, undesirable_weight * (1 - torch.sigmoid(-lead_B)))


def kl_reference_point(mismatched_B: Tensor) -> Tensor:
    """KTO's z: max(0, mean log-ratio of completions given prompts that they do not belong to), without gradient."""
    return mismatched_B.detach().mean().clamp(min=0)


def simpo_loss(chosen_B: Tensor, rejected_B: Tensor, *, beta: float, margin: float) -> Tensor:
    """-log sigma(beta (p_w - p_l) - gamma), without a reference.

    Args:
        chosen_B: p_w, mean log-probability of a token of the chosen completion under the policy.
        rejected_B: p_l, the same of the rejected one.
        beta: scale of the implicit reward.
        margin: gamma.

    References:
        Meng et al. 2024, "SimPO: Simple Preference Optimization with a Reference-Free Reward", arXiv:2405.14734, eq. 6.
    """
    return -F.logsigmoid(beta * (chosen_B - rejected_B) - margin)


def orpo_loss(chosen_B: Tensor, rejected_B: Tensor, *, weight: float) -> Tensor:
    """-p_w - lambda log sigma(log odds_w - log odds_l), odds = e^p / (1 - e^p): fine-tuning and preference in one.

    Args:
        chosen_B: p_w, mean log-probability of a token of the chosen completion under the policy. The first term is thus
            a mean over completions; in the paper it is one over the tokens of the batch.
        rejected_B: p_l, the same of the rejected one.
        weight: lambda.

    References:
        Hong et al. 2024, "ORPO: Monolithic Preference Optimization without Reference Model", arXiv:2403.07691, eq. 6-7.
    """
    return -chosen_B - weight * F.logsigmoid(_log_odds(chosen_B) - _log_odds(rejected_B))


def _log_odds(logprob_B: Tensor) -> Tensor:
    logprob_B = logprob_B.clamp(max=-SMALLEST_LOSS)
    return logprob_B - torch.log(-torch.expm1(logprob_B))
