"""Codebooks by k-means, and sounds that become codes and sounds again.

Shape suffixes: S = samples, N = vectors, F = features, K = centres.
"""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from core.errors import RunError
from multimodal.speaking.codec import RATE, CodecSettings, SpeechCodec
from multimodal.speaking.data import trimmed
from multimodal.speaking.kmeans import kmeans, nearest, plus_plus

SMALL = CodecSettings(num_codes=16)


def tone(frequency: float, seconds: float = 0.3) -> Tensor:
    return 0.5 * torch.sin(2 * math.pi * frequency * torch.arange(int(seconds * RATE)) / RATE)


def loudest_hz(waveform_S: Tensor) -> float:
    spectrum = torch.fft.rfft(waveform_S * torch.hann_window(len(waveform_S))).abs()
    return float(spectrum.argmax()) * RATE / len(waveform_S)


@pytest.fixture(scope="module")
def codec() -> SpeechCodec:
    return SpeechCodec.fit([tone(frequency) for frequency in (300, 700, 1500)], SMALL)


@pytest.mark.parametrize("seed", range(5))
def test_centres_of_two_groups_on_a_line(seed: int) -> None:
    vectors = torch.tensor([[0.0], [1.0], [10.0], [11.0], [12.0]])
    found = kmeans(vectors, 2, generator=torch.Generator().manual_seed(seed))
    assert sorted(found.flatten().tolist()) == [0.5, 11.0]


def test_every_round_comes_nearer() -> None:
    vectors = torch.randn(500, 4, generator=torch.Generator().manual_seed(1))
    errors = []
    for rounds in (0, 1, 3, 10):
        centres = kmeans(vectors, 8, iterations=rounds, generator=torch.Generator().manual_seed(0))
        errors.append(float(nearest(vectors, centres)[1].sum()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.9 * errors[0]


def test_equal_seeds_give_equal_centres() -> None:
    vectors = torch.randn(200, 3, generator=torch.Generator().manual_seed(1))
    first, second, other = (kmeans(vectors, 8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_more_centres_than_different_vectors() -> None:
    centres = kmeans(torch.tensor([[1.0], [1.0], [4.0], [4.0]]), 3, generator=torch.Generator().manual_seed(0))
    assert set(centres.flatten().tolist()) == {1.0, 4.0}


def test_too_many_centres() -> None:
    with pytest.raises(ValueError, match=r"\[1, 4\].*got 5"):
        kmeans(torch.zeros(4, 2), 5)


def test_far_vectors_are_drawn_by_squared_distance() -> None:
    # Behind a start at 0 the others, 1 and 3 away, are drawn with probabilities 1/10 and 9/10.
    vectors = torch.tensor([[0.0], [1.0], [3.0]])
    seconds = []
    for seed in range(600):
        first, second = plus_plus(vectors, 2, torch.Generator().manual_seed(seed)).flatten().tolist()
        if first == 0.0:
            seconds.append(second)
    assert len(seconds) > 150
    assert 0.0 not in seconds
    assert seconds.count(3.0) / len(seconds) == pytest.approx(0.9, abs=0.05)


def test_nearest_agrees_with_all_distances() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors, centres = torch.randn(300, 5, generator=generator), torch.randn(20, 5, generator=generator)
    number, distance = nearest(vectors, centres)
    table = torch.cdist(vectors, centres)
    assert torch.equal(number, table.argmin(1))
    torch.testing.assert_close(distance, table.min(1).values.square(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("frequency", [300, 700, 1500])
def test_a_tone_comes_back_as_the_tone(codec: SpeechCodec, frequency: int) -> None:
    sound = tone(frequency)
    codes = codec.encode(sound)
    assert len(codes) == 12  # 0.3 s at 40 codes a second
    again = codec.decode(codes)
    assert len(again) == len(sound)
    assert again.abs().max() <= 1
    middle = slice(RATE // 20, -RATE // 20)
    assert loudest_hz(again[middle]) == pytest.approx(frequency, abs=20)  # the bands there are 30 to 60 Hz apart
    assert float(again[middle].square().mean().sqrt()) == pytest.approx(0.5 / math.sqrt(2), rel=0.35)
    # Heard again it is much nearer to what it was than another tone is.
    apart = {
        name: float((codec.centres_KF[codes] - codec.centres_KF[codec.encode(other)]).abs().mean())
        for name, other in (("itself", again), ("another", tone(1000)))
    }
    assert apart["itself"] < 0.5 * apart["another"]


def test_silence_stays_silent(codec: SpeechCodec) -> None:
    codec = SpeechCodec.fit([tone(300), torch.zeros(RATE // 2)], CodecSettings(num_codes=8))
    assert codec.decode(codec.encode(torch.zeros(RATE // 4))).abs().max() < 1e-3


def test_equal_codes_give_equal_samples(codec: SpeechCodec) -> None:
    codes = codec.encode(tone(500))
    assert torch.equal(codec.decode(codes), codec.decode(codes))
    same = SpeechCodec.fit([tone(frequency) for frequency in (300, 700, 1500)], SMALL)
    assert torch.equal(codec.centres_KF, same.centres_KF)


def test_the_last_chunk_is_filled_up(codec: SpeechCodec) -> None:
    size = SMALL.hop * SMALL.chunk
    assert [len(codec.encode(torch.ones(count) / 2)) for count in (1, size, size + 1)] == [1, 1, 2]


def test_saved_and_loaded(codec: SpeechCodec, tmp_path: Path) -> None:
    codec.save(tmp_path)
    loaded = SpeechCodec.load(tmp_path)
    assert loaded.settings == codec.settings
    codes = codec.encode(tone(700))
    assert loaded.encode(tone(700)) == codes
    assert torch.equal(loaded.decode(codes), codec.decode(codes))
    with pytest.raises(RunError, match="holds no codec"):
        SpeechCodec.load(tmp_path / "empty")


def test_faults(codec: SpeechCodec) -> None:
    assert len(codec.decode([])) == 0
    for codes in ([16], [-1, 3]):
        with pytest.raises(ValueError, match=r"\[0, 16\)"):
            codec.decode(codes)
    with pytest.raises(ValueError, match="12 chunks of 2 frames, fewer than the 16 codes"):
        SpeechCodec.fit([tone(300)], SMALL)


def test_silence_at_the_ends_is_cut_off() -> None:
    sound = torch.tensor([0.0, 0.0005, -0.2, 0.0, 0.3, -0.0005])
    assert torch.equal(trimmed(sound), sound[2:5])
    assert len(trimmed(torch.zeros(9))) == 0
