"""A user's own media: manifests, prompts, splits and what may be wrong with them."""

import json
from pathlib import Path

import pytest

from core.errors import UserError
from multimodal.datasets.manifest import MAX_CHARACTERS, ManifestError, examples
from multimodal.examples import Medium


def write_lines(path: Path, rows: list[object]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def rows(count: int) -> list[object]:
    return [{"image": f"{number}.png", "caption": f"picture {number}"} for number in range(count)]


LAST = {"image": "last.png", "caption": "the last", "split": "test"}


def one(tmp_path: Path, **fields: object):
    """The only training example of a manifest with these fields."""
    path = write_lines(tmp_path / "a.jsonl", [{"split": "train", **fields}, LAST])
    (example,) = examples(path).train
    return example


def test_jsonl_and_csv_say_the_same(tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "a.jsonl", [
        {"image": "x/1.png", "caption": "a cat, asleep", "split": "train"},
        {"image": "x/2.png", "caption": "a dog", "split": "test"},
    ])  # fmt: skip
    table = tmp_path / "a.csv"
    table.write_text('image,caption,split\nx/1.png,"a cat, asleep",train\nx/2.png,a dog,test\n', "utf-8")
    first, second = examples(lines), examples(str(table))
    assert (first.train, first.test) == (second.train, second.test)
    assert first.train[0].prompt == (Medium("image", tmp_path / "x/1.png"),)
    assert first.train[0].targets == ("a cat, asleep",)
    assert first.train[0].key == "x/1.png"
    assert [item.targets for item in first.test] == [("a dog",)]
    assert first.scoring == "captions"


def test_byte_order_mark_crlf_and_blank_lines_are_harmless(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(map(json.dumps, rows(40))).encode() + b"\r\n\r\n")
    parts = examples(path)
    assert len(parts.train) + len(parts.test) == 40
    table = tmp_path / "a.csv"
    lines = ["image,caption", *(f"{number}.png,picture {number}" for number in range(40))]
    table.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode() + b"\r\n\r\n")
    again = examples(table)
    assert (again.train, again.test) == (parts.train, parts.test)


def test_several_captions_become_targets_once_each(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [
        {"image": "1.png", "caption": ["a cat", "one  cat"], "split": "train"},
        LAST,
        {"image": "./x/../1.png", "text": "a cat", "split": "train"},
        {"image": "1.png", "answer": "a beast", "split": "train"},
    ])  # fmt: skip
    (item,) = examples(path).train
    assert item.targets == ("a cat", "one cat", "a beast")


def test_a_question_makes_another_example_of_the_same_picture(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [
        {"image": "1.png", "question": "who?", "answer": "a cat", "split": "train"},
        {"image": "1.png", "prompt": "where?", "answer": "at home", "split": "train"},
        {"image": "1.png", "prompt": "who?", "answer": "Tom", "split": "train"},
        {"image": "1.png", "prompt": "when?", "answer": "today", "split": "test"},
    ])  # fmt: skip
    parts = examples(path, scoring="answers")
    picture = Medium("image", tmp_path / "1.png")
    assert [(item.prompt, item.targets) for item in parts.train] == [
        ((picture, "who?"), ("a cat", "Tom")),
        ((picture, "where?"), ("at home",)),
    ]
    assert len({item.key for item in (*parts.train, *parts.test)}) == 3
    assert parts.scoring == "answers"
    assert "media of 1 test examples are trained on" in parts.notes[1]


def test_without_marks_the_media_come_first(tmp_path: Path) -> None:
    item = one(tmp_path, video="c.mp4", image=["a.png", "b.png"], audio="d.flac", prompt="what  is it?", caption="x")
    assert item.prompt == (
        Medium("image", tmp_path / "a.png"),
        Medium("image", tmp_path / "b.png"),
        Medium("audio", tmp_path / "d.flac"),
        Medium("video", tmp_path / "c.mp4"),
        "what is it?",
    )


def test_marks_stand_for_the_media_of_their_kind_in_order(tmp_path: Path) -> None:
    asked = "<audio> before <image>and <image>: what changed?"
    item = one(tmp_path, image=["a.png", "b.png"], audio="d.flac", prompt=asked, caption="x")
    assert item.prompt == (
        Medium("audio", tmp_path / "d.flac"),
        "before",
        Medium("image", tmp_path / "a.png"),
        "and",
        Medium("image", tmp_path / "b.png"),
        ": what changed?",
    )


