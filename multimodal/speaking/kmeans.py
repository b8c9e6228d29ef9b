"""K-means clustering: Lloyd's algorithm from a k-means++ start.

Shape suffixes: N = vectors, F = features, K = centres.
"""

import torch
from torch import Tensor


def kmeans(
    vectors_NF: Tensor, num_centres: int, *, iterations: int = 30, generator: torch.Generator | None = None
) -> Tensor:
    """Centres that are near all vectors: a local minimum of the summed squared distance to the nearest centre.

        repeat:  assign every vector to its nearest centre;  move every centre to the mean of its vectors

    It stops early when no vector changes its centre. A centre that loses all its vectors moves to the vector that is
    farthest from its own centre.

    Args:
        vectors_NF: what to cluster, float32, N >= num_centres.
        num_centres: K.
        iterations: at most so many.
        generator: of the start; equally seeded ones give equal centres.

    Returns:
        centres_KF.

    Raises:
        ValueError: fewer vectors than centres.

    References:
        Lloyd 1982, "Least squares quantization in PCM", IEEE Trans. Information Theory.
        Arthur and Vassilvitskii 2007, "k-means++: the advantages of careful seeding", SODA.
    """
    if not 1 <= num_centres <= len(vectors_NF):
        raise ValueError(f"num_centres must be in [1, {len(vectors_NF)}], the number of vectors; got {num_centres}")
    centres_KF = plus_plus(vectors_NF, num_centres, generator)
    before_N: Tensor | None = None
    for _ in range(iterations):
        nearest_N, distance_N = nearest(vectors_NF, centres_KF)
        if before_N is not None and torch.equal(nearest_N, before_N):
            break
        before_N = nearest_N
        counts_K = torch.bincount(nearest_N, minlength=num_centres)
        sums_KF = torch.zeros_like(centres_KF).index_add_(0, nearest_N, vectors_NF)
        centres_KF = sums_KF / counts_K.clamp(min=1)[:, None]
        empty = (counts_K == 0).nonzero().squeeze(1)
        centres_KF[empty] = vectors_NF[distance_N.topk(len(empty)).indices]
    return centres_KF


def plus_plus(vectors_NF: Tensor, num_centres: int, generator: torch.Generator | None = None) -> Tensor:
    """A start for `kmeans`: vectors drawn one by one, each with probability proportional to its squared distance from
    the nearest one that was drawn before."""
    squares_N = vectors_NF.square().sum(1)
    chosen = torch.randint(len(vectors_NF), (1,), generator=generator)
    distance_N = torch.full_like(squares_N, torch.inf)
    picked = [chosen]
    for _ in range(num_centres - 1):
        # |v - c|² = |v|² - 2 v·c + |c|²: many times faster than the differences themselves.
        own_N = squares_N + squares_N[chosen] - 2 * (vectors_NF @ vectors_NF[chosen[0]])
        distance_N = torch.minimum(distance_N, own_N.clamp(min=0))
        distance_N[chosen] = 0.0  # whatever rounding left of it
        cumulative_N = distance_N.double().cumsum(0)
        point = torch.rand(1, generator=generator, dtype=torch.float64) * cumulative_N[-1]
        # Where all vectors were drawn already, as of equal ones, the total is 0 and the last one is drawn again.
        chosen = torch.searchsorted(cumulative_N, point, right=True).clamp(max=len(vectors_NF) - 1)
        picked.append(chosen)
    return vectors_NF[torch.cat(picked)].clone()


def nearest(vectors_NF: Tensor, centres_KF: Tensor) -> tuple[Tensor, Tensor]:
    """int64 N, each vector's nearest centre (the first of equally near ones), and its squared distance."""
    squares_K = centres_KF.square().sum(1)
    numbers, distances = [], []
    for part_NF in vectors_NF.split(8192):  # a table of all N x K distances would not fit
        # |v|² is the same for all centres: it is left out until the nearest is known.
        table_NK = torch.addmm(squares_K, part_NF, centres_KF.T, alpha=-2)
        least_N, number_N = table_NK.min(1)
        numbers.append(number_N)
        distances.append((least_N + part_NF.square().sum(1)).clamp(min=0))
    return torch.cat(numbers), torch.cat(distances)
