"""Hugging Face data sets on this machine: saved ones, parquet, undecoded media, and what may be wrong with them."""

import io
import math
import pickle
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from core.training.runtime import Runtime
from multimodal.datasets import packed
from multimodal.datasets.files import LayoutError
from multimodal.datasets.huggingface import examples
from multimodal.datasets.named import load_examples
from multimodal.encoders.cache import encode_media
from multimodal.encoders.grid import PixelGrid
from multimodal.encoders.pictures import PictureEncoder
from multimodal.examples import Example, Examples, Medium
from multimodal.media.audio import load_audio
from multimodal.media.decode import content, frames, waveform
from multimodal.media.errors import MediaError

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def away_from_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The library's cache in the test's folder, no network, no progress bars."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "library")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def picture(red: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (9, 6), (red, 7, 0)).save(stream, "PNG")
    return stream.getvalue()


def sound(seconds: float) -> bytes:
    stream = io.BytesIO()
    steps = torch.arange(int(seconds * 8000)) / 8000
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes((torch.sin(2 * math.pi * 440 * steps) * 9000).to(torch.int16).numpy().tobytes())
    return stream.getvalue()


def animation() -> bytes:
    stream = io.BytesIO()
    pictures = [Image.new("RGB", (12, 12), (80 * number, 0, 0)) for number in range(3)]
    pictures[0].save(stream, "GIF", save_all=True, append_images=pictures[1:], duration=100)
    return stream.getvalue()


def table(rows: list[dict[str, Any]]) -> Any:
    """A table whose column `image` holds pictures."""
    plain = {name: datasets.Value("string") for name in rows[0]}
    return datasets.Dataset.from_list(rows, features=datasets.Features({**plain, "image": datasets.Image()}))


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"image": {"bytes": picture(n), "path": None}, "caption": f"picture {n}"} for n in range(start, start + count)
    ]  # fmt: skip


def saved(folder: Path, train: Any, test: Any | None = None) -> Path:
    parts = {"train": train} if test is None else {"train": train, "test": test}
    datasets.DatasetDict(parts).save_to_disk(folder)
    return folder


def reds(side: Any) -> list[int]:
    return [int(content(example.media[0])[0, 0, 0]) for example in side]


def sides(made: Examples) -> list[Example]:
    return [*made.train, *made.test]


def test_a_saved_data_set(tmp_path: Path) -> None:
    saved(tmp_path / "saved", table(rows(5)), table(rows(2, start=10)))
    made = load_examples(f"huggingface:name={tmp_path}/saved,image=image,text=caption")
    assert (reds(made.train), reds(made.test)) == ([0, 1, 2, 3, 4], [10, 11])
    assert made.train[3].targets == ("picture 3",)
    assert content(made.train[0].media[0]).shape == (3, 6, 9)
    assert made.train[3].key == f"{tmp_path}/saved[train] row 3"
    assert made.notes == [f"{tmp_path}/saved: 5 rows to learn from, 2 held out in the split test"]


def test_parquet_and_arrow_say_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "parquet"
    folder.mkdir()
    table(rows(9)).to_parquet(folder / "train-00000-of-00001.parquet")
    table(rows(2, start=10)).to_parquet(folder / "test-00000-of-00001.parquet")
    made = examples(name=str(folder), image="image", text="caption")
    assert (reds(made.train), reds(made.test)) == (list(range(9)), [10, 11])
    file = str(folder / "train-00000-of-00001.parquet")
    single = examples(name=file, image="image", text="caption", test_split="", test_fraction=0.5)
    assert sorted(reds(sides(single))) == list(range(9))


def test_bytes_without_a_feature_are_media_too(tmp_path: Path) -> None:
    plain = datasets.Dataset.from_list([{"picture": picture(n), "told": [f"a {n}", f"b {n}"]} for n in range(3)])
    saved(tmp_path / "saved", plain, plain)
    made = examples(name=str(tmp_path / "saved"), image="picture", text="told")
    assert reds(made.train) == [0, 1, 2]
    assert made.train[2].targets == ("a 2", "b 2")


def test_sounds_and_clips(tmp_path: Path) -> None:
    row = {"audio": {"bytes": sound(0.2), "path": "x.wav"}, "video": {"bytes": animation(), "path": None},
           "question": "<video> with <audio>: what?", "text": "a hum"}  # fmt: skip
    # Cast afterwards: the library encodes sounds by torchcodec, which is not needed to read them.
    both = datasets.Dataset.from_list([row]).cast_column("audio", datasets.Audio())
    both = both.cast_column("video", datasets.Video())
    saved(tmp_path / "saved", both, both)
    made = examples(name=str(tmp_path / "saved"), audio="audio", video="video", prompt="question", side=16)
    video, middle, audio, asked = made.train[0].prompt
    assert (middle, asked) == ("with", ": what?")
    assert isinstance(audio, Medium)
    assert isinstance(video, Medium)
    (tmp_path / "x.wav").write_bytes(sound(0.2))
    assert torch.equal(waveform(audio, packed.RATE), load_audio(tmp_path / "x.wav", rate=packed.RATE))
    assert frames(video, 3, side=16).unique().numel() == 3  # 0 to 160 of red
    with pytest.raises(MediaError, match=r"\[train\] row 0 audio: .*more than 0.1"):
        content(examples(name=str(tmp_path / "saved"), audio="audio", max_seconds=0.1).train[0].media[0])


def test_pictures_of_one_content_are_on_one_side(tmp_path: Path) -> None:
    many = [{**row, "caption": f"{row['caption']} told {told}"} for row in rows(60) for told in range(2)]
    saved(tmp_path / "saved", table(many))
    made = examples(name=str(tmp_path / "saved"), image="image", text="caption", test_split="", test_fraction=0.25)
    train, test = set(reds(made.train)), set(reds(made.test))
    assert not train & test
    assert train | test == set(range(60))
    assert 4 <= len(test) <= 26  # 25 % of 60, give or take three standard deviations
    assert "held out by the hash of their media" in made.notes[0]


