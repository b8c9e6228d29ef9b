"""Clotho, of the files that their owner has: sounds of 15 to 30 seconds, each described by five people."""

from pathlib import Path

from multimodal.datasets.files import (
    Item,
    LayoutError,
    MediaFolder,
    captions,
    data_folder,
    first_file,
    items_to_examples,
    read_csv,
)
from multimodal.examples import Examples


def examples(*, folder: str, test: str = "evaluation", limit: int = 0, skip_missing: bool = False) -> Examples:
    """Sounds of 15 to 30 seconds with five captions each.

    Layout: `clotho_captions_development.csv` and `clotho_captions_evaluation.csv` (`file_name,caption_1,…,caption_5`)
    in `folder` or its `clotho_csv_files`, sounds in `development` and `evaluation` (or in `clotho_audio_…`).

    Split: that of the data set: 3,839 sounds to learn from, 1,045 to be scored on (version 2.1).

    Source: https://zenodo.org/records/4783391. Licence: captions under the Tampere University licence, non-commercial
    with attribution; of the sounds, their authors' on Freesound. Not fetched by us.

    Args:
        folder: where the files are.
        test: the part that is scored: `evaluation` or `validation`.
        limit: so many sounds of each side, for a quick try; 0 means all.
        skip_missing: leave sounds out whose file is missing, and say how many.

    Returns:
        Examples with one sound (a file) and its captions. Sounds last up to 30 s: do not lower a run's `max_seconds`.

    Raises:
        LayoutError: a file is missing or not of this layout.
        ValueError: an option out of range.

    References:
        Drossos et al. 2020, "Clotho: An Audio Captioning Dataset", arXiv:1910.09387.
    """
    if test not in ("evaluation", "validation"):
        raise ValueError(f"test must be evaluation or validation, got {test!r}")
    root = data_folder(folder)
    return items_to_examples(
        "Clotho", "audio", _items(root, "development"), _items(root, test), limit=limit, skip_missing=skip_missing,
        notes=(f"the data set's split: development to learn from, scored on {test}",),
    )  # fmt: skip


def _items(root: Path, part: str) -> list[Item]:
    name = f"clotho_captions_{part}.csv"
    path = first_file(root, (name, f"clotho_csv_files/{name}"))
    sounds = MediaFolder(root, (part, f"clotho_audio_{part}", f"clotho_audio_{part}/{part}"), (".wav", ".flac"))
    items: dict[str, Item] = {}
    for place, row in read_csv(path, ("file_name", *(f"caption_{number}" for number in range(1, 6)))):
        file = row["file_name"]
        if file in items:
            raise LayoutError(f"{place}: {file} is there twice: keep one row")
        said = captions((row[f"caption_{number}"] for number in range(1, 6)), place)
        items[file] = Item(f"{part}/{file}", str(sounds.folder / file), sounds.file(file), said)
    return list(items.values())
