"""RankGAN's scores, by hand."""

import math

import pytest
import torch

from adversarial.ranking import SHARPNESS, rank_scores, ranking_loss


def test_scores_by_hand() -> None:
    reference = torch.tensor([[2.0, 0.0]])
    compared = torch.tensor([[0.0, 5.0], [0.0, 1.0]])
    ranked = torch.tensor([[3.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    e = math.exp(SHARPNESS)
    expected = [e / (e + 2), 1 / 3, 1 / (1 + 2 * e)]
    torch.testing.assert_close(rank_scores(ranked, reference, compared), torch.tensor(expected))
    both = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    assert rank_scores(ranked[:1], both, compared).item() == pytest.approx((e / (e + 2) + 1 / (1 + 2 * e)) / 2)


def test_where_all_are_alike_the_scores_say_so() -> None:
    loss, real, fake = ranking_loss(torch.ones(4, 3), torch.ones(5, 3))
    assert loss.item() == pytest.approx(math.log(6) - math.log(2 / 3))
    torch.testing.assert_close(torch.cat((real, fake)), torch.ones(7))


def test_real_sentences_come_to_rank_high_and_generated_ones_low() -> None:
    torch.manual_seed(0)
    real, fake = torch.randn(32, 8) + 0.5, torch.randn(32, 8) - 0.5
    layer = torch.nn.Linear(8, 4)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    for _ in range(150):
        loss, real_scores, fake_scores = ranking_loss(layer(real), layer(fake))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert real_scores.mean() > 5
    assert real_scores.mean() > 5 * fake_scores.mean()
