"""Public data sets in the layouts that their owners have: COCO, Flickr8k, AudioCaps, Clotho, MSR-VTT."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from multimodal.datasets import audiocaps, clotho, coco, flickr8k, msrvtt
from multimodal.datasets.files import LayoutError, read_csv
from multimodal.datasets.named import load_examples
from multimodal.examples import Examples


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not opened")


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), "utf-8")


def write_table(path: Path, *rows: tuple[object, ...]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)


def make_coco(root: Path) -> dict[str, Any]:
    """Three pictures to learn from and two to test on; captions in another order than the pictures."""
    content: dict[str, Any] = {}
    for part, names in {"train": ["1.jpg", "2.jpg", "3.jpg"], "val": ["8.jpg", "9.jpg"]}.items():
        touch(*(root / f"{part}2017" / name for name in names))
        images = [{"id": int(name[0]), "file_name": name, "height": 1} for name in names]
        said = [{"id": n, "image_id": image["id"], "caption": f"{part} {image['id']}, told {n % 2}.\n"}
                for n, image in enumerate(reversed(images * 2))]  # fmt: skip
        content[part] = {"info": {}, "images": images, "annotations": said}
        write_json(root / f"annotations/captions_{part}2017.json", content[part])
    return content


def make_karpathy(root: Path) -> list[dict[str, Any]]:
    entries = []
    for number, split in enumerate(("train", "restval", "val", "test")):
        where = "train2014" if split == "train" else "val2014"
        touch(root / where / f"{number}.jpg")
        entries.append({
            "filepath": where, "filename": f"{number}.jpg", "split": split, "cocoid": number, "imgid": number,
            "sentences": [{"raw": f"A {split} one.", "tokens": []}, {"raw": "Another.", "tokens": []}],
        })  # fmt: skip
    write_json(root / "dataset_coco.json", {"images": entries, "dataset": "coco"})
    return entries


def make_flickr8k(root: Path) -> None:
    names = [f"{number}.jpg" for number in range(5)]
    touch(*(root / "Flicker8k_Dataset" / name for name in names))
    lines = [f"{name}#{said}\tA dog , number {name[0]} , told {said} ." for name in names for said in range(5)]
    (root / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n", "utf-8")
    (root / "Flickr_8k.trainImages.txt").write_text("3.jpg\n1.jpg\n", "utf-8")
    (root / "Flickr_8k.devImages.txt").write_text("0.jpg\n", "utf-8")
    (root / "Flickr_8k.testImages.txt").write_text("4.jpg\r\n", "utf-8")


def make_kaggle(root: Path) -> None:
    rows = [(f"{number}.jpg", f"A dog, and {said} cats") for number in range(40) for said in range(5)]
    write_table(root / "captions.txt", ("image", "caption"), *rows)
    touch(*(root / "Images" / f"{number}.jpg" for number in range(40)))


def make_audiocaps(root: Path) -> None:
    heading = ("audiocap_id", "youtube_id", "start_time", "caption")
    write_table(
        root / "train.csv", heading, (91, "-a", 30, "a cat"), (92, "b", 0, "rain, then wind"), (93, "b", 9, "x")
    )
    write_table(root / "test.csv", heading, *((80 + n, "c", 5, f"told {n}") for n in range(5)))
    touch(root / "audio/91.wav", root / "audio/b_0.flac", root / "audio/b_9.mp3", root / "audio/c.wav")


def make_clotho(root: Path) -> None:
    heading = ("file_name", *(f"caption_{n}" for n in range(1, 6)))
    for part, name in (("development", "rain, on a roof.wav"), ("evaluation", "Tür.wav")):
        write_table(root / f"clotho_captions_{part}.csv", heading, (name, *(f"{part} {n}" for n in range(1, 6))))
        touch(root / part / name)


def make_msrvtt(root: Path) -> dict[str, Any]:
    splits = {"video0": "train", "video1": "train", "video7": "validate", "video9": "test"}
    content = {
        "info": {},
        "videos": [{"video_id": name, "split": split, "id": n} for n, (name, split) in enumerate(splits.items())],
        "sentences": [
            {"sen_id": n, "video_id": name, "caption": f"{name} told {n}"} for n in (0, 1) for name in splits
        ],
    }
    write_json(root / "MSRVTT_data.json", content)
    touch(*(root / "videos/all" / f"{name}.mp4" for name in splits))
    return content


LAYOUTS: dict[str, tuple[Callable[[Path], Any], Callable[..., Examples], str]] = {
    "coco": (make_coco, coco.examples, "train2017/1.jpg"),
    "flickr8k": (make_flickr8k, flickr8k.examples, "Flicker8k_Dataset/3.jpg"),
    "audiocaps": (make_audiocaps, audiocaps.examples, "audio/91.wav"),
    "clotho": (make_clotho, clotho.examples, "development/rain, on a roof.wav"),
    "msrvtt": (make_msrvtt, msrvtt.examples, "videos/all/video0.mp4"),
}


def files(examples: Examples, root: Path) -> tuple[list[str], list[str]]:
    """Names of the media of both sides, from the data set's folder."""
    train, test = (
        [str(Path(str(medium.source)).relative_to(root)) for example in side for medium in example.media]
        for side in (examples.train, examples.test)
    )
    return train, test


