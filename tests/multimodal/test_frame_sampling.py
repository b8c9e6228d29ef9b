"""Which frames of a clip are chosen."""

from pathlib import Path

import pytest
import torch

from multimodal.media import video
from multimodal.media.video import load_video, sample_frames


def test_uniform_by_hand():
    assert sample_frames(9, 3, "uniform") == [0, 4, 8]
    assert sample_frames(10, 4, "uniform") == [0, 3, 6, 9]
    assert sample_frames(10, 10, "uniform") == list(range(10))
    assert sample_frames(10, 1, "uniform") == [4]
    assert sample_frames(3, 5, "uniform") == [0, 1, 1, 2, 2]
    assert sample_frames(1, 3, "uniform") == [0, 0, 0]


def test_stride_by_hand():
    assert sample_frames(20, 4, "stride", stride=3) == [0, 3, 6, 9]
    assert sample_frames(6, 4, "stride", stride=3) == [0, 3, 5, 5]
    starts = {tuple(sample_frames(8, 3, "stride", stride=3, generator=seeded(n))) for n in range(40)}
    assert starts == {(0, 3, 6), (1, 4, 7)}
    assert sample_frames(6, 4, "stride", stride=3, generator=seeded(0)) == [0, 3, 5, 5]


def test_segment_by_hand():
    # Parts 0-2, 3-5 and 6-8; then 0-2, 3-5 and 6-9.
    assert sample_frames(9, 3, "segment") == [1, 4, 7]
    assert sample_frames(10, 3, "segment") == [1, 4, 7]
    assert sample_frames(2, 4, "segment") == [0, 0, 1, 1]
    drawn = torch.tensor([sample_frames(10, 3, "segment", generator=seeded(n)) for n in range(200)])
    assert [sorted(set(column.tolist())) for column in drawn.T] == [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9]]


@pytest.mark.parametrize("sampling", ["uniform", "stride", "segment"])
def test_samples_are_in_order_and_in_range(sampling: video.Sampling):
    for total in (1, 2, 7, 100):
        for num_frames in (1, 2, 7, 16):
            for generator in (None, seeded(total)):
                chosen = sample_frames(total, num_frames, sampling, stride=2, generator=generator)
                assert len(chosen) == num_frames
                assert chosen == sorted(chosen)
                assert set(chosen) <= set(range(total))


def test_sampling_arguments_are_checked(tmp_path: Path):
    for total, num_frames, stride in ((0, 1, 1), (1, 0, 1), (1, 1, 0)):
        with pytest.raises(ValueError, match="must be at least 1"):
            sample_frames(total, num_frames, "stride", stride=stride)
    with pytest.raises(ValueError, match="sampling must be one of uniform, stride, segment"):
        load_video(tmp_path / "x.mp4", num_frames=2, sampling="dense")  # type: ignore[arg-type]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
