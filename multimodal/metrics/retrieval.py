"""Retrieval: recall at 1, 5 and 10, median rank and mean reciprocal rank, from similarities or from features.

Shape suffixes: Q = queries, I = items to be found, B = queries of a chunk, F = features, P = right pairs.

The rank of a query is that of its best right item among the wrong ones. Ties go against the model: a wrong item as
similar as the right one is ranked before it, so a model that gives all items one similarity finds nothing.

References:
    Karpathy and Fei-Fei 2015, "Deep Visual-Semantic Alignments for Generating Image Descriptions", arXiv:1412.2306.
"""

from collections.abc import Collection, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from core.metrics.bootstrap import BootstrapSettings, bootstrap_mean, bootstrap_median
from multimodal.metrics.scores import Scores

RECALLS = (1, 5, 10)
_REVISION = 1
# Similarities held at a time: 64 MB of float32.
_CHUNK_NUMBERS = 1 << 24


class RetrievalScores(Scores):
    """Scores of a list of queries; the keys are recall_1, recall_5, recall_10, median_rank and mean_reciprocal_rank.

    For a single query these are 0 or 1, its rank (from 1), and one over its rank.
    """


def retrieval_scores(
    similarity_QI: Tensor,
    right: Sequence[Collection[int]],
    *,
    level: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> RetrievalScores:
    """Score a matrix of similarities.

    Args:
        similarity_QI: higher is more alike; for distances give their negative.
        right: for each query the items that are right for it, one or more.
        level: of the confidence intervals.
        num_resamples: bootstrap resamples of the queries; the items to choose from stay the same.
        seed: of the bootstrap.

    Raises:
        ValueError: for a wrong shape, a query without a right item, an item that does not exist, or a NaN.
    """
    if similarity_QI.ndim != 2 or not similarity_QI.numel():
        raise ValueError(
            f"similarities must be (queries, items), at least one of each, got {tuple(similarity_QI.shape)}"
        )
    num_queries, num_items = similarity_QI.shape
    sets = _checked(right, num_queries, num_items)
    return _scores(_ranks(similarity_QI, sets), num_items, level, num_resamples, seed)


def feature_retrieval_scores(
    queries_QF: Tensor,
    items_IF: Tensor,
    right: Sequence[Collection[int]],
    *,
    cosine: bool = True,
    chunk_queries: int | None = None,
    level: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> RetrievalScores:
    """Score features by the products of queries and items, some queries at a time: no Q x I matrix ever exists.

    Args:
        queries_QF: a row for each query.
        items_IF: a row for each item, on the same device.
        right: for each query the items that are right for it, one or more.
        cosine: scale every row to length 1 first.
        chunk_queries: queries at a time; by default as many as make 16.8 million similarities (64 MiB).
        level: of the confidence intervals.
        num_resamples: bootstrap resamples of the queries; the items to choose from stay the same.
        seed: of the bootstrap.

    Raises:
        ValueError: as `retrieval_scores`, or features that do not fit each other.
    """
    if queries_QF.ndim != 2 or items_IF.ndim != 2 or queries_QF.shape[1] != items_IF.shape[1]:
        raise ValueError(
            "features must be (queries, F) and (items, F) with the same F, got "
            f"{tuple(queries_QF.shape)} and {tuple(items_IF.shape)}"
        )
    num_queries, num_items = len(queries_QF), len(items_IF)
    sets = _checked(right, num_queries, num_items)
    if chunk_queries is None:
        chunk_queries = max(1, _CHUNK_NUMBERS // num_items)
    if chunk_queries < 1:
        raise ValueError(f"chunk_queries must be >= 1, got {chunk_queries}")
    queries_QF, items_IF = queries_QF.float(), items_IF.float()
    if cosine:
        queries_QF, items_IF = normalize(queries_QF, dim=1), normalize(items_IF, dim=1)
    ranks = [
        _ranks(queries_QF[start : start + chunk_queries] @ items_IF.T, sets[start : start + chunk_queries])
        for start in range(0, num_queries, chunk_queries)
    ]
    return _scores(np.concatenate(ranks), num_items, level, num_resamples, seed)


def _checked(right: Sequence[Collection[int]], num_queries: int, num_items: int) -> list[list[int]]:
    """The right items of each query, each once."""
    if not num_queries or not num_items:
        raise ValueError(f"retrieval needs at least one query and one item, got {num_queries} and {num_items}")
    if len(right) != num_queries:
        raise ValueError(f"{num_queries} queries but right items for {len(right)}")
    sets = [sorted(set(own)) for own in right]
    for query, own in enumerate(sets):
        if not own:
            raise ValueError(f"query {query} has no right item: leave it out, or name one")
        if own[0] < 0 or own[-1] >= num_items:
            raise ValueError(
                f"query {query} names item {own[0] if own[0] < 0 else own[-1]}, there are {num_items} items"
            )
    return sets


def _ranks(similarity_BI: Tensor, sets: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Rank of each query, from 1."""
    if similarity_BI.isnan().any():
        raise ValueError("a similarity is NaN: look for rows of zeros or non-finite numbers in the features")
    device = similarity_BI.device
    rows_P = torch.tensor([row for row, own in enumerate(sets) for _ in own], device=device)
    items_P = torch.tensor([item for own in sets for item in own], device=device)
    right_P = similarity_BI[rows_P, items_P]
    best_B = torch.full_like(similarity_BI[:, 0], -torch.inf).scatter_reduce(0, rows_P, right_P, "amax")
    as_similar_B = (similarity_BI >= best_B[:, None]).sum(1)
    # Right items that tie for the best were counted among them.
    right_B = torch.zeros_like(as_similar_B).index_add_(0, rows_P, (right_P >= best_B[rows_P]).long())
    return (as_similar_B - right_B + 1).cpu().numpy().astype(np.float64)


def _scores(
    ranks_Q: NDArray[np.float64], num_items: int, level: float, num_resamples: int, seed: int
) -> RetrievalScores:
    settings: BootstrapSettings = {"level": level, "num_resamples": num_resamples, "seed": seed}
    means = {f"recall_{k}": (ranks_Q <= k).astype(np.float64) for k in RECALLS}
    means["mean_reciprocal_rank"] = 1 / ranks_Q
    return RetrievalScores(
        per_item={**means, "median_rank": ranks_Q},
        intervals={name: bootstrap_mean(values_Q, **settings) for name, values_Q in means.items()}
        | {"median_rank": bootstrap_median(ranks_Q, **settings)},
        signature=f"retrieval|items:{num_items}|rank:best right item|ties:against the model|rev:{_REVISION}",
    )
