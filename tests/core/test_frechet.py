"""The Fréchet distance against its closed form, and the encoder that goes with it."""

import pytest
import torch

from core.metrics.frechet import frechet_distance
from core.metrics.lsa import LatentSemantics


def test_one_dimension_by_hand() -> None:
    # means 1 and 5, standard deviations sqrt(2) and sqrt(8): 16 + (sqrt 8 - sqrt 2)^2 = 18
    assert frechet_distance(torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [7.0]])) == pytest.approx(18)


def test_against_the_closed_form_of_any_covariances() -> None:
    torch.manual_seed(0)
    one, other = torch.randn(50, 4).double() @ torch.randn(4, 4).double(), torch.randn(60, 4).double() + 1
    product = torch.cov(one.t()) @ torch.cov(other.t())
    root_trace = torch.linalg.eigvals(product).sqrt().sum().real
    expected = (
        (one.mean(0) - other.mean(0)).square().sum() + torch.cov(one.t()).trace() + torch.cov(other.t()).trace()
        - 2 * root_trace
    )  # fmt: skip
    assert frechet_distance(one, other) == pytest.approx(float(expected))
    assert frechet_distance(other, one) == pytest.approx(float(expected))
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)


def test_covariances_without_full_rank() -> None:
    torch.manual_seed(0)
    few = torch.randn(3, 10)
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(few, few + 2) == pytest.approx(40, rel=1e-4)


def test_two_items_are_needed() -> None:
    with pytest.raises(ValueError, match="at least 2 items, got 1 and 3"):
        frechet_distance(torch.ones(1, 2), torch.ones(3, 2))


TOPICS = (
    "the cat saw a dog",
    "a dog saw the cat",
    "the cat and the dog",
    "red green blue",
    "blue red green",
    "green blue",
)


def test_sentences_with_common_words_are_near_and_others_far() -> None:
    texts = [line.split() for line in TOPICS]
    encoder = LatentSemantics(texts, features=2)
    vectors = torch.nn.functional.normalize(encoder.encode(texts), dim=1)
    likeness = vectors @ vectors.t()
    assert likeness[:3, :3].min() > 0.7
    assert likeness[3:, 3:].min() > 0.7
    assert likeness[:3, 3:].abs().max() < 0.1
    torch.testing.assert_close(LatentSemantics(texts, features=2).encode(texts), encoder.encode(texts))
    assert not encoder.encode([["unknown"], []]).any()


def test_a_text_without_common_terms_is_encoded_as_nothing() -> None:
    assert LatentSemantics([["a"], ["b"]]).encode([["a"]]).tolist() == [[0.0]]
