"""CLIPScore and RefCLIPScore by hand: angles chosen so that the cosines are known."""

import math

import pytest
import torch

from multimodal.metrics.clipscore import clip_scores


def at(*degrees: float) -> torch.Tensor:
    """Unit vectors in the plane at these angles."""
    angles = torch.tensor([math.radians(angle) for angle in degrees])
    return torch.stack([angles.cos(), angles.sin()], 1)


def test_both_definitions_by_hand():
    captions, pictures = at(0, 60, 0, 90), at(0, 0, 180, 0)
    scores = clip_scores(captions, pictures)
    assert scores.per_item["clip_score"].tolist() == pytest.approx([2.5, 1.25, 0, 0], abs=1e-6)
    assert scores["clip_score"] == pytest.approx(3.75 / 4, abs=1e-6)
    assert scores.definition == "hessel"
    assert "clipscore:hessel|2.5 max(cos, 0)" in scores.signature
    other = clip_scores(captions, pictures, definition="torchmetrics")
    assert other.per_item["clip_score"].tolist() == pytest.approx([100, 50, 0, 0], abs=1e-5)
    assert other.definition == "torchmetrics"
    assert other.signature != scores.signature
    assert other["clip_score"] == pytest.approx(40 * scores["clip_score"])


def test_references_by_hand():
    # Cosines: picture 1/2 for all; best reference 1, then 1/2 of two, then none above 0.
    scores = clip_scores(at(60, 60, 60), at(0, 0, 0), [at(60), at(200, 0), at(240, 151)])
    clip = 2.5 * 0.5
    expected = [2 * clip * 1 / (clip + 1), 2 * clip * 0.5 / (clip + 0.5), 0.0]
    assert scores.per_item["ref_clip_score"].tolist() == pytest.approx(expected, abs=1e-6)
    assert scores["ref_clip_score"] == pytest.approx(sum(expected) / 3, abs=1e-6)
    # Neither picture nor reference fits.
    assert clip_scores(at(0), at(180), [at(180)])["ref_clip_score"] == 0.0


def test_length_does_not_matter_and_half_precision_is_taken():
    captions, pictures = at(10, 50), at(30, 20)
    plain = clip_scores(captions, pictures)
    assert clip_scores(7 * captions, 0.1 * pictures)["clip_score"] == pytest.approx(plain["clip_score"])
    halves = clip_scores(captions.bfloat16(), pictures.bfloat16())
    assert halves["clip_score"] == pytest.approx(plain["clip_score"], rel=0.02)
    assert clip_scores(captions.requires_grad_(), pictures)["clip_score"] == plain["clip_score"]


def test_more_references_never_lower_the_score():
    generator = torch.Generator().manual_seed(0)
    captions, pictures = torch.randn(20, 6, generator=generator), torch.randn(20, 6, generator=generator)
    references = [torch.randn(4, 6, generator=generator) for _ in range(20)]
    few = clip_scores(captions, pictures, [own[:2] for own in references])
    many = clip_scores(captions, pictures, references)
    assert (many.per_item["ref_clip_score"] >= few.per_item["ref_clip_score"]).all()
    assert many["ref_clip_score"] > few["ref_clip_score"]
    for interval in many.intervals.values():
        assert interval.low <= interval.value <= interval.high


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="hessel or torchmetrics"):
        clip_scores(at(0), at(0), definition="clip")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"got \(1, 2\) and \(2, 2\)"):
        clip_scores(at(0), at(0, 0))
    with pytest.raises(ValueError, match="features of the pictures have rows of zeros"):
        clip_scores(at(0), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="features of the captions"):
        clip_scores(torch.full((1, 2), torch.nan), at(0))
    with pytest.raises(ValueError, match="1 captions but references for 2"):
        clip_scores(at(0), at(0), [at(0), at(0)])
    with pytest.raises(ValueError, match="references of caption 0 must be"):
        clip_scores(at(0), at(0), [torch.zeros(0, 2)])
    with pytest.raises(ValueError, match="RefCLIPScore is defined by Hessel"):
        clip_scores(at(0), at(0), [at(0)], definition="torchmetrics")