def test_damage_is_named_and_counted(tmp_path: Path) -> None:
    damaged = rows(9)
    damaged[4]["image"] = {"bytes": picture(4)[:40], "path": None}
    damaged[6]["image"] = None
    saved(tmp_path / "saved", table(damaged), table(rows(1)))
    made = examples(name=str(tmp_path / "saved"), image="image", text="caption")
    media = [example.media[0] for example in made.train]
    encoded = encode_media(media, PictureEncoder(PixelGrid(8, 2)), Runtime(torch.device("cpu")), max_bad_fraction=0.3)
    assert encoded.kept == [0, 1, 2, 3, 5, 7, 8]
    assert [str(error.path).removeprefix(f"{tmp_path}/") for error in encoded.bad] == [
        "saved[train] row 4 image", "saved[train] row 6 image"
    ]  # fmt: skip
    assert "no medium in this row" in str(encoded.bad[1])


def test_a_row_may_name_files_of_its_folder_only(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    (tmp_path / "secret.png").write_bytes(picture(66))
    named = [str(folder / "own.png"), str(tmp_path / "secret.png"), f"{folder}/../secret.png", "/etc/passwd"]
    listed = datasets.Dataset.from_list([{"image": {"bytes": None, "path": path}, "text": "x"} for path in named])
    saved(folder, listed, listed)
    (folder / "own.png").write_bytes(picture(3))
    own, *others = examples(name=str(folder), image="image").train
    assert reds([own]) == [3]
    for example in others:
        with pytest.raises(MediaError, match="outside of the data set's folder"):
            content(example.media[0])


def test_files_that_the_library_keeps_may_be_named(tmp_path: Path) -> None:
    kept = tmp_path / "library" / "downloads" / "a"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(picture(7))
    listed = datasets.Dataset.from_list([{"image": {"bytes": None, "path": str(kept)}, "text": "x"}])
    saved(tmp_path / "saved", listed, listed)
    assert reds(examples(name=str(tmp_path / "saved"), image="image").train) == [7]


def test_a_folder_of_pictures_with_metadata(tmp_path: Path) -> None:
    for part, red in (("train", 3), ("test", 4)):
        folder = tmp_path / "folder" / part
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(picture(red))
        (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "told"}\n', "utf-8")
    made = examples(name=str(tmp_path / "folder"), image="image")
    assert (reds(made.train), reds(made.test)) == ([3], [4])
    assert made.train[0].targets == ("told",)


def test_rows_without_a_text_are_counted(tmp_path: Path) -> None:
    some = rows(4)
    some[1]["caption"], some[2]["caption"] = None, " \n"
    saved(tmp_path / "saved", table(some), table(rows(1)))
    made = examples(name=str(tmp_path / "saved"), image="image", text="caption")
    assert reds(made.train) == [0, 3]
    assert made.notes[1] == "2 rows without a text are left out"


def test_a_limit_takes_the_first_rows(tmp_path: Path) -> None:
    saved(tmp_path / "saved", table(rows(4)), table(rows(3)))
    made = examples(name=str(tmp_path / "saved"), image="image", text="caption", limit=2)
    assert (reds(made.train), reds(made.test)) == ([0, 1], [0, 1])


def test_examples_can_be_sent_to_loader_processes(tmp_path: Path) -> None:
    saved(tmp_path / "saved", table(rows(50)), table(rows(1)))
    made = examples(name=str(tmp_path / "saved"), image="image", text="caption")
    sent = pickle.dumps(made.train)
    assert reds(pickle.loads(sent)[7:9]) == [7, 8]
    assert len(sent) < 20_000  # the table is sent once and by its files' names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"name a column of media, as in huggingface:name=.*,image=image,text=caption"),
        ({"image": "img"}, r"saved\[train\] has no column 'img'; it has: image, caption"),
        ({"image": "image", "text": "said"}, r"has no column 'said'; it has: image, caption"),
        ({"image": "image", "prompt": "ask"}, r"has no column 'ask'|has no column 'text'"),
        ({"image": "image", "split": "dev"}, r"has no split 'dev'; it has: train, test"),
        ({"image": "image", "text": "caption", "test_split": "dev"}, r"no split 'dev'.*an empty test_split="),
        ({"image": "number", "text": "caption"}, "the column 'number' does not hold image"),
        ({"image": "image", "text": "number"}, r"row 0: a text is wanted, not int"),
    ],
)
def test_wrong_names_are_told(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    made = table(rows(2))
    if "number" in options.values():
        made = made.add_column("number", [1, 2])
    saved(tmp_path / "saved", made, made)
    with pytest.raises(LayoutError, match=message):
        examples(name=str(tmp_path / "saved"), **options)


def test_what_cannot_be_loaded_is_told(tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "empty").mkdir()
    for name, message in [
        (str(tmp_path / "absent"), "neither a folder nor a .parquet or .arrow file"),
        (str(tmp_path / "broken.parquet"), "broken.parquet cannot be loaded"),
        (str(tmp_path / "empty"), "empty cannot be loaded"),
        ("nobody/such-a-data-set", "nobody/such-a-data-set cannot be loaded"),
    ]:
        with pytest.raises(LayoutError, match=message):
            examples(name=name, image="image")


@pytest.mark.parametrize("options", [{"limit": -1}, {"test_fraction": 1.0}, {"max_seconds": 0.0}, {"side": 4}])
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        examples(name="x", image="image", **options)