def test_a_picture_stays_in_its_split_when_others_are_added(tmp_path: Path) -> None:
    few = examples(write_lines(tmp_path / "few.jsonl", rows(60)))
    many = examples(write_lines(tmp_path / "many.jsonl", rows(200)))
    few_test, many_test = ({item.key for item in parts.test} for parts in (few, many))
    assert few_test == many_test & {item.key for part in (few.train, few.test) for item in part}
    assert 8 <= len(many_test) <= 36  # 10 % of 200, give or take three standard deviations


def test_all_questions_about_a_picture_are_on_one_side(tmp_path: Path) -> None:
    lines: list[object] = [
        {"image": f"{number}.png", "question": question, "answer": "x"} for number in range(60) for question in "abc"
    ]
    parts = examples(write_lines(tmp_path / "a.jsonl", lines), test_fraction=0.3)
    sides = [{item.media[0].name for item in part} for part in (parts.train, parts.test)]
    assert not sides[0] & sides[1]
    assert len(parts.test) == 3 * len(sides[1])


def test_a_larger_test_fraction_keeps_the_pictures_held_out_before(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", rows(100))
    small, large = examples(path, test_fraction=0.1), examples(path, test_fraction=0.4)
    assert {item.key for item in small.test} < {item.key for item in large.test}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{not json", ["not JSON"]),
        ("[" * 100_000, ["not JSON"]),
        ("[1, 2]", ["object"]),
        ('{"image": "1.png", "image": "2.png", "caption": "a"}', ["`image` twice"]),
        ({"picture": "1.png", "caption": "a"}, ["`image`", "picture"]),
        ({}, ["no fields"]),
        ({"image": "2.png"}, ["`caption`"]),
        ({"image": 3, "caption": "a"}, ["`image`", "path"]),
        ({"image": ["1.png", None], "caption": "a"}, ["`image`", "path"]),
        ({"image": " ", "caption": "a"}, ["`image`", "path"]),
        ({"image": "a\0b.png", "caption": "a"}, ["`image`", "null"]),
        ({"image": [], "caption": "a"}, ["`image`"]),
        ({"image": "1.png", "caption": "   "}, ["`caption`"]),
        ({"image": "1.png", "caption": []}, ["`caption`"]),
        ({"image": "1.png", "caption": ["a", 3]}, ["`caption`"]),
        ({"image": "1.png", "answer": {"a": 1}}, ["`answer`"]),
        ({"image": "1.png", "caption": "a", "text": "b"}, ["`caption` and `text`"]),
        ({"image": "1.png", "caption": "a" * 1_000_000}, ["1000000", str(MAX_CHARACTERS)]),
        ('{"image": "1.png", "caption": "a \\ud83d"}', ["surrogate"]),
        ({"image": "1.png", "prompt": 0, "caption": "a"}, ["`prompt`"]),
        ({"image": "1.png", "prompt": "a", "question": "b", "caption": "a"}, ["`prompt` and `question`"]),
        ({"image": "1.png", "prompt": "<image> or <image>", "caption": "a"}, ["<image> 2 times for 1"]),
        ({"image": ["1.png", "2.png"], "prompt": "<image>?", "caption": "a"}, ["<image> 1 times for 2"]),
        ({"image": "1.png", "video": "1.mp4", "prompt": "<image>?", "caption": "a"}, ["<video> 0 times for 1"]),
        ({"image": "1.png", "prompt": "<audio>?", "caption": "a"}, ["<image> 0 times for 1"]),
        ({"image": "1.png", "caption": "a", "split": "dev"}, ["train or test", "'dev'"]),
        ({"image": "1.png", "caption": "a", "split": False}, ["train or test"]),
        ({"image": "0.png", "caption": "b", "split": "test"}, ["0.png", "train", "test"]),
        ({"image": "../1.png", "caption": "a"}, ["../1.png", "leaves", "absolute"]),
        ({"image": "x/../../1.png", "caption": "a"}, ["leaves"]),
    ],
)
def test_a_bad_line_is_named_with_the_remedy(tmp_path: Path, line: object, words: list[str]) -> None:
    if isinstance(line, dict) and line:
        line = {"split": "train", **line}
    first = {"image": "0.png", "caption": "a", "split": "train"}
    path = write_lines(tmp_path / "a.jsonl", [first, line, LAST])
    with pytest.raises(ManifestError) as raised:
        examples(path)
    for word in [f"{path} line 2", *words]:
        assert word in str(raised.value)
    assert isinstance(raised.value, UserError)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            [{"image": "1.png", "caption": "a", "split": "train"}, {"image": "2.png", "caption": "b"}],
            ["2.png", "split"],
        ),
        ([{"image": "1.png", "caption": "a", "split": "train"}], ["none to test on"]),
        ([], ["0 examples"]),
    ],
)
def test_a_manifest_without_two_sides_is_refused(tmp_path: Path, lines: list[object], words: list[str]) -> None:
    path = write_lines(tmp_path / "a.jsonl", lines)
    with pytest.raises(ManifestError) as raised:
        examples(path)
    assert all(word in str(raised.value) for word in [str(path), *words])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("picture,caption\n1.png,a\n", ["line 1", "`image`", "picture, caption"]),
        ("image,title\n1.png,a\n", ["line 1", "`caption`", "image, title"]),
        ("image,caption,image\n1.png,a,2.png\n", ["line 1", "`image` twice"]),
        ("image,caption\n1.png,a cat, asleep\n", ["line 2", "quote"]),
        ('image,caption\n1.png,a\n2.png,"b\n', ["line 3", "unexpected end"]),
        ("image,caption\n1.png,a\n2.png,\n", ["line 3", "`caption`"]),
        ("image,caption\n1.png,a\n2.png\n", ["line 3", "`caption`"]),
        ("image,caption\n1.png," + "a" * 1_000_000 + "\n", ["line 2", "field"]),
        ("", ["nothing"]),
    ],
)
def test_a_bad_csv_names_the_line_and_the_remedy(tmp_path: Path, content: str, words: list[str]) -> None:
    path = tmp_path / "a.csv"
    path.write_text(content, "utf-8")
    with pytest.raises(ManifestError) as raised:
        examples(path)
    assert all(word in str(raised.value) for word in [str(path), *words])