def test_coco_learns_from_train_and_is_scored_on_val(tmp_path: Path) -> None:
    make_coco(tmp_path)
    made = coco.examples(folder=str(tmp_path))
    assert files(made, tmp_path) == (
        ["train2017/1.jpg", "train2017/2.jpg", "train2017/3.jpg"], ["val2017/8.jpg", "val2017/9.jpg"]
    )  # fmt: skip
    assert made.train[0].media[0].kind == "image"
    assert made.train[0].targets == ("train 1, told 0.", "train 1, told 1.")  # in the order of the annotations
    assert made.test[1].targets == ("val 9, told 0.",)
    assert made.scoring == "captions"
    assert "3 examples to learn from, 2 held out" in made.notes[0]


def test_karpathys_split_adds_restval_to_train(tmp_path: Path) -> None:
    make_karpathy(tmp_path)
    made = load_examples(f"coco:folder={tmp_path},split=karpathy")
    assert files(made, tmp_path) == (["train2014/0.jpg", "val2014/1.jpg"], ["val2014/3.jpg"])
    assert made.test[0].targets == ("A test one.", "Another.")
    other = coco.examples(folder=str(tmp_path), split="karpathy", test="val")
    assert files(other, tmp_path)[1] == ["val2014/2.jpg"]


def test_flickr8k_follows_its_lists(tmp_path: Path) -> None:
    make_flickr8k(tmp_path)
    made = load_examples(f"flickr8k:folder={tmp_path}")
    assert files(made, tmp_path) == (
        ["Flicker8k_Dataset/3.jpg", "Flicker8k_Dataset/1.jpg"],
        ["Flicker8k_Dataset/4.jpg"],
    )
    assert made.train[0].targets == tuple(f"A dog , number 3 , told {said} ." for said in range(5))


def test_flickr8k_from_kaggle_is_split_by_the_hash_of_names(tmp_path: Path) -> None:
    make_kaggle(tmp_path)
    made = flickr8k.examples(folder=str(tmp_path), test_fraction=0.25)
    train, test = files(made, tmp_path)
    assert len(train) + len(test) == 40
    assert not set(train) & set(test)
    assert 2 <= len(test) <= 18  # 25 % of 40, give or take three standard deviations
    assert made.train[0].targets == tuple(f"A dog, and {said} cats" for said in range(5))
    assert "no lists of a split" in made.notes[1]
    # None changes sides when pictures go.
    lines = (tmp_path / "captions.txt").read_text("utf-8").splitlines()
    (tmp_path / "captions.txt").write_text("\n".join(lines[:101]), "utf-8")
    few = files(flickr8k.examples(folder=str(tmp_path), test_fraction=0.25), tmp_path)
    assert set(few[0]) <= set(train)
    assert set(few[1]) <= set(test)


