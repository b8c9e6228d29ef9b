"""The Fréchet distance between two sets of features.

Shape suffixes: N, M = items of either set, F = features.
"""

import torch
from torch import Tensor


def frechet_distance(one_NF: Tensor, other_MF: Tensor) -> float:
    """|mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)) of means and covariances: the distance of two Gaussians.

    It falls with the number of items also where both sets are alike: compare equal numbers, and name the encoder.

    Args:
        one_NF: features of at least two items.
        other_MF: of the others, by the same encoder.

    References:
        Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium",
        arXiv:1706.08500; Semeniuta et al. 2018, "On Accurate Evaluation of GANs for Language Generation",
        arXiv:1806.04936.
    """
    one_NF, other_MF = one_NF.double(), other_MF.double()
    if min(len(one_NF), len(other_MF)) < 2:
        raise ValueError(f"each set needs at least 2 items, got {len(one_NF)} and {len(other_MF)}")
    between = (one_NF.mean(0) - other_MF.mean(0)).square().sum()
    # With S_i = A_i^T A_i, tr (S_1 S_2)^(1/2) is the sum of the singular values of A_1 A_2^T, here by way of factors.
    one_FF, other_FF = (_root(features) for features in (one_NF, other_MF))
    overlap = torch.linalg.svdvals(one_FF @ other_FF).sum()
    return float((between + one_FF.square().sum() + other_FF.square().sum() - 2 * overlap).clamp(min=0))


def _root(features_NF: Tensor) -> Tensor:
    """The symmetric square root of the covariance."""
    values_F, vectors_FF = torch.linalg.eigh(torch.cov(features_NF.t()).reshape(features_NF.shape[1], -1))
    return vectors_FF * values_F.clamp(min=0).sqrt() @ vectors_FF.t()