def test_links_out_of_the_folder_are_refused_and_absolute_paths_are_not(tmp_path: Path) -> None:
    folder, outside = tmp_path / "mine", tmp_path / "others"
    (folder / "inner").mkdir(parents=True)
    outside.mkdir()
    (folder / "away").symlink_to(outside)
    (folder / "1.png").symlink_to(outside / "1.png")
    (folder / "home").symlink_to(folder / "inner")
    (folder / "circle").symlink_to(folder / "circle")
    for image in ("away/1.png", "1.png", "circle"):
        with pytest.raises(ManifestError, match="line 1"):
            one(folder, image=image, caption="a")
    assert one(folder, image="home/1.png", caption="a").media[0].source == folder / "home/1.png"
    given = str(outside / "1.png")
    assert one(folder, image=given, caption="a").media[0].source == outside / "1.png"
    # The manifest's own folder may be reached through a link.
    (tmp_path / "link").symlink_to(folder)
    assert one(tmp_path / "link", image="inner/1.png", caption="a").targets == ("a",)


def test_wrong_files_and_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no manifest"):
        examples(tmp_path / "absent.jsonl")
    (tmp_path / "a.txt").write_text("a", "utf-8")
    with pytest.raises(ManifestError, match=r"\.jsonl or \.csv"):
        examples(tmp_path / "a.txt")
    (tmp_path / "a.jsonl").write_bytes(b'{"image": "1.png", "caption": "a"}\n{"image": "2.png", "caption": "\xff"}')
    with pytest.raises(ManifestError, match="line 2 is not UTF-8"):
        examples(tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match="test_fraction"):
        examples(tmp_path / "a.jsonl", test_fraction=1.0)
    with pytest.raises(ValueError, match="scoring must be one of captions, words, answers"):
        examples(tmp_path / "a.jsonl", scoring="bleu")  # type: ignore[arg-type]