def test_audiocaps_finds_sounds_by_each_of_their_names_and_joins_captions(tmp_path: Path) -> None:
    make_audiocaps(tmp_path)
    made = load_examples(f"audiocaps:folder={tmp_path}")
    assert files(made, tmp_path) == (["audio/91.wav", "audio/b_0.flac", "audio/b_9.mp3"], ["audio/c.wav"])
    assert [example.targets for example in made.train] == [("a cat",), ("rain, then wind",), ("x",)]
    assert made.test[0].targets == tuple(f"told {n}" for n in range(5))
    assert made.train[0].media[0].kind == "audio"


def test_clotho_has_five_captions_a_sound(tmp_path: Path) -> None:
    make_clotho(tmp_path)
    made = load_examples(f"clotho:folder={tmp_path}")
    assert files(made, tmp_path) == (["development/rain, on a roof.wav"], ["evaluation/Tür.wav"])
    assert made.test[0].targets == tuple(f"evaluation {n}" for n in range(1, 6))


def test_msrvtt_is_scored_on_test_or_validation(tmp_path: Path) -> None:
    make_msrvtt(tmp_path)
    made = load_examples(f"msrvtt:folder={tmp_path}")
    assert files(made, tmp_path) == (["videos/all/video0.mp4", "videos/all/video1.mp4"], ["videos/all/video9.mp4"])
    assert made.train[0].targets == ("video0 told 0", "video0 told 1")
    assert made.train[0].media[0].kind == "video"
    assert files(msrvtt.examples(folder=str(tmp_path), test="validate"), tmp_path)[1] == ["videos/all/video7.mp4"]


def test_msrvtt_takes_the_test_split_from_its_second_file(tmp_path: Path) -> None:
    content = make_msrvtt(tmp_path)
    both = {"train_val_videodatainfo.json": slice(0, 3), "test_videodatainfo.json": slice(3, 4)}
    (tmp_path / "MSRVTT_data.json").unlink()
    for name, which in both.items():
        videos = content["videos"][which]
        known = {video["video_id"] for video in videos}
        said = [sentence for sentence in content["sentences"] if sentence["video_id"] in known]
        write_json(tmp_path / name, {"videos": videos, "sentences": said})
    made = msrvtt.examples(folder=str(tmp_path))
    assert files(made, tmp_path)[1] == ["videos/all/video9.mp4"]
    (tmp_path / "test_videodatainfo.json").unlink()
    with pytest.raises(LayoutError, match=r"no clips of the split 'test'; it has: train, validate\. Put test_video"):
        msrvtt.examples(folder=str(tmp_path))


@pytest.mark.parametrize("name", LAYOUTS)
def test_missing_files_are_named_and_counted(tmp_path: Path, name: str) -> None:
    make, examples, file = LAYOUTS[name]
    make(tmp_path)
    whole = files(examples(folder=str(tmp_path)), tmp_path)
    (tmp_path / file).unlink()
    stem = "-a_30" if name == "audiocaps" else Path(file).stem
    with pytest.raises(LayoutError, match=f"1 of {len(whole[0] + whole[1])} files are missing, the first is .*{stem}"):
        examples(folder=str(tmp_path))
    if len(whole[0]) == 1:
        with pytest.raises(LayoutError, match="no example to train on"):
            examples(folder=str(tmp_path), skip_missing=True)
        return
    left = examples(folder=str(tmp_path), skip_missing=True)
    assert files(left, tmp_path) == ([one for one in whole[0] if one != file], whole[1])
    assert left.notes[1].startswith("1 files are missing and left out, the first is ")


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_folder_without_the_data_set_is_said_to_be_one(tmp_path: Path, name: str) -> None:
    _, examples, _ = LAYOUTS[name]
    with pytest.raises(LayoutError, match=r"has none of the files .*multimodal-data\.md"):
        examples(folder=str(tmp_path))
    with pytest.raises(LayoutError, match=r"no folder .*folder=…"):
        examples(folder=str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="test must be" if name != "flickr8k" else "test_fraction must be"):
        examples(folder=str(tmp_path), **({"test_fraction": 1.0} if name == "flickr8k" else {"test": "x"}))


