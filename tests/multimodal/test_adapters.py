"""Adapters by hand: standardisation, means, sums over kinds, and what positions they see.

Shape suffixes: N = media, P = positions, F = features, Q = embeddings, D = width.
"""

from typing import Any

import pytest
import torch
from torch import nn

from multimodal.adapters import Adapter, PerceiverAdapter, PooledAdapter
from multimodal.encoders.encoder import Encoder
from multimodal.examples import Example
from multimodal.qformer import QFormerAdapter

FEATURES, STEPS = 5, 6


def encoder(positions_per_step: int = 2) -> Encoder:
    made = Encoder()
    made.num_features, made.positions_per_step, made.max_steps = FEATURES, positions_per_step, STEPS
    return made


def randomised(adapter: Adapter) -> Adapter:
    for parameter in adapter.parameters():
        nn.init.normal_(parameter, std=0.4)
    return adapter.eval()


def some(count: int = 3, positions: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    features_NPF = torch.randn(count, positions, FEATURES, generator=torch.Generator().manual_seed(1))
    lengths_N = torch.tensor([positions, 2, 5])[:count]
    return features_NPF, torch.arange(positions) < lengths_N[:, None]


def test_standardised_features_have_mean_0_and_scale_1() -> None:
    made = encoder()
    made.num_features = 3
    adapter = Adapter(made, 8).eval()
    generator = torch.Generator().manual_seed(0)
    media = [
        torch.randn(length, 3, generator=generator) * torch.tensor([5.0, 0.1, 0.0]) + torch.tensor([100.0, -3.0, 7.0])
        for length in [2, 12] * 200
    ]
    adapter.standardise_by(media)
    values = (torch.cat(media) - adapter.mean_F) * adapter.inverse_scale_F
    torch.testing.assert_close(values.mean(0), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(values.std(0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-2, rtol=0)
    with pytest.raises(ValueError, match="a kind that is tested needs training media"):
        adapter.standardise_by([])
    # The average medium is the blank one.
    mean_1PF = adapter.mean_F.expand(1, 4, 3)
    seen, _ = adapter(mean_1PF, torch.ones(1, 4, dtype=torch.bool))
    adapter.blanked = True
    blank, _ = adapter(media[1][None, :4], torch.ones(1, 4, dtype=torch.bool))
    torch.testing.assert_close(seen, blank)


def test_positions_are_told_apart_in_time_and_place() -> None:
    adapter = randomised(Adapter(encoder(), 8))
    x_14D, mask_14 = adapter(torch.zeros(1, 4, FEATURES), torch.ones(1, 4, dtype=torch.bool))
    place, time, bias = adapter.place.weight, adapter.time.weight, adapter.project.bias
    expected = torch.stack([bias + place[0] + time[0], bias + place[1] + time[0], bias + place[0] + time[1],
                            bias + place[1] + time[1]])  # fmt: skip
    torch.testing.assert_close(x_14D[0], expected)
    assert mask_14.all()


def test_blank_media_are_drawn_while_training_only() -> None:
    adapter = randomised(Adapter(encoder(), 8, blank_probability=0.5))
    features, mask = torch.randn(400, 2, FEATURES), torch.ones(400, 2, dtype=torch.bool)
    adapter.blanked = True
    blank, _ = adapter(features, mask)
    adapter.blanked = False
    adapter.train()
    share = (adapter(features, mask)[0] == blank).flatten(1).all(1).float().mean().item()
    assert 0.4 < share < 0.6
    adapter.eval()
    assert not (adapter(features, mask)[0] == blank).flatten(1).all(1).any()


@pytest.mark.parametrize("shape", [(2, 4, FEATURES + 1), (4, FEATURES)])
def test_features_of_another_encoder_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(media, positions, 5 features\), got .*encoder of this captioner"):
        Adapter(encoder(), 8)(torch.zeros(shape), torch.ones(shape[:2], dtype=torch.bool))


def test_a_pooled_medium_is_the_mean_over_its_real_positions() -> None:
    adapter = randomised(PooledAdapter(encoder(), 8))
    features, mask = some()
    x_N1D, mask_N1 = adapter(features, mask)
    assert x_N1D.shape == (3, 1, 8)
    assert mask_N1.all()
    each, _ = randomised_copy(adapter)(features, mask)
    for row in range(3):
        torch.testing.assert_close(x_N1D[row, 0], each[row][mask[row]].mean(0))


def randomised_copy(adapter: Adapter) -> Adapter:
    """The plain adapter with the same weights."""
    plain = Adapter(encoder(), 8).eval()
    plain.load_state_dict(adapter.state_dict())
    return plain


@pytest.mark.parametrize("kind", [PooledAdapter, PerceiverAdapter, QFormerAdapter])
def test_padded_positions_are_never_seen(kind: Any) -> None:
    adapter = randomised(kind(encoder(), 64))
    features, mask = some()
    noisy = torch.where(mask[..., None], features, 100.0)
    wider = torch.cat((noisy, torch.full((3, 4, FEATURES), 7.0)), dim=1)
    wider_mask = torch.cat((mask, torch.zeros(3, 4, dtype=torch.bool)), dim=1)
    expected, _ = adapter(features, mask)
    torch.testing.assert_close(adapter(wider, wider_mask)[0], expected, atol=1e-5, rtol=1e-4)
    for row in range(3):
        alone, _ = adapter(features[row : row + 1, mask[row]], mask[row][mask[row]][None])
        torch.testing.assert_close(alone[0], expected[row], atol=1e-5, rtol=1e-4)
    assert adapter.num_embeddings(8) == expected.shape[1]


@pytest.mark.parametrize("kind", [PerceiverAdapter, QFormerAdapter])
def test_the_order_of_positions_comes_from_time_and_place_alone(kind: Any) -> None:
    adapter = randomised(kind(encoder(), 64))
    features, _ = some()
    mask = torch.ones(3, 8, dtype=torch.bool)
    order = torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])
    before, _ = adapter(features, mask)
    assert not torch.allclose(adapter(features[:, order], mask)[0], before, atol=1e-3)
    nn.init.zeros_(adapter.time.weight)
    nn.init.zeros_(adapter.place.weight)
    before, _ = adapter(features, mask)
    torch.testing.assert_close(adapter(features[:, order], mask)[0], before, atol=1e-4, rtol=1e-4)


def test_a_perceiver_starts_as_its_normalised_queries() -> None:
    adapter = PerceiverAdapter(encoder(), 64, num_queries=5, num_layers=3).eval()
    features, mask = some()
    x_NQD, mask_NQ = adapter(features, mask)
    assert mask_NQ.shape == (3, 5)
    torch.testing.assert_close(x_NQD[1], adapter.norm(adapter.queries_QD))


def test_concat_adds_the_sum_over_kinds_of_means_over_media(make_bench: Any, made_medium: Any) -> None:
    media = [made_medium("audio", 3, 1), made_medium("image", 1, 2), made_medium("audio", 6, 3)]
    bench = make_bench("concat", examples=[Example((*media, "one"), ("two",)), Example(("one",), ("two",))])
    vectors = [
        bench.captioner.adapters[one.kind](bench.store.features(one)[None].float(), torch.ones(1, n, dtype=torch.bool))
        for one, n in zip(media, (3, 2, 6))
    ]
    first, picture, second = (vector[0, 0] for vector, _ in vectors)
    batch = bench.batch()
    shift_BD = bench.captioner._beside(bench.captioner._embed_media(batch.media), batch.media, 2)["shift_BD"]
    torch.testing.assert_close(shift_BD, torch.stack([(first + second) / 2 + picture, torch.zeros(32)]))
    # A row without media is the language model alone.
    expected = bench.captioner.model(batch.tokens_BT, prefix_BT=batch.prefix_BT).flatten(0, 1)[batch.reads_EL]
    torch.testing.assert_close(bench.captioner(batch)[1], expected[1])
