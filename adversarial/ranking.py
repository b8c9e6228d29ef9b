"""Sentences ranked by how near their features are to those of real reference sentences.

Shape suffixes: N = sentences to rank, U = references, C = sentences to compare with, F = features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

SHARPNESS = 4.0
"""gamma: how much a difference of the cosine counts."""


def rank_scores(ranked_NF: Tensor, references_UF: Tensor, compared_CF: Tensor) -> Tensor:
    """score_N between 0 and 1: the share of each sentence in its softmax with the others, averaged over references.

    score(s) = mean_u exp(gamma cos(s, u)) / (exp(gamma cos(s, u)) + sum_c exp(gamma cos(c, u)))

    Args:
        ranked_NF: features of the sentences to rank, each for itself.
        references_UF: features of real sentences.
        compared_CF: features of the sentences that each is ranked among. With all alike a score is 1 / (C + 1).

    References:
        Lin et al. 2017, "Adversarial Ranking for Language Generation", arXiv:1705.11001.
    """
    references_UF = F.normalize(references_UF, dim=1)
    own_NU = SHARPNESS * F.normalize(ranked_NF, dim=1) @ references_UF.t()
    others_U = torch.logsumexp(SHARPNESS * F.normalize(compared_CF, dim=1) @ references_UF.t(), 0)
    return torch.sigmoid(own_NU - others_U).mean(1)


def ranking_loss(real_BF: Tensor, fake_BF: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What a ranking discriminator minimises: real sentences rank high among generated ones, those low among real.

    L = -mean log score(real) - mean log(1 - score(fake)); half of the real sentences are references.

    Args:
        real_BF: features of at least two real sentences.
        fake_BF: features of generated ones.

    Returns:
        The scalar loss and, in units of the score where all are alike, the scores of real and of generated sentences.
    """
    half = len(real_BF) // 2
    references_UF, real_CF = real_BF[:half], real_BF[half:]
    real_C = rank_scores(real_CF, references_UF, fake_BF)
    fake_B = rank_scores(fake_BF, references_UF, real_CF)
    loss = -real_C.log().mean() - torch.log1p(-fake_B).mean()
    return loss, real_C.detach() * (len(fake_BF) + 1), fake_B.detach() * (len(real_CF) + 1)
