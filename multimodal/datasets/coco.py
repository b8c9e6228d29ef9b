"""COCO captions, of the files that their owner has: five captions a picture."""

from pathlib import Path
from typing import Any, Literal, get_args

from multimodal.datasets.files import (
    Item,
    LayoutError,
    MediaFolder,
    captions,
    data_folder,
    field,
    first_file,
    items_to_examples,
    read_json,
)
from multimodal.examples import Examples

SplitName = Literal["official", "karpathy"]
TestName = Literal["test", "val"]
SUFFIXES = (".jpg", ".jpeg", ".png")


def examples(
    *,
    folder: str,
    split: SplitName = "official",
    test: TestName = "test",
    year: int = 2017,
    limit: int = 0,
    skip_missing: bool = False,
) -> Examples:
    """COCO captions: pictures of everyday scenes, each described by about five people.

    Layout: `captions_train2017.json` and `captions_val2017.json` in `folder` or its `annotations`, pictures in
    `train2017` and `val2017` (or in `images/…`). For Karpathy's split: `dataset_coco.json` in the same places, pictures
    in `train2014` and `val2014`.

    Split: `official` learns from train (118,287 pictures of 2017) and is scored on val (5,000). `karpathy`, which most
    papers report, learns from train and restval (113,287), and is scored on test or val (5,000 each).

    Source: https://cocodataset.org. Licence: annotations CC-BY 4.0; of the pictures, their photographers' on Flickr.
    Not fetched by us.

    Args:
        folder: where the files are.
        split: `official` or `karpathy`.
        test: of Karpathy's split, what is scored: `test` or `val`.
        year: of the official files: 2017 or 2014.
        limit: so many pictures of each side, for a quick try; 0 means all.
        skip_missing: leave pictures out whose file is missing, and say how many.

    Returns:
        Examples with one picture (a file) and its captions.

    Raises:
        LayoutError: a file is missing or not of this layout.
        ValueError: an option out of range.

    References:
        Chen et al. 2015, "Microsoft COCO Captions", arXiv:1504.00325; Karpathy & Fei-Fei 2015, "Deep Visual-Semantic
        Alignments for Generating Image Descriptions", arXiv:1412.2306.
    """
    if split not in get_args(SplitName):
        raise ValueError(f"split must be one of {', '.join(get_args(SplitName))}, got {split!r}")
    if test not in get_args(TestName):
        raise ValueError(f"test must be one of {', '.join(get_args(TestName))}, got {test!r}")
    root = data_folder(folder)
    if split == "karpathy":
        path = first_file(root, ("dataset_coco.json", "annotations/dataset_coco.json"))
        parts = karpathy(path, root)
        train, held_out = [*parts.get("train", []), *parts.get("restval", [])], parts.get(test, [])
        notes = (f"Karpathy's split: train and restval to learn from, scored on {test}",)
    else:
        train, held_out = _official(root, "train", year), _official(root, "val", year)
        notes = (f"the official split of {year}: train to learn from, scored on val",)
    return items_to_examples(
        "COCO captions", "image", train, held_out, limit=limit, skip_missing=skip_missing, notes=notes
    )


def karpathy(path: Path, root: Path) -> dict[str, list[Item]]:
    """The items of each split of one of Karpathy's files (`dataset_coco.json`, `dataset_flickr8k.json`, …).

    Args:
        path: the file.
        root: the folder with the pictures: in `filepath` of the entry, or in `images`.

    Raises:
        LayoutError: the file is not of this layout.
    """
    parts: dict[str, list[Item]] = {}
    folders: dict[str, MediaFolder] = {}
    for number, entry in enumerate(field(read_json(path), "images", list, str(path))):
        place = f"{path} image {number}"
        name = field(entry, "filename", str, place)
        where = entry.get("filepath", "images")
        if not isinstance(where, str) or "/" in where or "\\" in where or where == "..":
            raise LayoutError(f"{place}: `filepath` must be the name of one folder, not {where!r}")
        if where not in folders:
            folders[where] = MediaFolder(root, (where, f"images/{where}", "images"), SUFFIXES)
        pictures = folders[where]
        raws = [field(sentence, "raw", str, place) for sentence in field(entry, "sentences", list, place)]
        parts.setdefault(field(entry, "split", str, place), []).append(
            Item(name, str(pictures.folder / name), pictures.file(name), captions(raws, place))
        )
    return parts


def _official(root: Path, part: str, year: int) -> list[Item]:
    name = f"captions_{part}{year}.json"
    path = first_file(root, (f"annotations/{name}", name))
    content = read_json(path)
    said: dict[Any, list[str]] = {}
    files: dict[Any, str] = {}
    for number, image in enumerate(field(content, "images", list, str(path))):
        place = f"{path} image {number}"
        identity = field(image, "id", (int, str), place)
        if identity in said:
            raise LayoutError(f"{place}: the id {identity} is there twice")
        said[identity], files[identity] = [], field(image, "file_name", str, place)
    for number, annotation in enumerate(field(content, "annotations", list, str(path))):
        place = f"{path} annotation {number}"
        identity = field(annotation, "image_id", (int, str), place)
        if identity not in said:
            raise LayoutError(f"{place} is about the picture {identity}, which the file does not list")
        said[identity].append(field(annotation, "caption", str, place))
    pictures = MediaFolder(root, (f"{part}{year}", f"images/{part}{year}"), SUFFIXES)
    return [
        Item(f"{part}{year}/{file}", str(pictures.folder / file), pictures.file(file), captions(raws, f"{path} {file}"))
        for file, raws in zip(files.values(), said.values())
    ]
