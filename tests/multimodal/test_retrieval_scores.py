"""Retrieval scores: by hand, ties, and chunks of features against the whole matrix."""

import numpy as np
import pytest
import torch

from multimodal.metrics.retrieval import feature_retrieval_scores, retrieval_scores


def test_by_hand():
    similarity = torch.tensor(
        [
            [0.9, 0.1, 0.2, 0.3],  # item 0 is right: rank 1
            [0.9, 0.1, 0.2, 0.3],  # item 1: rank 4
            [0.9, 0.8, 0.2, 0.3],  # items 1 and 3: the better one has rank 2
        ]
    )
    scores = retrieval_scores(similarity, [[0], [1], [3, 1]])
    assert scores.per_item["median_rank"].tolist() == [1, 4, 2]
    assert scores.corpus == pytest.approx(
        {
            "recall_1": 1 / 3,
            "recall_5": 1,
            "recall_10": 1,
            "median_rank": 2,
            "mean_reciprocal_rank": (1 + 1 / 4 + 1 / 2) / 3,
        }
    )
    assert scores.per_item["recall_1"].tolist() == [1, 0, 0]
    assert len(scores) == 3
    assert "items:4" in scores.signature


def test_right_items_do_not_stand_in_each_others_way():
    # Five captions of one picture in the first five places: the rank is 1, not that of the last.
    similarity = torch.arange(10.0).flip(0)[None]
    assert retrieval_scores(similarity, [range(5)])["median_rank"] == 1
    assert retrieval_scores(similarity, [[4, 2, 2]])["median_rank"] == 3


def test_ties_go_against_the_model():
    same = torch.zeros(3, 20)
    scores = retrieval_scores(same, [[0], [1], [2]])
    assert scores.per_item["median_rank"].tolist() == [20, 20, 20]
    assert scores["recall_10"] == 0.0
    # Of two right items among 20 that tie, only the 18 wrong ones come first.
    assert retrieval_scores(same[:1], [[3, 7]])["median_rank"] == 19
    # One wrong item ties with the better of two right ones, another with the worse, which does not matter.
    assert retrieval_scores(torch.tensor([[5.0, 5.0, 3.0, 3.0]]), [[0, 2]])["median_rank"] == 2


@pytest.mark.parametrize("chunk_queries", [1, 7, 64, None])
@pytest.mark.parametrize("cosine", [True, False])
def test_chunks_equal_the_whole(chunk_queries: int | None, cosine: bool):
    generator = torch.Generator().manual_seed(0)
    queries, items = torch.randn(50, 8, generator=generator), torch.randn(90, 8, generator=generator)
    right = [sorted({index, (index * 7) % 90}) for index in range(50)]
    one, other = (torch.nn.functional.normalize(x, dim=1) for x in (queries, items)) if cosine else (queries, items)
    whole = retrieval_scores(one @ other.T, right, num_resamples=50)
    parts = feature_retrieval_scores(
        queries, items, right, cosine=cosine, chunk_queries=chunk_queries, num_resamples=50
    )
    assert parts.corpus == whole.corpus
    for name, values in whole.per_item.items():
        assert np.array_equal(parts.per_item[name], values)
    assert parts.intervals == whole.intervals


def test_ranks_equal_sorting():
    generator = torch.Generator().manual_seed(1)
    similarity = torch.randn(30, 40, generator=generator)
    order = similarity.argsort(1, descending=True)
    ranks = (order == torch.arange(30)[:, None]).float().argmax(1) + 1
    scores = retrieval_scores(similarity, [[index] for index in range(30)])
    assert scores.per_item["median_rank"].tolist() == ranks.tolist()
    assert scores["median_rank"] == np.median(ranks.numpy())
    for k in (1, 5, 10):
        assert scores[f"recall_{k}"] == pytest.approx((ranks <= k).float().mean().item())
    for interval in scores.intervals.values():
        assert interval.low <= interval.value <= interval.high


def test_length_matters_only_without_cosine():
    queries, items = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [10.0, 10.0]])
    assert feature_retrieval_scores(queries, items, [[0]])["recall_1"] == 1.0
    assert feature_retrieval_scores(queries, items, [[0]], cosine=False)["recall_1"] == 0.0


def test_wrong_input_is_refused():
    similarity = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"\(queries, items\)"):
        retrieval_scores(similarity[0], [[0]])
    with pytest.raises(ValueError, match="2 queries but right items for 1"):
        retrieval_scores(similarity, [[0]])
    with pytest.raises(ValueError, match="query 1 has no right item"):
        retrieval_scores(similarity, [[0], []])
    with pytest.raises(ValueError, match="query 0 names item 3, there are 3"):
        retrieval_scores(similarity, [[0, 3], [1]])
    with pytest.raises(ValueError, match="query 0 names item -1"):
        retrieval_scores(similarity, [[-1], [1]])
    with pytest.raises(ValueError, match="NaN"):
        retrieval_scores(similarity / 0, [[0], [1]])
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(2, 4\)"):
        feature_retrieval_scores(torch.zeros(2, 3), torch.zeros(2, 4), [[0], [1]])
    with pytest.raises(ValueError, match="chunk_queries"):
        feature_retrieval_scores(torch.ones(1, 3), torch.ones(1, 3), [[0]], chunk_queries=0)
