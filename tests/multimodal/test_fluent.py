"""Animated emoji: the reduced set, its folds, and how it is made from the packages."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from core.errors import UserError
from multimodal.datasets import fluent
from multimodal.examples import Example, Examples

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "fluent_anim64" / "clips.tar"


def clip_T3HW(example: Example) -> Tensor:
    source = example.media[0].source
    assert isinstance(source, Tensor)
    return source


def animation(greys: list[int], side: int, corner: bool = False) -> bytes:
    """An animated WebP of flat pictures, the left half transparent or, with `corner`, one white pixel in each."""
    frames = []
    for grey in greys:
        frame = Image.new("RGBA", (side, side), (grey, grey, grey, 255))
        if corner:
            frame.putpixel((0, 0), (255, 255, 255, 255))
        else:
            frame.paste((0, 0, 0, 0), (0, 0, side // 2, side))
        frames.append(frame)
    stream = io.BytesIO()
    frames[0].save(stream, "WEBP", save_all=True, append_images=frames[1:], lossless=True, duration=250)
    return stream.getvalue()


def reduced_files(count: int) -> dict[str, bytes]:
    """A reduced set: clip number n shows 12 greys from n on."""
    entries = [{"id": f"1f{n:03x}", "file": f"{n}.webp", "caption": f"Thing: {n} one"} for n in range(count)]
    files = {f"{n}.webp": animation([n + 10 * time for time in range(12)], 64, corner=True) for n in range(count)}
    return {**files, "meta.json": json.dumps(entries).encode()}


def as_folder(files: dict[str, bytes], folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return as_folder(reduced_files(20), tmp_path_factory.mktemp("fluent") / "clips")


def test_clips_are_read_from_a_folder(folder: Path) -> None:
    parts = fluent.examples(folder=str(folder))
    together = {example.key: example for part in (parts.train, parts.test) for example in part}
    assert len(together) == len(parts.train) + len(parts.test) == 20
    assert parts.scoring == "captions"
    for n in range(20):
        example = together[f"1f{n:03x}"]
        clip = clip_T3HW(example)
        assert example.targets == (f"thing {n} one",)
        assert clip.shape == (12, 3, 64, 64)
        assert clip.dtype == torch.uint8
        assert clip[:, :, 5, 5].tolist() == [[n + 10 * time] * 3 for time in range(12)]
        assert (clip[:, :, 0, 0] == 255).all()
    assert len({clip_T3HW(example).untyped_storage().data_ptr() for example in parts.train}) == 1


def test_a_tar_file_says_the_same(folder: Path, tmp_path: Path) -> None:
    packed = tmp_path / "clips.tar"
    with tarfile.open(packed, "w") as archive:
        archive.add(folder, "some/folder")
    first, second = fluent.examples(folder=str(folder)), fluent.examples(folder=str(packed))
    for a, b in zip((*first.train, *first.test), (*second.train, *second.test), strict=True):
        assert (a.key, a.targets) == (b.key, b.targets)
        assert torch.equal(clip_T3HW(a), clip_T3HW(b))


def test_every_clip_is_held_out_in_one_fold(folder: Path) -> None:
    tests = [fluent.examples(folder=str(folder), fold=fold, folds=3).test for fold in range(3)]
    assert sorted(example.key for test in tests for example in test) == [f"1f{n:03x}" for n in range(20)]


def test_equal_frames_in_a_row_are_kept(folder: Path, tmp_path: Path) -> None:
    """The WebP encoder merges them into one long frame."""
    files = reduced_files(20) | {"0.webp": animation([0] * 5 + [50] + [90] * 6, 64, corner=True)}
    parts = fluent.examples(folder=str(as_folder(files, tmp_path / "clips")))
    (example,) = [example for part in (parts.train, parts.test) for example in part if example.key == "1f000"]
    assert clip_T3HW(example)[:, 0, 5, 5].tolist() == [0] * 5 + [50] + [90] * 6


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Four packages as npm has them, and an empty cache. Gives what was looked for."""
    runner = [time * 3 for time in range(72)]
    contents = [
        {
            "1f3c3": animation(runner, 256),
            "1f3c3-1f3fb": animation(runner, 256),
            "2602-fe0f": animation([0, 100, 200], 256),
        },
        {"2602": animation([7, 8], 256), "1f1e6-1f1e8": animation([0], 256), "e50a": animation([0, 100], 256)},
        {},
        {"26f1-fe0f": animation(list(range(12)), 256)},
    ]
    for part, files in enumerate(contents, start=1):
        as_folder({f"{name}.webp": content for name, content in files.items()}, tmp_path / str(part) / "package/assets")
    names = {"\U0001f3c3": ":person_running:", "\u2602\ufe0f": ":umbrella:", "\u26f1\ufe0f": ":umbrella_on_ground:"}
    names |= {"\U0001f3c3\U0001f3fb": ":person_running_light_skin_tone:", "\U0001f1e6\U0001f1e8": ":Ascension_Island:"}
    (tmp_path / "emoji.json").write_text(json.dumps({key: {"en": name} for key, name in names.items()}), "utf-8")
    asked: list[str] = []

    def locate(name: str) -> Path:
        asked.append(name)
        return tmp_path / ("emoji.json" if name == "emoji" else name[-1])

    monkeypatch.setattr(fluent, "locate", locate)
    monkeypatch.setenv("TRILLIUM_CACHE", str(tmp_path / "cache"))
    return asked


