"""AudioCaps, of the files that their owner has: ten-second sounds from videos, and what is heard in them."""

from pathlib import Path

from multimodal.datasets.files import (
    Item,
    MediaFolder,
    captions,
    data_folder,
    first_file,
    items_to_examples,
    read_csv,
)
from multimodal.examples import Examples

SUFFIXES = (".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus")


def examples(*, folder: str, test: str = "test", limit: int = 0, skip_missing: bool = False) -> Examples:
    """Sounds of ten seconds with one caption each to learn from, and five each to be scored on.

    Layout: `train.csv` and `test.csv` (`audiocap_id,youtube_id,start_time,caption`) in `folder` or its `dataset`;
    sounds in `train` and `test`, in `audio/train` and `audio/test`, or together in `audio` or in `folder` itself. A
    sound is named by its `audiocap_id`, by its `youtube_id`, or by `youtube_id` and `start_time` (`ID_30`), and is WAV,
    FLAC, MP3, M4A, OGG or Opus. Many of the videos are gone: use `skip_missing`.

    Split: that of the data set: 49,838 rows to learn from, 975 sounds to be scored on (all five captions of a sound
    are references).

    Source: https://github.com/cdjkim/audiocaps. Licence: captions MIT; the sounds are YouTube's. Not fetched by us.

    Args:
        folder: where the files are.
        test: the table that is scored: `test` or `val`.
        limit: so many sounds of each side, for a quick try; 0 means all.
        skip_missing: leave sounds out whose file is missing, and say how many.

    Returns:
        Examples with one sound (a file) and its captions.

    Raises:
        LayoutError: a file is missing or not of this layout.
        ValueError: an option out of range.

    References:
        Kim et al. 2019, "AudioCaps: Generating Captions for Audios in The Wild", NAACL.
    """
    if test not in ("test", "val"):
        raise ValueError(f"test must be test or val, got {test!r}")
    root = data_folder(folder)
    return items_to_examples(
        "AudioCaps", "audio", _items(root, "train"), _items(root, test), limit=limit, skip_missing=skip_missing,
        notes=(f"the data set's split: train to learn from, scored on {test}",),
    )  # fmt: skip


def _items(root: Path, part: str) -> list[Item]:
    path = first_file(root, (f"{part}.csv", f"dataset/{part}.csv"))
    sounds = MediaFolder(root, (f"audio/{part}", part, "audio", "."), SUFFIXES)
    said: dict[str, list[str]] = {}
    files: dict[str, Path | None] = {}
    for _, row in read_csv(path, ("youtube_id", "start_time", "caption")):
        video, start = row["youtube_id"], row["start_time"]
        # Rows about one sound: its captions, each of which has an audiocap_id of its own.
        clip = f"{video}_{start}"
        said.setdefault(clip, []).append(row["caption"])
        if files.get(clip) is None:
            files[clip] = sounds.stem(row.get("audiocap_id", ""), clip, f"Y{clip}", video, f"Y{video}")
    return [
        Item(clip, str(sounds.folder / f"{clip}.wav"), files[clip], captions(raws, f"{path} {clip}"))
        for clip, raws in said.items()
    ]