def test_a_quick_try_needs_only_the_files_that_it_uses(tmp_path: Path) -> None:
    make_coco(tmp_path)
    (tmp_path / "train2017/3.jpg").unlink()
    made = coco.examples(folder=str(tmp_path), limit=2)
    assert files(made, tmp_path) == (["train2017/1.jpg", "train2017/2.jpg"], ["val2017/8.jpg", "val2017/9.jpg"])
    (tmp_path / "train2017/1.jpg").unlink()
    made = coco.examples(folder=str(tmp_path), limit=1, skip_missing=True)
    assert files(made, tmp_path) == (["train2017/2.jpg"], ["val2017/8.jpg"])
    with pytest.raises(ValueError, match="limit must be at least 0, got -1"):
        coco.examples(folder=str(tmp_path), limit=-1)


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/secret.jpg", "sub/secret.jpg", "..\\secret.jpg", "a\0.jpg"])
def test_a_file_name_never_leaves_the_folder(tmp_path: Path, name: str) -> None:
    content = make_coco(tmp_path)["train"]
    touch(tmp_path / "secret.jpg", tmp_path / "train2017/sub/secret.jpg")
    content["images"][0]["file_name"] = name
    write_json(tmp_path / "annotations/captions_train2017.json", content)
    with pytest.raises(LayoutError, match="1 of 5 files are missing"):
        coco.examples(folder=str(tmp_path))


@pytest.mark.parametrize("where", ["../elsewhere", "..", "/etc", 3])
def test_karpathys_folder_names_are_names(tmp_path: Path, where: object) -> None:
    entries = make_karpathy(tmp_path)
    entries[2]["filepath"] = where
    write_json(tmp_path / "dataset_coco.json", {"images": entries})
    with pytest.raises(LayoutError, match="image 2: `filepath` must be the name of one folder"):
        coco.examples(folder=str(tmp_path), split="karpathy")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("images"), "captions_train2017.json: `images` is missing"),
        (lambda content: content["images"].append({"id": 1, "file_name": "x"}), "image 3: the id 1 is there twice"),
        (lambda content: content["images"].append("x"), "image 3: `id` is missing or of another type"),
        (lambda content: content["annotations"][2].update(image_id=77), "annotation 2 is about the picture 77"),
        (
            lambda content: content["annotations"][2].update(caption=["a"]),
            "annotation 2: `caption` is missing or of an",
        ),
        (lambda content: content["annotations"][5].update(caption="x" * 10**6), "1.jpg: a text of 1000000 characters"),
        (lambda content: content["annotations"][5].update(caption="a\ud800"), "1.jpg: a text holds NUL or half of a"),
    ],
)
def test_wrong_annotations_are_named(tmp_path: Path, change: Callable[[Any], Any], message: str) -> None:
    content = make_coco(tmp_path)["train"]
    change(content)
    write_json(tmp_path / "annotations/captions_train2017.json", content)
    with pytest.raises(LayoutError, match=message):
        coco.examples(folder=str(tmp_path))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not JSON"),
        (b'{"images": [', "is not JSON"),
        (b"[]", "must hold one JSON object, not a list"),
        (b"[" * 200_000, "is not JSON"),
        (b'{\n"images": "\xff"}', "line 2 is not UTF-8"),
    ],
)
def test_files_that_are_not_json_are_named(tmp_path: Path, data: bytes, message: str) -> None:
    make_coco(tmp_path)
    (tmp_path / "annotations/captions_val2017.json").write_bytes(data)
    with pytest.raises(LayoutError, match=rf"captions_val2017\.json.*{message}"):
        coco.examples(folder=str(tmp_path))


