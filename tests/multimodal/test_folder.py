"""A user's own pictures: manifests, splits and what may be wrong with them."""

import json
from pathlib import Path

import pytest

from core.errors import UserError
from multimodal.datasets.folder import ManifestError, load_manifest


def write_lines(path: Path, rows: list[object]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def rows(count: int) -> list[object]:
    return [{"image": f"{number}.png", "caption": f"picture {number}"} for number in range(count)]


def test_jsonl_and_csv_say_the_same(tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "a.jsonl", [
        {"image": "x/1.png", "caption": "a cat, asleep", "split": "train"},
        {"image": "x/2.png", "caption": "a dog", "split": "test"},
    ])  # fmt: skip
    table = tmp_path / "a.csv"
    table.write_text('image,caption,split\nx/1.png,"a cat, asleep",train\nx/2.png,a dog,test\n', "utf-8")
    first, second = load_manifest(lines), load_manifest(table)
    assert first == second
    assert first.train[0].image == tmp_path / "x/1.png"
    assert first.train[0].captions == ("a cat, asleep",)
    assert [item.captions for item in first.test] == [("a dog",)]


def test_byte_order_mark_and_blank_lines_are_harmless(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    content = "\n".join(json.dumps(row) for row in rows(40)) + "\n\n"
    path.write_bytes(b"\xef\xbb\xbf" + content.encode())
    parts = load_manifest(path)
    assert len(parts.train) + len(parts.test) == 40


def test_several_captions_become_references_once_each(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [
        {"image": "1.png", "caption": ["a cat", "one  cat"], "split": "train"},
        {"image": "./1.png", "caption": "a cat", "split": "train"},
        {"image": "2.png", "caption": "a dog", "split": "test"},
    ])  # fmt: skip
    (item,) = load_manifest(path).train
    assert item.captions == ("a cat", "one cat")


def test_a_picture_stays_in_its_split_when_others_are_added(tmp_path: Path) -> None:
    few = load_manifest(write_lines(tmp_path / "few.jsonl", rows(60)))
    many = load_manifest(write_lines(tmp_path / "many.jsonl", rows(200)))
    few_test, many_test = ({item.image for item in parts.test} for parts in (few, many))
    assert few_test == many_test & {item.image for parts in (few.train, few.test) for item in parts}
    assert 8 <= len(many_test) <= 36  # 10 % of 200, give or take three standard deviations


def test_a_larger_test_fraction_keeps_the_pictures_held_out_before(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", rows(100))
    small, large = load_manifest(path, test_fraction=0.1), load_manifest(path, test_fraction=0.4)
    assert {item.image for item in small.test} < {item.image for item in large.test}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["{not json"], ["line 1", "not JSON"]),
        (["[1, 2]"], ["line 1", "object"]),
        ([{"picture": "1.png", "caption": "a"}], ["line 1", "`image`", "picture"]),
        ([{"image": "1.png", "caption": "a"}, {"image": "2.png"}], ["line 2", "`caption`"]),
        ([{"image": "1.png", "caption": "   "}], ["line 1", "`caption`"]),
        ([{"image": "1.png", "caption": ["a", 3]}], ["line 1", "`caption`"]),
        ([{"image": "1.png", "caption": "a", "split": "dev"}], ["line 1", "train or test", "'dev'"]),
        (
            [{"image": "1.png", "caption": "a", "split": "train"}, {"image": "1.png", "caption": "b", "split": "test"}],
            ["line 2", "1.png", "train", "test"],
        ),
        (
            [{"image": "1.png", "caption": "a", "split": "train"}, {"image": "2.png", "caption": "b"}],
            ["2.png", "split"],
        ),
        ([{"image": "1.png", "caption": "a", "split": "train"}], ["none to test on"]),
        ([], ["0 pictures"]),
    ],
)
def test_a_bad_manifest_names_the_line_and_the_remedy(tmp_path: Path, lines: list[object], words: list[str]) -> None:
    path = write_lines(tmp_path / "a.jsonl", lines)
    with pytest.raises(ManifestError) as raised:
        load_manifest(path)
    for word in [str(path), *words]:
        assert word in str(raised.value)
    assert isinstance(raised.value, UserError)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("picture,caption\n1.png,a\n", ["`image` and `caption`", "picture, caption"]),
        ("image,caption\n1.png,a cat, asleep\n", ["line 2", "quote"]),
        ("", ["nothing"]),
    ],
)
def test_a_bad_csv_names_the_line_and_the_remedy(tmp_path: Path, content: str, words: list[str]) -> None:
    path = tmp_path / "a.csv"
    path.write_text(content, "utf-8")
    with pytest.raises(ManifestError) as raised:
        load_manifest(path)
    assert all(word in str(raised.value) for word in words)


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no manifest"):
        load_manifest(tmp_path / "absent.jsonl")
    (tmp_path / "a.txt").write_text("a", "utf-8")
    with pytest.raises(ManifestError, match=r"\.jsonl or \.csv"):
        load_manifest(tmp_path / "a.txt")
    (tmp_path / "a.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ManifestError, match="UTF-8"):
        load_manifest(tmp_path / "a.jsonl")
