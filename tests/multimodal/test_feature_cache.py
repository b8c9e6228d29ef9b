"""Features on disk: computed once, found by content, the same bits every time."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from multimodal.encoders.cache import encode_images, features_key
from multimodal.media import TooManyBadFiles


class MeanColour:
    """An encoder for tests: one position, the mean of each primary; counts its calls."""

    image_side = 16

    def __init__(self, name: str = "mean-v1") -> None:
        self.name = name
        self.batches: list[int] = []

    def encode(self, images_B3HW: Tensor) -> Tensor:
        self.batches.append(len(images_B3HW))
        return images_B3HW.float().mean((2, 3))[:, None] / 3


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    chance = np.random.default_rng(0)
    files = [tmp_path / f"{number}.png" for number in range(11)]
    for file in files:
        Image.fromarray(chance.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(file)
    return files


def test_second_call_reads_and_gives_the_same_bits(paths: list[Path], tmp_path: Path):
    encoder = MeanColour()
    first = encode_images(paths, encoder, folder=tmp_path / "cache", batch_size=4)
    assert encoder.batches == [4, 4, 3]
    assert first.features_NPF.shape == (11, 1, 3)
    assert first.features_NPF.dtype == torch.float16
    second = encode_images(paths, encoder, folder=tmp_path / "cache")
    assert encoder.batches == [4, 4, 3]
    assert (first.was_cached, second.was_cached) == (False, True)
    assert torch.equal(first.features_NPF, second.features_NPF)
    assert second.kept == list(range(11))
    assert [file.name for file in (tmp_path / "cache").iterdir()] == [first.file.name]


def test_default_folder_is_in_the_cache(paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRILLIUM_CACHE", str(tmp_path / "elsewhere"))
    assert encode_images(paths, MeanColour()).file.parent == tmp_path / "elsewhere" / "features"


def test_key_follows_content_order_and_encoder_but_not_names(paths: list[Path], tmp_path: Path):
    key = features_key(paths, "a")
    assert key == features_key(paths, "a")
    assert key != features_key(paths, "b")
    assert key != features_key(paths[::-1], "a")
    moved = tmp_path / "moved.png"
    paths[0].rename(moved)
    assert key == features_key([moved, *paths[1:]], "a")
    assert key != features_key(paths, "a")
    data = bytearray(moved.read_bytes())
    data[-20] ^= 1
    moved.write_bytes(data)
    assert key != features_key([moved, *paths[1:]], "a")


def test_bad_pictures_are_remembered(paths: list[Path], tmp_path: Path):
    paths[2].write_bytes(b"")
    paths[7].write_text("text")
    for _ in range(2):
        encoded = encode_images(paths, MeanColour(), folder=tmp_path / "cache", max_bad_fraction=0.2)
        assert encoded.kept == [0, 1, 3, 4, 5, 6, 8, 9, 10]
        assert [error.path for error in encoded.bad] == [paths[2], paths[7]]
        assert encoded.bad[0].reason == "empty file"
    assert encoded.was_cached
    with pytest.raises(TooManyBadFiles, match="2 of 11"):
        encode_images(paths, MeanColour(), folder=tmp_path / "cache", max_bad_fraction=0.1)


def test_too_many_bad_pictures_leave_no_file(paths: list[Path], tmp_path: Path):
    for path in paths[:5]:
        path.write_bytes(b"")
    with pytest.raises(TooManyBadFiles):
        encode_images(paths, MeanColour(), folder=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*"))


@pytest.mark.parametrize("damage", ["truncate", "flip", "text", "empty"])
def test_damaged_cache_is_named_and_computed_again(
    paths: list[Path], tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
):
    encoder = MeanColour()
    first = encode_images(paths, encoder, folder=tmp_path / "cache")
    data = first.file.read_bytes()
    flipped = data[:-3] + bytes([data[-3] ^ 4]) + data[-2:]
    damaged = {"truncate": data[: len(data) // 2], "flip": flipped, "text": b"no tensors here", "empty": b""}
    first.file.write_bytes(damaged[damage])
    again = encode_images(paths, encoder, folder=tmp_path / "cache")
    assert not again.was_cached
    assert str(first.file) in caplog.text
    assert torch.equal(again.features_NPF, first.features_NPF)
    assert encode_images(paths, encoder, folder=tmp_path / "cache").was_cached


def test_non_finite_features_never_reach_the_cache(paths: list[Path], tmp_path: Path):
    class Broken(MeanColour):
        def encode(self, images_B3HW: Tensor) -> Tensor:
            return torch.full((len(images_B3HW), 1, 3), 1e6)

    with pytest.raises(ValueError, match="non-finite"):
        encode_images(paths, Broken(), folder=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_progress_and_no_pictures(paths: list[Path], tmp_path: Path):
    seen: list[tuple[int, int]] = []
    encode_images(
        paths, MeanColour(), folder=tmp_path / "cache", batch_size=4, on_progress=lambda *done: seen.append(done)
    )
    assert seen == [(4, 11), (8, 11), (11, 11)]
    with pytest.raises(ValueError, match="no picture"):
        encode_images([], MeanColour(), folder=tmp_path / "cache")
