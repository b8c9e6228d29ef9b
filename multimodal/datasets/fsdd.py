"""Connected digits from the Free Spoken Digit Dataset: people who say "seven three one"."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.errors import UserError
from core.pretrained.sources import MissingData
from multimodal.datasets.hashing import hash_number
from multimodal.examples import Example, Examples, Medium
from multimodal.media.audio import load_audio

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NUM_OFFICIAL_TEST = 5
"""The recordings 0 to 4 of every digit and speaker are the data set's own test items."""

_RATE = 8000
_LONGEST_GAP_S = 0.2
_GAIN_DB = (-6.0, 6.0)
_SNR_DB = (15.0, 40.0)
_FILE_NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>[^_]+)_(?P<index>\d+)\.wav")
_MAX_SECONDS = 3600.0


class DigitsError(UserError, ValueError):
    """A folder that is not the Free Spoken Digit Dataset, or cannot be divided as asked."""


def examples(
    *, folder: str, hold_out: str = "", digits: int = 7, train: int = 3000, test: int = 300, seed: int = 0
) -> Examples:
    """One to seven digits that one speaker says in a row, and their words: "seven three one".

    Recordings of single digits of one speaker are joined with gaps of 0 to 200 ms. In training, the whole is made up to
    6 dB louder or softer and gets white noise 15 to 40 dB below it; test items are left as recorded. Every number of
    digits is equally likely, and so is every recording. The score is also given for each speaker.

    Split: without `hold_out` the official one, where recordings 0 to 4 of each digit and speaker are for the test and
    the others (45 of 50) for training: the same people, other recordings. With it, all recordings of one speaker are
    for the test and all others for training: a voice never heard. Held-out items do not depend on `train`.

    A sound is joined when it is asked for, in half a millisecond, the same each time; it has 8,000 samples a second.
    The recordings take 42 MB (six speakers).

    Source: https://github.com/Jakobovski/free-spoken-digit-dataset, 3,000 recordings by six speakers (50 of each digit
    and speaker). Licence: CC BY-SA 4.0. Not fetched by us: clone the repository and name its folder.

    Args:
        folder: the repository, or its `recordings` (`7_jackson_32.wav`), or the same packed: one FLAC a speaker, and
            `index.json`, a list of objects with `speaker`, `digit`, `index`, `start` and `length` (samples).
        hold_out: the speaker to test on, such as lucas; empty for the official split.
        digits: most digits of an item.
        train: items to learn from.
        test: held-out items.
        seed: of everything drawn at random; equal arguments give equal bits.

    Returns:
        Examples with one sound and one transcript each.

    Raises:
        MissingData: the folder does not exist.
        DigitsError: it holds something else, or no such speaker.
        MediaError: a recording is damaged.
        ValueError: an option out of range.
    """
    if not 1 <= digits <= 20:
        raise ValueError(f"digits must be in [1, 20], got {digits}")
    if train < 1 or test < 1:
        raise ValueError(f"train and test must be at least 1, got {train} and {test}")
    recordings = _load(Path(folder).expanduser())
    speakers = sorted({recording.speaker for recording in recordings})
    if hold_out and (hold_out not in speakers or len(speakers) == 1):
        raise DigitsError(f"hold_out must be one of several speakers, got {hold_out!r}; there: {', '.join(speakers)}")
    learnt: list[_Recording] = []
    held_out: list[_Recording] = []
    for recording in recordings:
        tested = recording.speaker == hold_out if hold_out else recording.index < NUM_OFFICIAL_TEST
        (held_out if tested else learnt).append(recording)
    if not learnt or not held_out:
        raise DigitsError(
            f"{folder} has {len(learnt)} recordings to train on and {len(held_out)} to test on: "
            f"both are needed, with indices below {NUM_OFFICIAL_TEST} for the test"
        )
    what = f"speaker {hold_out}" if hold_out else f"recordings 0 to {NUM_OFFICIAL_TEST - 1} of every digit and speaker"
    return Examples(
        train=_joined(learnt, train, digits, "train", seed),
        test=_joined(held_out, test, digits, "test", seed),
        scoring="words",
        notes=(
            f"Free Spoken Digit Dataset (CC BY-SA 4.0): {len(recordings)} recordings of {', '.join(speakers)}",
            f"held out: {what}; {train} items of 1 to {digits} digits to train on, {test} to test on, seed {seed}",
        ),
    )


@dataclass(frozen=True)
class _Recording:
    speaker: str
    digit: int
    index: int
    waveform_S: NDArray[np.float32]


