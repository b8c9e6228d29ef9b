"""Features of sounds as the cache computes them with a real encoder: alone, in batches, on a GPU."""

import pytest
import torch

from core.training.runtime import Runtime
from multimodal.encoders.cache import encode_media
from multimodal.encoders.spectrogram import SpectrogramEncoder
from multimodal.examples import Medium

CPU = Runtime(torch.device("cpu"))


def sounds(*lengths: int) -> list[Medium]:
    chance = torch.Generator().manual_seed(0)
    return [Medium("audio", torch.rand(length, generator=chance), rate=8_000) for length in lengths]


def test_a_real_encoder_gives_sounds_the_features_that_they_have_alone() -> None:
    torch.manual_seed(0)
    encoder = SpectrogramEncoder(width=64, num_layers=1)
    encoder.frozen = True
    media = sounds(4_000, 900, 9_000)
    together = encode_media(media, encoder, CPU)
    for medium, found in zip(media, together.inputs):
        torch.testing.assert_close(found, encode_media([medium], encoder, CPU).inputs[0], atol=2e-3, rtol=2e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_features_computed_on_cuda_are_kept_on_the_cpu() -> None:
    torch.manual_seed(0)
    encoder = SpectrogramEncoder(width=64, num_layers=1)
    encoder.frozen = True
    expected = encode_media(sounds(4_000, 900), encoder, CPU)
    found = encode_media(sounds(4_000, 900), encoder, Runtime(torch.device("cuda")))
    for one, other in zip(found.inputs, expected.inputs):
        assert not one.is_cuda
        torch.testing.assert_close(one, other, atol=2e-2, rtol=2e-2)