def test_byte_order_mark_and_crlf_are_harmless(tmp_path: Path) -> None:
    make_flickr8k(tmp_path)
    make_coco(tmp_path)
    plain = flickr8k.examples(folder=str(tmp_path)), coco.examples(folder=str(tmp_path))
    for name in ("Flickr8k.token.txt", "Flickr_8k.trainImages.txt", "annotations/captions_val2017.json"):
        text = (tmp_path / name).read_text("utf-8")
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert (flickr8k.examples(folder=str(tmp_path)), coco.examples(folder=str(tmp_path))) == plain


def test_empty_captions_are_left_out_and_pictures_without_any_counted(tmp_path: Path) -> None:
    content = make_coco(tmp_path)["train"]
    for annotation in content["annotations"]:
        annotation["caption"] = {1: " \n", 2: "a"}.get(annotation["image_id"], annotation["caption"])
    write_json(tmp_path / "annotations/captions_train2017.json", content)
    made = coco.examples(folder=str(tmp_path))
    assert files(made, tmp_path)[0] == ["train2017/2.jpg", "train2017/3.jpg"]
    assert made.train[0].targets == ("a",)
    assert "1 examples without a caption are left out" in made.notes


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("Flickr8k.token.txt", "1.jpg a dog\n", "token.txt line 1 must be FILE#NUMBER, a tab and a caption"),
        ("Flickr_8k.trainImages.txt", "77.jpg\n", "lists 77.jpg, which has no caption"),
        ("Flickr_8k.trainImages.txt", "4.jpg\n1.jpg\n", "4.jpg is in .*trainImages.txt and in .*testImages.txt"),
        ("Flickr_8k.testImages.txt", None, "testImages.txt is missing, while the other list"),
        ("Flickr_8k.testImages.txt", "", "no example to test on"),
    ],
)
def test_wrong_lists_of_flickr8k_are_named(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    make_flickr8k(tmp_path)
    if text is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(LayoutError, match=message):
        flickr8k.examples(folder=str(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("youtube_id,caption\na,b\n", "line 1 must name the column `start_time`; it has: youtube_id, caption"),
        ("", "line 1 must name the column `youtube_id`"),
        ("youtube_id,start_time,caption\na,3\n", "line 2 has 2 fields, not 3"),
        ('youtube_id,start_time,caption\na,3,"cut off\n', "line 2: unexpected end of data"),
    ],
)
def test_wrong_tables_are_named(tmp_path: Path, text: str, message: str) -> None:
    make_audiocaps(tmp_path)
    (tmp_path / "train.csv").write_text(text, "utf-8")
    with pytest.raises(LayoutError, match=message):
        audiocaps.examples(folder=str(tmp_path))


def test_clotho_refuses_a_sound_that_is_there_twice(tmp_path: Path) -> None:
    make_clotho(tmp_path)
    path = tmp_path / "clotho_captions_evaluation.csv"
    path.write_text(path.read_text("utf-8") + path.read_text("utf-8").splitlines()[1], "utf-8")
    with pytest.raises(LayoutError, match=r"line 3: Tür\.wav is there twice"):
        clotho.examples(folder=str(tmp_path))


def test_commas_beyond_the_heading_belong_to_the_last_column(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('image,caption\n1.jpg,a dog, running , fast\n\n2.jpg,"one, two"\n', "utf-8")
    assert [row["caption"] for _, row in read_csv(path, ("image",))] == ["a dog, running , fast", "one, two"]
    assert [place for place, _ in read_csv(path, ("image",))] == [f"{path} line 2", f"{path} line 4"]
