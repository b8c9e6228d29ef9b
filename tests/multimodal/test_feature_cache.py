"""Features on disk and media in memory: computed once, found by content, the same bits every time."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from core.training.runtime import Runtime
from multimodal.encoders import cache
from multimodal.encoders.cache import encode_media, features_key, load_media
from multimodal.encoders.encoder import Encoder
from multimodal.examples import Example, Medium
from multimodal.media.decode import image_content, waveform
from multimodal.media.errors import MediaError, TooManyBadFiles
from multimodal.store import MediaStore

CPU = Runtime(torch.device("cpu"))


class MeanColour(Encoder):
    """An encoder for tests: one position, the mean of each primary; counts its calls."""

    kind = "image"
    num_features = 3
    frozen = True

    def __init__(self, name: str = "mean-v1") -> None:
        super().__init__()
        self.name = name
        self.batches: list[int] = []

    def load(self, medium: Medium) -> Tensor:
        return image_content(medium, 16)[None]

    def forward(self, inputs_N13HW: Tensor, lengths_N: Tensor) -> tuple[Tensor, Tensor]:
        self.batches.append(len(inputs_N13HW))
        means = inputs_N13HW.float().mean((3, 4)) / 3
        return means, torch.ones(means.shape[:2], dtype=torch.bool)


class Pairs(Encoder):
    """An encoder of sounds for tests: the mean of every two samples, so that lengths differ."""

    kind = "audio"
    name = "pairs"
    num_features = 1
    max_steps = 1000

    def __init__(self, frozen: bool = True) -> None:
        super().__init__()
        self.frozen = frozen
        self.shapes: list[tuple[int, ...]] = []

    def load(self, medium: Medium) -> Tensor:
        return waveform(medium, 8_000)

    def num_steps(self, num_inputs: int) -> int:
        return num_inputs // 2

    def forward(self, inputs_NI: Tensor, lengths_N: Tensor) -> tuple[Tensor, Tensor]:
        self.shapes.append(tuple(inputs_NI.shape))
        even = inputs_NI[:, : inputs_NI.shape[1] // 2 * 2]
        features = even.unflatten(1, (-1, 2)).mean(2, keepdim=True)
        return features, self.position_mask(lengths_N, features.shape[1], features.device)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    chance = np.random.default_rng(0)
    files = [tmp_path / f"{number:02}.png" for number in range(11)]
    for file in files:
        Image.fromarray(chance.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(file)
    return files


def images(paths: list[Path]) -> list[Medium]:
    return [Medium("image", path) for path in paths]


def sounds(*lengths: int) -> list[Medium]:
    chance = torch.Generator().manual_seed(0)
    return [Medium("audio", torch.rand(length, generator=chance), rate=8_000) for length in lengths]


def equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second))


def stored(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


# The cache


def test_the_second_call_reads_and_gives_the_same_bits(paths: list[Path], tmp_path: Path) -> None:
    encoder = MeanColour()
    first = encode_media(images(paths), encoder, CPU, folder=tmp_path / "cache")
    assert encoder.batches == [8, 3]
    assert {(one.shape, one.dtype) for one in first.inputs} == {((1, 3), torch.float16)}
    second = encode_media(images(paths), encoder, CPU, folder=tmp_path / "cache")
    assert encoder.batches == [8, 3]
    assert (first.was_cached, second.was_cached) == (False, True)
    assert equal(first.inputs, second.inputs)
    assert first.kept == second.kept == list(range(11))
    key = features_key(images(paths), "mean-v1 torch.float32")
    assert stored(tmp_path / "cache").name == f"{key}.safetensors"


def test_features_are_those_of_their_own_medium(paths: list[Path]) -> None:
    encoded = encode_media(images(paths), MeanColour(), CPU)
    for path, found in zip(paths, encoded.inputs):
        expected = torch.from_numpy(np.array(Image.open(path))).float().mean((0, 1)) / 3
        torch.testing.assert_close(found[0].float(), expected, atol=0.05, rtol=0)  # float16 near 42


def test_without_a_folder_nothing_is_kept(paths: list[Path], tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    assert not encode_media(images(paths), MeanColour(), CPU).was_cached
    assert not encode_media(images(paths), MeanColour(), CPU).was_cached
    assert sorted(tmp_path.iterdir()) == before


def test_the_key_follows_content_order_and_encoder_but_not_names(paths: list[Path], tmp_path: Path) -> None:
    media = images(paths)
    key = features_key(media, "a")
    assert key == features_key(media, "a")
    assert key != features_key(media, "b")
    assert key != features_key(media[::-1], "a")
    assert key != features_key(media[:-1], "a")
    moved = tmp_path / "moved.png"
    paths[0].rename(moved)
    assert key == features_key([Medium("image", moved), *media[1:]], "a")
    assert key != features_key(media, "a")  # its first file is gone
    data = bytearray(moved.read_bytes())
    data[-20] ^= 1
    moved.write_bytes(data)
    assert key != features_key([Medium("image", moved), *media[1:]], "a")


def test_precision_is_part_of_the_key(paths: list[Path], tmp_path: Path) -> None:
    half = Runtime(torch.device("cpu"), torch.bfloat16)
    for runtime in (CPU, half):
        assert not encode_media(images(paths), MeanColour(), runtime, folder=tmp_path / "cache").was_cached
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_content_in_memory_is_known_by_its_content() -> None:
    samples = torch.arange(8, dtype=torch.float32) / 8

    def key(source: object, rate: float = 8_000) -> str:
        return features_key([Medium("audio", source, rate)], "a")  # type: ignore[arg-type]

    assert key(samples) == key(samples.clone()) == key(lambda: samples) == key(torch.stack((samples, samples)).T[:, 0])
    changed = samples.clone()
    changed[3] += 1e-6
    assert len({key(samples), key(changed), key(samples, 16_000), key(samples[:-1]), key(samples.view(2, 4))}) == 5


def test_bad_pictures_are_counted_and_remembered(paths: list[Path], tmp_path: Path) -> None:
    paths[2].write_bytes(b"")
    paths[7].write_text("text")
    for attempt in range(2):
        encoded = encode_media(images(paths), MeanColour(), CPU, folder=tmp_path / "cache", max_bad_fraction=0.2)
        assert encoded.was_cached == bool(attempt)
        assert encoded.kept == [0, 1, 3, 4, 5, 6, 8, 9, 10]
        assert [error.path for error in encoded.bad] == [paths[2], paths[7]]
        assert encoded.bad[0].reason == "empty file"
        assert len(encoded.inputs) == 9
    with pytest.raises(TooManyBadFiles, match="2 of 11 image files"):
        encode_media(images(paths), MeanColour(), CPU, folder=tmp_path / "cache", max_bad_fraction=0.1)


def test_too_many_bad_pictures_leave_no_file(paths: list[Path], tmp_path: Path) -> None:
    for path in paths[:5]:
        path.write_bytes(b"")
    with pytest.raises(TooManyBadFiles, match="1 of 11"):  # at the first: reading on would be in vain
        encode_media(images(paths), MeanColour(), CPU, folder=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    with pytest.raises(TooManyBadFiles, match="5 of 5"):
        encode_media(images(paths[:5]), MeanColour(), CPU, max_bad_fraction=1.0)


def test_a_window_of_bad_files_only_is_not_the_whole_set(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "WINDOW", 5)
    paths[10].write_bytes(b"")  # alone in the third window
    encoded = encode_media(images(paths), MeanColour(), CPU, max_bad_fraction=0.1)
    assert encoded.kept == list(range(10))
    assert [error.path for error in encoded.bad] == [paths[10]]


def test_windows_and_sorting_keep_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    media = sounds(9, 2, 14, 5, 30, 7, 3)
    expected = encode_media(media, Pairs(), CPU)
    assert [len(one) for one in expected.inputs] == [4, 1, 7, 2, 15, 3, 1]
    monkeypatch.setattr(cache, "WINDOW", 3)
    assert equal(encode_media(media, Pairs(), CPU).inputs, expected.inputs)


def test_sounds_of_different_lengths_are_encoded_as_if_alone(tmp_path: Path) -> None:
    encoder = Pairs()
    media = sounds(*range(40, 4, -2))
    together = encode_media(media, encoder, CPU, folder=tmp_path)
    # Sorted by length, a batch of 8 is padded by at most 14 samples.
    assert encoder.shapes == [(8, 20), (8, 36), (2, 40)]
    alone = [encode_media([medium], encoder, CPU).inputs[0] for medium in media]
    assert equal(together.inputs, alone)
    assert equal(encode_media(media, encoder, CPU, folder=tmp_path).inputs, alone)


@pytest.mark.parametrize("damage", ["truncate", "flip", "kept", "lengths", "foreign", "text", "empty"])
def test_a_damaged_cache_file_is_named_and_made_again(
    paths: list[Path], tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    encoder, folder = MeanColour(), tmp_path / "cache"
    first = encode_media(images(paths), encoder, CPU, folder=folder)
    file = stored(folder)
    data = file.read_bytes()
    if damage == "foreign":
        save_file({"features": torch.zeros(11, 3)}, file)
    else:
        damaged = {
            "truncate": data[: len(data) // 2],
            "flip": data[:-3] + bytes([data[-3] ^ 4]) + data[-2:],
            "kept": data.replace(b"9, 10]", b"9, 11]"),
            "lengths": data.replace(b"[1, 1, 1, 1,", b"[1, 2, 0, 1,"),
            "text": b"no tensors here",
            "empty": b"",
        }
        assert damaged[damage] != data
        file.write_bytes(damaged[damage])
    again = encode_media(images(paths), encoder, CPU, folder=folder)
    assert not again.was_cached
    assert str(file) in caplog.text
    assert equal(again.inputs, first.inputs)
    assert encode_media(images(paths), encoder, CPU, folder=folder).was_cached
    assert list(folder.iterdir()) == [file]


@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_features_that_float16_cannot_hold_never_reach_the_cache(
    paths: list[Path], tmp_path: Path, value: float
) -> None:
    class Broken(MeanColour):
        def forward(self, inputs_N13HW: Tensor, lengths_N: Tensor) -> tuple[Tensor, Tensor]:
            features, mask = super().forward(inputs_N13HW, lengths_N)
            return torch.full_like(features, value), mask

    with pytest.raises(ValueError, match="mean-v1 gave a feature that is not finite, or too large for float16"):
        encode_media(images(paths), Broken(), CPU, folder=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_progress_is_told_and_no_media_are_no_error(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "WINDOW", 4)
    seen: list[tuple[int, int]] = []
    encode_media(images(paths), MeanColour(), CPU, on_progress=lambda *done: seen.append(done))
    assert seen == [(4, 11), (8, 11), (11, 11)]
    assert encode_media([], MeanColour(), CPU).inputs == []


# What an encoder that is trained takes


def test_loading_keeps_inputs_and_skips_bad_files(paths: list[Path]) -> None:
    paths[4].write_bytes(b"")
    seen: list[tuple[int, int]] = []
    loaded = load_media(images(paths), MeanColour(), max_bad_fraction=0.1, on_progress=lambda *done: seen.append(done))
    assert loaded.kept == [0, 1, 2, 3, 5, 6, 7, 8, 9, 10]
    assert torch.equal(loaded.inputs[4], image_content(Medium("image", paths[5]), 16)[None])
    assert [error.path for error in loaded.bad] == [paths[4]]
    assert seen[-1] == (11, 11)
    with pytest.raises(TooManyBadFiles, match="1 of 11"):
        load_media(images(paths), MeanColour(), max_bad_fraction=0.05)


def test_inputs_decoded_on_demand_are_the_same_and_not_held(paths: list[Path]) -> None:
    paths[4].write_bytes(b"")
    held, asked = (load_media(images(paths), MeanColour(), max_bad_fraction=0.1, keep=keep) for keep in (True, False))
    assert (asked.kept, asked.lengths) == (held.kept, held.lengths)
    assert equal(list(asked.inputs), list(held.inputs))
    paths[5].write_bytes(b"")
    with pytest.raises(MediaError, match="empty file"):  # it is read anew
        asked.inputs[4]


def test_what_is_no_media_error_is_not_hidden() -> None:
    with pytest.raises(ValueError, match="its content must be uint8"):
        load_media([Medium("image", torch.zeros(3, 4, 4))], MeanColour(), max_bad_fraction=1.0)


# The store


def example(*media: Medium, key: str = "") -> Example:
    return Example((*media, "what?"), ("a thing",), key)


def test_a_medium_used_twice_is_kept_once(paths: list[Path]) -> None:
    encoder = MeanColour()
    store = MediaStore({"image": encoder}, CPU)
    memory = torch.zeros(3, 16, 16, dtype=torch.uint8)
    one, two, three = Medium("image", paths[1]), Medium("image", paths[0]), Medium("image", memory)
    examples = [example(one), example(two, one), example(three), example(Medium("image", memory), one)]
    assert store.add(examples) == examples
    assert encoder.batches == [3]
    assert len(store.inputs["image"]) == 3
    assert store.num_positions["image"] == [1, 1, 1]
    assert {store.index(one), store.index(two), store.index(three)} == {0, 1, 2}
    assert store.index(Medium("image", memory)) == store.index(three)
    assert store.features(three).abs().max() == 0
    assert torch.equal(store.features(one), encode_media([one], encoder, CPU).inputs[0])
    store.add([example(one)])
    assert encoder.batches == [3, 1]  # the one of the line before the last: nothing was encoded again


def test_several_kinds_frozen_and_trained(paths: list[Path]) -> None:
    store = MediaStore({"image": MeanColour(), "audio": Pairs(frozen=False)}, CPU)
    picture, sound = Medium("image", paths[0]), sounds(9)[0]
    store.add([example(picture, sound)])
    assert store.features(picture).shape == (1, 3)
    assert torch.equal(store.features(sound), sound.source)  # what a trained encoder takes
    assert store.num_positions == {"image": [1], "audio": [4]}


def test_a_store_that_decodes_on_demand_gives_what_one_that_holds_gives() -> None:
    media = sounds(9, 4, 6)
    stores = [MediaStore({"audio": Pairs(frozen=False)}, CPU, keep=keep) for keep in (True, False)]
    for store in stores:
        store.add([example(media[0]), example(media[1])])
        store.add([example(media[2], media[0])])  # a second part, behind the first
        assert store.num_positions["audio"] == [4, 2, 3]
        assert equal(list(store.inputs["audio"]), [medium.source for medium in media])
        for medium in media:
            assert torch.equal(store.features(medium), medium.source)


def test_examples_with_a_bad_medium_are_left_out(paths: list[Path]) -> None:
    paths[3].write_bytes(b"")
    store = MediaStore({"image": MeanColour()}, CPU, max_bad_fraction=0.1)
    media = images(paths)
    examples = [example(medium) for medium in media] + [example(media[0], media[3]), example(media[0], media[1])]
    assert store.add(examples) == [*examples[:3], *examples[4:11], examples[12]]
    assert not store.holds(media[3])
    assert [error.path for error in store.bad] == [paths[3]]
    for medium in (media[0], media[2], media[4], media[10]):
        assert torch.equal(store.features(medium), encode_media([medium], MeanColour(), CPU).inputs[0])
    with pytest.raises(TooManyBadFiles):
        MediaStore({"image": MeanColour()}, CPU).add(examples)


def test_the_order_of_the_examples_does_not_matter_to_the_cache(paths: list[Path], tmp_path: Path) -> None:
    for order in (1, -1):
        encoder = MeanColour()
        store = MediaStore({"image": encoder}, CPU, folder=tmp_path / "cache")
        store.add([example(medium) for medium in images(paths)[::order]])
        assert bool(encoder.batches) == (order == 1)
        assert torch.equal(
            store.features(Medium("image", paths[2])), encode_media(images(paths[2:3]), MeanColour(), CPU).inputs[0]
        )


@pytest.mark.parametrize(("key", "name"), [("q7", "q7"), ("", "video without a file")])
def test_a_kind_that_no_encoder_reads(key: str, name: str) -> None:
    clip = Medium("video", torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
    store = MediaStore({"image": MeanColour(), "audio": Pairs()}, CPU)
    with pytest.raises(ValueError, match=f"{name} has a medium of kind video, and this run reads image, audio only"):
        store.add([example(clip, key=key)])


def test_beside_is_empty_and_keeps_nothing_on_disk(paths: list[Path], tmp_path: Path) -> None:
    store = MediaStore({"image": MeanColour()}, CPU, folder=tmp_path / "cache")
    store.add([example(Medium("image", paths[0]))])
    beside = store.beside()
    assert len(beside.inputs["image"]) == 0
    beside.add([example(Medium("image", paths[1]))])
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert len(store.inputs["image"]) == len(beside.inputs["image"]) == 1
    assert beside.encoders is store.encoders
    paths[2].write_bytes(b"")
    with pytest.raises(TooManyBadFiles):  # a single file that cannot be used is an error, never an empty answer
        beside.add([example(Medium("image", paths[2]))])


def test_progress_is_told_now_and_then(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multimodal.store.TELL_EVERY_S", 0.0)
    monkeypatch.setattr(cache, "WINDOW", 8)
    lines: list[str] = []
    MediaStore({"image": MeanColour()}, CPU, tell=lines.append).add([example(medium) for medium in images(paths)])
    assert len(lines) == 2
    assert lines[0].startswith("encoded 8 of 11 media of kind image, ")
    lines.clear()
    MediaStore({"audio": Pairs(frozen=False)}, CPU, tell=lines.append).add([example(medium) for medium in sounds(4, 6)])
    assert [line.split(",")[0] for line in lines] == [f"read {count} of 2 media of kind audio" for count in (1, 2)]