def test_the_packages_are_reduced_once_into_the_cache(packages: list[str], tmp_path: Path) -> None:
    parts = fluent.examples(folds=2, fold=1)
    assert packages == [*fluent.PACKAGES, "emoji"]
    together = {example.key: example for part in (parts.train, parts.test) for example in part}
    # No skin tone, no still picture, nothing without a name, and each emoji once.
    assert {key: example.targets[0] for key, example in together.items()} == {
        "1f3c3": "person running",
        "2602": "umbrella",
        "26f1": "umbrella on ground",
    }
    runner = clip_T3HW(together["1f3c3"])
    # Of 72 frames every sixth; the transparent half is white.
    assert runner[:, 0, 32, 60].tolist() == [3 * 6 * time for time in range(12)]
    assert (runner[:, :, 32, 3] == 255).all()
    assert clip_T3HW(together["2602"])[:, 0, 32, 60].tolist() == [0] * 4 + [100] * 4 + [200] * 4
    cache = tmp_path / "cache"
    assert [path.name for path in cache.iterdir()] == ["fluent_anim64"]  # no half-made folder is left
    again = fluent.examples(folds=2, fold=1)
    assert packages == [*fluent.PACKAGES, "emoji"]  # nothing was looked for a second time
    assert torch.equal(clip_T3HW(again.train[0]), clip_T3HW(parts.train[0]))


def test_a_damaged_package_leaves_nothing_in_the_cache(packages: list[str], tmp_path: Path) -> None:
    path = tmp_path / "1/package/assets/1f3c3.webp"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(fluent.FluentError, match=r"1f3c3\.webp cannot be decoded"):
        fluent.examples()
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"meta.json": b"{"}, "meta.json is not JSON"),
        ({"meta.json": b"[]"}, "must be a list"),
        ({"meta.json": b'[{"id": "a", "file": "0.webp"}]'}, "entry 0 of meta.json must have a text `caption`"),
        ({"meta.json": b'[{"id": "a", "file": "../0.webp", "caption": "x"}]'}, "must name a file beside it"),
        ({"meta.json": json.dumps([{"id": "a", "file": "0.webp", "caption": "x"}] * 2).encode()}, "occurs twice"),
        ({"meta.json": b'[{"id": "a", "file": "no.webp", "caption": "x"}]'}, "no.webp"),
        ({"0.webp": b"RIFF"}, "0.webp cannot be decoded"),
        ({"0.webp": animation([1, 2, 3], 64)}, "must have 12 frames of 64 x 64"),
        ({"0.webp": animation(list(range(12)), 32)}, "must have 12 frames of 64 x 64"),
    ],
)
def test_a_bad_set_is_refused_by_name(tmp_path: Path, change: dict[str, bytes], words: str) -> None:
    place = as_folder(reduced_files(3) | change, tmp_path / "clips")
    with pytest.raises(fluent.FluentError, match=words) as raised:
        fluent.examples(folder=str(place))
    assert str(place) in str(raised.value)
    assert isinstance(raised.value, UserError)


def test_wrong_places_and_folds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(fluent.FluentError, match="there is no"):
        fluent.examples(folder=str(tmp_path / "absent"))
    with pytest.raises(fluent.FluentError, match=r"no readable meta\.json"):
        fluent.examples(folder=str(tmp_path))
    (tmp_path / "a.tar").write_bytes(b"no tar" * 500)
    with pytest.raises(fluent.FluentError, match="not a tar file"):
        fluent.examples(folder=str(tmp_path / "a.tar"))
    for fold, folds in ((5, 5), (-1, 5), (0, 1)):
        with pytest.raises(ValueError, match=f"got fold={fold}, folds={folds}"):
            fluent.examples(fold=fold, folds=folds)


@pytest.fixture(scope="module")
def real() -> Examples:
    if not SHARED.is_file():
        pytest.skip(f"{SHARED} is not on this machine")
    return fluent.examples(folder=str(SHARED))


def test_the_real_set_has_the_published_size(real: Examples) -> None:
    everything = [*real.train, *real.test]
    assert (len(everything), len(real.test)) == (734, 166)
    captions = {example.targets[0] for example in everything}
    assert len(captions) == 734
    assert np.mean([len(caption.split()) for caption in captions]) == pytest.approx(2.2, abs=0.05)
    moving = [clip_T3HW(example).float().std(0).max().item() > 10 for example in everything]
    assert np.mean(moving) > 0.99
