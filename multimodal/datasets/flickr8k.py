"""Flickr8k, of the files that their owner has: five captions a picture, most of people and dogs."""

import re
from pathlib import Path

from multimodal.datasets.files import (
    Item,
    LayoutError,
    MediaFolder,
    captions,
    data_folder,
    first_file,
    is_held_out,
    items_to_examples,
    read_csv,
    read_text,
    require_share,
)
from multimodal.examples import Examples

FOLDERS = ("Flicker8k_Dataset", "Flickr8k_Dataset/Flicker8k_Dataset", "Flickr8k_Dataset", "Images", "images")
_LINE = re.compile(r"(?P<file>[^\t#]+)#\d+\t(?P<caption>.*)")


def examples(*, folder: str, test_fraction: float = 0.1, limit: int = 0, skip_missing: bool = False) -> Examples:
    """8,092 pictures with five captions each.

    Layout: `Flickr8k.token.txt`, `Flickr_8k.trainImages.txt` and `Flickr_8k.testImages.txt` in `folder` or its
    `Flickr8k_text`, pictures in `Flicker8k_Dataset`; or Kaggle's form, `captions.txt` and `Images`.

    Split: by the two lists, 6,000 pictures to learn from and 1,000 to be scored on (1,000 more are for validation).
    Where there are no lists, as in Kaggle's form, a share of the pictures is held out by the hash of their names:
    scores are then not comparable with published ones.

    Source: Hodosh, Young and Hockenmaier's data set, on request from the University of Illinois. Licence:
    non-commercial research only. Not fetched by us.

    Args:
        folder: where the files are.
        test_fraction: share of the pictures held out, where there are no lists.
        limit: so many pictures of each side, for a quick try; 0 means all.
        skip_missing: leave pictures out whose file is missing, and say how many.

    Returns:
        Examples with one picture (a file) and its captions.

    Raises:
        LayoutError: a file is missing or not of this layout.
        ValueError: an option out of range.

    References:
        Hodosh et al. 2013, "Framing Image Description as a Ranking Task", JAIR 47.
    """
    require_share(test_fraction)
    root = data_folder(folder)
    path = first_file(root, ("Flickr8k.token.txt", "Flickr8k_text/Flickr8k.token.txt", "captions.txt"))
    said = _kaggle(path) if path.name == "captions.txt" else _tokens(path)
    pictures = MediaFolder(root, FOLDERS, (".jpg", ".jpeg", ".png"))
    items = {
        name: Item(name, str(pictures.folder / name), pictures.file(name), captions(raws, f"{path} {name}"))
        for name, raws in said.items()
    }
    lists = [path.parent / f"Flickr_8k.{part}Images.txt" for part in ("train", "test")]
    if any(file.is_file() for file in lists):
        train, test = ([_known(items, name, file) for name in _names(file)] for file in lists)
        if both := {item.key for item in train} & {item.key for item in test}:
            raise LayoutError(f"{min(both)} is in {lists[0]} and in {lists[1].name}: keep it in one of them")
        note = "split by the lists of the data set"
    else:
        train, test = [], []
        for name, item in items.items():
            (test if is_held_out(name, test_fraction, "flickr8k") else train).append(item)
        note = f"no lists of a split: {test_fraction:g} of the pictures held out by the hash of their names"
    return items_to_examples("Flickr8k", "image", train, test, limit=limit, skip_missing=skip_missing, notes=(note,))


def _tokens(path: Path) -> dict[str, list[str]]:
    """`1000.jpg#0<TAB>A child .`"""
    said: dict[str, list[str]] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        if not (match := _LINE.fullmatch(line)):
            raise LayoutError(f"{path} line {number} must be FILE#NUMBER, a tab and a caption, not {line[:60]!r}")
        said.setdefault(match["file"], []).append(match["caption"])
    return said


def _kaggle(path: Path) -> dict[str, list[str]]:
    """`image,caption` and a line for each."""
    said: dict[str, list[str]] = {}
    for _, row in read_csv(path, ("image", "caption")):
        said.setdefault(row["image"], []).append(row["caption"])
    return said


def _names(path: Path) -> list[str]:
    if not path.is_file():
        raise LayoutError(f"{path} is missing, while the other list of the split is there: put it there")
    return list(dict.fromkeys(filter(None, (line.strip() for line in read_text(path).splitlines()))))


def _known(items: dict[str, Item], name: str, path: Path) -> Item:
    if name not in items:
        raise LayoutError(f"{path} lists {name}, which has no caption")
    return items[name]