@dataclass(frozen=True)
class _Joined:
    """What makes one sound."""

    waveforms: tuple[NDArray[np.float32], ...]
    gaps: tuple[int, ...]
    """Samples of silence before each of them; the first is 0."""
    gain_db: float = 0.0
    snr_db: float = 0.0
    noise_seed: int = -1
    """-1 for none."""

    def __call__(self) -> Tensor:
        silences = [np.zeros(gap, np.float32) for gap in self.gaps]
        joined_S = np.concatenate([part for pair in zip(silences, self.waveforms) for part in pair])
        if self.noise_seed >= 0:
            level = np.sqrt(np.mean(joined_S**2)) * 10 ** (-self.snr_db / 20)
            noise_S = np.random.default_rng(self.noise_seed).standard_normal(len(joined_S), dtype=np.float32)
            joined_S = (joined_S + level * noise_S) * 10 ** (self.gain_db / 20)
            # Without this, a loud speaker made louder would leave [-1, 1].
            joined_S = joined_S / max(1.0, float(np.abs(joined_S).max()))
        return torch.from_numpy(joined_S.astype(np.float32, copy=False))


def _joined(recordings: Sequence[_Recording], count: int, digits: int, part: str, seed: int) -> list[Example]:
    number = hash_number(f"fsdd/{seed}/{part}")
    random = np.random.default_rng(number)
    of_speaker: dict[str, list[_Recording]] = {}
    for recording in recordings:
        of_speaker.setdefault(recording.speaker, []).append(recording)
    speakers = sorted(of_speaker)
    items = []
    for index in range(count):
        own = of_speaker[speakers[random.integers(len(speakers))]]
        said = [own[choice] for choice in random.integers(len(own), size=random.integers(1, digits + 1))]
        gaps = (0, *random.integers(int(_LONGEST_GAP_S * _RATE) + 1, size=len(said) - 1).tolist())
        waveforms = tuple(recording.waveform_S for recording in said)
        sound = _Joined(waveforms, gaps)
        if part == "train":
            gain_db, snr_db = random.uniform(*_GAIN_DB), random.uniform(*_SNR_DB)
            sound = _Joined(waveforms, gaps, gain_db, snr_db, int(random.integers(2**31)))
        words = " ".join(DIGITS[recording.digit] for recording in said)
        items.append(Example((Medium("audio", sound, _RATE),), (words,), f"{part}-{index}", own[0].speaker))
    return items


def _load(folder: Path) -> list[_Recording]:
    """All recordings of a folder in either form, in one order."""
    if not folder.is_dir():
        raise MissingData(
            f"there is no folder {folder}: clone https://github.com/Jakobovski/free-spoken-digit-dataset and name it"
        )
    recordings = _load_packed(folder) if (folder / "index.json").is_file() else _load_files(folder)
    return sorted(recordings, key=lambda recording: (recording.speaker, recording.digit, recording.index))


def _load_files(folder: Path) -> list[_Recording]:
    folder = folder / "recordings" if (folder / "recordings").is_dir() else folder
    found = [(match, path) for path in folder.glob("*.wav") if (match := _FILE_NAME.fullmatch(path.name))]
    if not found:
        raise DigitsError(f"{folder} holds neither `index.json` nor recordings named like 7_jackson_32.wav")
    return [
        _Recording(
            match["speaker"],
            int(match["digit"]),
            int(match["index"]),
            load_audio(path, rate=_RATE, max_seconds=_MAX_SECONDS).numpy(),
        )
        for match, path in found
    ]


def _load_packed(folder: Path) -> list[_Recording]:
    path = folder / "index.json"
    waveforms: dict[str, NDArray[np.float32]] = {}
    recordings = []
    try:
        for row in json.loads(path.read_text(encoding="utf-8")):
            speaker, digit, index = str(row["speaker"]), int(row["digit"]), int(row["index"])
            start, length = int(row["start"]), int(row["length"])
            if speaker not in waveforms:
                sound = folder / f"{Path(speaker).name}.flac"
                waveforms[speaker] = load_audio(sound, rate=_RATE, max_seconds=_MAX_SECONDS).numpy()
            if not (0 <= digit <= 9 and start >= 0 and 0 < length <= len(waveforms[speaker]) - start):
                raise DigitsError(f"{path}: {speaker}, digit {digit}, index {index} lies outside its recording")
            recordings.append(_Recording(speaker, digit, index, waveforms[speaker][start : start + length]))
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise DigitsError(f"{path} is not a list of speaker, digit, index, start and length ({error!r})") from error
    if not recordings:
        raise DigitsError(f"{path} lists no recordings")
    return recordings
