"""MSR-VTT, of the files that their owner has: clips of 10 to 30 seconds, each described by twenty people."""

from pathlib import Path

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

FOLDERS = ("TrainValVideo", "TestVideo", "videos/all", "videos", "video", "train-video", "test-video")
SUFFIXES = (".mp4", ".webm", ".avi", ".mkv")
TRAIN_FILES = ("MSRVTT_data.json", "train_val_videodatainfo.json")
TEST_FILE = "test_videodatainfo.json"


def examples(*, folder: str, test: str = "test", limit: int = 0, skip_missing: bool = False) -> Examples:
    """10,000 clips with twenty captions each.

    Layout: `MSRVTT_data.json`, or `train_val_videodatainfo.json` and `test_videodatainfo.json`, in `folder` or its
    `annotation`; clips named `video0.mp4`, … in `TrainValVideo` and `TestVideo`, or together in `videos/all`, `videos`
    or `video`. They may be MP4, WebM, AVI or MKV.

    Split: that of the data set: 6,513 clips to learn from and 2,990 to be scored on; `test=validate` is scored on the
    497 for validation.

    Source: Microsoft Research. Licence: for research; the clips are their owners'. Not fetched by us.

    Args:
        folder: where the files are.
        test: what is scored: `test` or `validate`.
        limit: so many clips of each side, for a quick try; 0 means all.
        skip_missing: leave clips out whose file is missing, and say how many.

    Returns:
        Examples with one clip (a file) and its captions.

    Raises:
        LayoutError: a file is missing or not of this layout.
        ValueError: an option out of range.

    References:
        Xu et al. 2016, "MSR-VTT: A Large Video Description Dataset for Bridging Video and Language", CVPR.
    """
    if test not in ("test", "validate"):
        raise ValueError(f"test must be test or validate, got {test!r}")
    root = data_folder(folder)
    path = first_file(root, [f"{place}{name}" for name in TRAIN_FILES for place in ("", "annotation/")])
    clips = MediaFolder(root, FOLDERS, SUFFIXES)
    parts = _parts(path, clips)
    other = path.with_name(TEST_FILE)
    if other.is_file() and "test" not in parts:
        parts["test"] = _parts(other, clips).get("test", [])
    if not parts.get(test):
        raise LayoutError(
            f"{path} has no clips of the split {test!r}; it has: {', '.join(parts)}. Put {TEST_FILE} beside it, or "
            "give test=validate"
        )
    return items_to_examples(
        "MSR-VTT", "video", parts.get("train", []), parts[test], limit=limit, skip_missing=skip_missing,
        notes=(f"the data set's split: train to learn from, scored on {test}",),
    )  # fmt: skip


def _parts(path: Path, clips: MediaFolder) -> dict[str, list[Item]]:
    """The items of each split."""
    content = read_json(path)
    splits: dict[str, str] = {}
    for number, video in enumerate(field(content, "videos", list, str(path))):
        place = f"{path} video {number}"
        name = field(video, "video_id", str, place)
        if name in splits:
            raise LayoutError(f"{place}: {name} is there twice")
        splits[name] = field(video, "split", str, place)
    said: dict[str, list[str]] = {name: [] for name in splits}
    for number, sentence in enumerate(field(content, "sentences", list, str(path))):
        place = f"{path} sentence {number}"
        name = field(sentence, "video_id", str, place)
        if name not in said:
            raise LayoutError(f"{place} is about {name}, which the file does not list")
        said[name].append(field(sentence, "caption", str, place))
    parts: dict[str, list[Item]] = {}
    for name, split in splits.items():
        item = Item(name, str(clips.folder / f"{name}.mp4"), clips.stem(name), captions(said[name], f"{path} {name}"))
        parts.setdefault(split, []).append(item)
    return parts
