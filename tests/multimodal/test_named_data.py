"""Data sets by name, with options, by path, and by function."""

import json
from pathlib import Path

import pytest

from core.errors import UserError
from multimodal.datasets import moving_shapes
from multimodal.datasets.named import NAMES, DataError, load_examples
from multimodal.examples import Example, Examples


def one(size: int = 3, share: float = 0.5, loud: bool = False, name: str = "x") -> Examples:
    return Examples([Example((f"{size} {share} {loud} {name}",), ("train",))], [Example((), ("test",))])


def needy(folder: str) -> Examples:
    return one()


def nothing() -> int:
    return 3


def test_options_get_the_types_that_the_function_declares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving_shapes, "examples", one)
    prompts = [
        load_examples(data).train[0].prompt[0]
        for data in ("moving_shapes", "moving_shapes:size=7,share=1e-1,loud=True,name=a b", "moving_shapes:loud=false")
    ]
    assert prompts == ["3 0.5 False x", "7 0.1 True a b", "3 0.5 False x"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("colour=red", "moving_shapes has no option 'colour=red'; its options: size, share, loud, name"),
        ("size", "has no option 'size'"),
        ("size=big", "moving_shapes:size must be a number, got 'big'"),
        ("loud=1", "moving_shapes:loud must be true or false, got '1'"),
    ],
)
def test_wrong_options_are_named(monkeypatch: pytest.MonkeyPatch, options: str, message: str) -> None:
    monkeypatch.setattr(moving_shapes, "examples", one)
    with pytest.raises(DataError, match=message):
        load_examples(f"moving_shapes:{options}")


def test_an_option_that_is_missing_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving_shapes, "examples", needy)
    with pytest.raises(DataError, match="moving_shapes needs folder: give --data moving_shapes:folder="):
        load_examples("moving_shapes")


def test_every_name_has_its_module() -> None:
    import importlib

    for name in NAMES:
        assert callable(importlib.import_module(f"multimodal.datasets.{name}").examples)


def test_a_manifest_by_its_path(tmp_path: Path) -> None:
    manifest = tmp_path / "my:data.jsonl"
    lines = [{"image": f"{i}.png", "caption": "x", "split": split} for i, split in enumerate(["train", "test"])]
    manifest.write_text("\n".join(map(json.dumps, lines)), "utf-8")
    found = load_examples(str(manifest))
    assert [len(found.train), len(found.test)] == [1, 1]
    with pytest.raises(DataError, match="neither a manifest on this machine nor one of twemoji"):
        load_examples(str(tmp_path / "absent.jsonl"))
    with pytest.raises(DataError, match="neither a manifest"):
        load_examples("twemojis")


def test_a_function_of_one_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_data_module.py").write_text(
        "from multimodal.examples import Example, Examples\n"
        "def mine(): return Examples([Example((), ('a',))], [Example((), ('b',))])\n"
        "def wrong(): return 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert load_examples("own_data_module:mine").train[0].targets == ("a",)
    package = tmp_path / "own_data_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (tmp_path / "own_data_module.py").rename(package / "data.py")
    assert load_examples("own_data_package.data:mine").train[0].targets == ("a",)
    (package / "data.py").rename(tmp_path / "own_data_module.py")
    with pytest.raises(DataError, match=r"must return multimodal.examples.Examples, not int"):
        load_examples("own_data_module:wrong")
    with pytest.raises(DataError, match=r"own_data_module has no function other"):
        load_examples("own_data_module:other")
    with pytest.raises(UserError, match=r"no package or module 'absent_module' for data absent_module:other"):
        load_examples("absent_module:other")
