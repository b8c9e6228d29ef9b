"""SonicBank: recorded sounds one after another or over one another, with captions that tell which and in what order.

Shape suffix: S = samples.
"""

import itertools
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.pretrained.sources import DamagedData, MissingData, cache_dir, locate, source
from multimodal.datasets.hashing import hash_number
from multimodal.datasets.sonicbank_captions import CAPTIONS
from multimodal.examples import Example, Examples, Medium
from multimodal.media.audio import load_audio

PACKAGE = "supersonic-scsynth-samples"

RATE = 16_000
BUFFER_S = 6.0
CLIP_S = 4.0
_PEAK = 0.9
_SILENCE = 0.02
"""Of the peak; what comes before the first louder sample is cut off."""
_ENERGY_OF_ALL = 0.98
"""A sound is over when this share of its energy has been heard."""
_SUSTAINED_S = 1.2
"""What something else happens during goes on for at least this long."""
_FADE_S = 0.02
_LEAST_GAP_S = 0.05

_GAIN_DB = (-9.0, 0.0)
_FRONT_DB = (-6.0, 0.0)
_BACK_DB = (-12.0, -6.0)

_TEST_PAIRS = 0.15
_MOST_TRIES = 10_000
_KINDS = ("one", "followed by", "while", "then")
_SHARES = {"train": (0.15, 0.35, 0.25, 0.25), "test": (0.0, 0.4, 0.3, 0.3)}


def examples(
    *,
    folder: str = "",
    classes: int = 24,
    unseen_recordings: bool = False,
    train: int = 4000,
    test: int = 300,
    seed: int = 0,
) -> Examples:
    """Six seconds of one to three sounds: "a crow cawing followed by a drum roll".

    Captions: "X"; "X followed by Y", where Y begins after X has ended; "X while Y", where Y goes on for more than a
    second and X begins and ends within it, at least as loud; "X, then Y, then Z". Sounds are shortened to fit, start at
    random places and are made up to 9 dB softer. Played backwards, a mix of two sounds in sequence is to be captioned
    the other way round: what tells "X followed by Y" from "Y followed by X" is order alone. ("X while Y" stays.)

    Split: of all pairs of captions, 15 % never occur together in a training mix, in whatever order or company. Every
    test mix has two or three sounds, at least two of which are such a pair; every caption is heard in training.
    Held-out mixes do not depend on `train`. The score is also given for each kind of mix (`followed by`, `while`,
    `then`).

    A sound is mixed when it is asked for, in less than a millisecond, the same each time; it has 16,000 samples a
    second. The recordings take 14 MB.

    Source: the sample bank of Sonic Pi, npm package `supersonic-scsynth-samples` 0.84.2, 206 recordings from
    freesound.org and by Uwe Zahn. Licence: CC0-1.0. Get it with `trillium data get supersonic-scsynth-samples`; on
    first use it is reduced (mono, 16 kHz, at most 4 s) into Trillium's cache. The captions are ours
    (`sonicbank_captions.py`).

    Args:
        folder: a folder with the recordings (`misc_crow.flac`); empty for the package in the cache.
        classes: the first so many captions of our table, 6 to 36; the first ones differ most.
        unseen_recordings: where a caption has several recordings, hear a quarter of them in the test only, and the
            others in training only. By default the recordings are the same, mixed anew.
        train: mixes to learn from.
        test: held-out mixes.
        seed: of everything drawn at random; equal arguments give equal bits.

    Returns:
        Examples with one sound and one caption each.

    Raises:
        MissingData: the recordings are not on this machine.
        DamagedData: they are not what they should be.
        MediaError: a recording is damaged.
        ValueError: an option out of range.
    """
    if not 6 <= classes <= len(CAPTIONS):
        raise ValueError(f"classes must be in [6, {len(CAPTIONS)}], got {classes}")
    if train < 1 or test < 1:
        raise ValueError(f"train and test must be at least 1, got {train} and {test}")
    waveforms = _from_folder(Path(folder).expanduser()) if folder else _from_cache()
    captions = list(CAPTIONS)[:classes]
    sounds = {caption: [_sound(name, waveforms[name]) for name in CAPTIONS[caption]] for caption in captions}
    pairs = sorted((frozenset(pair) for pair in itertools.combinations(captions, 2)), key=_pair_position)
    test_pairs = set(pairs[: max(1, round(_TEST_PAIRS * len(pairs)))])
    learnt, held_out = (
        {caption: _choose(recordings, part) for caption, recordings in sounds.items()} if unseen_recordings else sounds
        for part in ("train", "test")
    )
    recordings_note = "a quarter of their recordings, where there are several" if unseen_recordings else "no recordings"
    return Examples(
        train=_mixes(learnt, train, "train", seed, test_pairs),
        test=_mixes(held_out, test, "test", seed, test_pairs),
        scoring="captions",
        notes=(
            f"SonicBank (CC0): {train} mixes of {sum(map(len, sounds.values()))} recordings with {classes} captions, "
            f"seed {seed}",
            f"{test} mixes held out: {len(test_pairs)} of {len(pairs)} pairs of captions, and {recordings_note}, "
            "are in no training mix",
        ),
    )


@dataclass(frozen=True)
class _Sound:
    """A recording of which the silence before and after is cut off."""

    name: str
    waveform_S: NDArray[np.float32]
    sustained: bool


@dataclass(frozen=True)
class _Event:
    waveform_S: NDArray[np.float32]
    start: int
    length: int
    gain: float


@dataclass(frozen=True)
class _Mix:
    """What makes one sound."""

    events: tuple[_Event, ...]

    def __call__(self) -> Tensor:
        mix_S = np.zeros(int(BUFFER_S * RATE), np.float32)
        for event in self.events:
            part_S = event.waveform_S[: event.length].copy()
            fade = min(int(_FADE_S * RATE), len(part_S))
            part_S[len(part_S) - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
            part_S *= event.gain * _PEAK / np.abs(part_S).max()
            mix_S[event.start : event.start + len(part_S)] += part_S
        return torch.from_numpy(mix_S / np.float32(max(1.0, np.abs(mix_S).max())))


def _mixes(
    sounds: Mapping[str, Sequence[_Sound]], count: int, part: str, seed: int, test_pairs: set[frozenset[str]]
) -> list[Example]:
    random = np.random.default_rng(_number(f"{part}/{seed}"))
    captions = list(sounds)
    backs = {caption: own for caption in captions if (own := [sound for sound in sounds[caption] if sound.sustained])}
    mixes = []
    for index in range(count):
        kind = _KINDS[random.choice(len(_KINDS), p=_SHARES[part])]
        said = _draw_captions(kind, captions, list(backs), part == "test", test_pairs, random)
        pools = [backs[caption] if kind == "while" and place else sounds[caption] for place, caption in enumerate(said)]
        chosen = [pool[int(random.integers(len(pool)))].waveform_S for pool in pools]
        events = _overlay(chosen, random) if kind == "while" else _sequence(chosen, random)
        text = ", then ".join(said) if kind == "then" else f" {kind} ".join(said)
        sound = Medium("audio", _Mix(tuple(events)), RATE)
        mixes.append(Example((sound,), (text,), f"{part}-{index}", kind))
    return mixes


def _draw_captions(
    kind: str,
    captions: Sequence[str],
    backs: Sequence[str],
    tested: bool,
    test_pairs: set[frozenset[str]],
    random: np.random.Generator,
) -> list[str]:
    """Different captions, with a test pair among them if and only if `tested`; the last of a `while` is in `backs`."""
    size = {"one": 1, "then": 3}.get(kind, 2)
    for _ in range(_MOST_TRIES):
        said = [captions[index] for index in random.permutation(len(captions))[:size]]
        if kind == "while" and said[1] not in backs:
            continue
        met = {frozenset(pair) for pair in itertools.combinations(said, 2)}
        if bool(met & test_pairs) == tested:
            return said
    raise ValueError(f"these {len(captions)} classes make no mix of the kind {kind!r}: raise classes")


def _sequence(waveforms: Sequence[NDArray[np.float32]], random: np.random.Generator) -> Iterable[_Event]:
    """One after the other: each begins after the one before it has ended."""
    buffer, gap = int(BUFFER_S * RATE), int(_LEAST_GAP_S * RATE)
    room = (buffer - gap * (len(waveforms) - 1)) // len(waveforms)
    lengths = [min(len(waveform_S), room) for waveform_S in waveforms]
    slack = buffer - gap * (len(waveforms) - 1) - sum(lengths)
    delays = np.sort(random.integers(slack + 1, size=len(waveforms)))
    start = 0
    for waveform_S, length, delay in zip(waveforms, lengths, delays.tolist()):
        yield _Event(waveform_S, start + delay, length, _gain(_GAIN_DB, random))
        start += length + gap


def _overlay(waveforms: Sequence[NDArray[np.float32]], random: np.random.Generator) -> Iterable[_Event]:
    """The first begins and ends while the second goes on."""
    front_S, back_S = waveforms
    start = int(random.integers(int(BUFFER_S * RATE) - len(back_S) + 1))
    margin = len(back_S) // 10
    length = min(len(front_S), len(back_S) - 2 * margin)
    offset = margin + int(random.integers(len(back_S) - 2 * margin - length + 1))
    yield _Event(front_S, start + offset, length, _gain(_FRONT_DB, random))
    yield _Event(back_S, start, len(back_S), _gain(_BACK_DB, random))


def _gain(range_db: tuple[float, float], random: np.random.Generator) -> float:
    return float(10 ** (random.uniform(*range_db) / 20))


def _sound(name: str, waveform_S: NDArray[np.float32]) -> _Sound:
    energy_S = np.cumsum(np.square(waveform_S, dtype=np.float64))
    length = int(np.searchsorted(energy_S, _ENERGY_OF_ALL * energy_S[-1])) + int(_LEAST_GAP_S * RATE)
    # What rings out is not over, but nobody would say that something else happens during it.
    steady = np.searchsorted(energy_S, energy_S[-1] / 2) >= length / 4
    return _Sound(name, waveform_S[:length], bool(steady) and length >= _SUSTAINED_S * RATE)


def _choose(recordings: Sequence[_Sound], part: str) -> Sequence[_Sound]:
    """A part's own recordings, where there are several."""
    if len(recordings) == 1:
        return recordings
    ranked = sorted(recordings, key=lambda sound: _number(f"recording/{sound.name}"))
    num_test = max(1, len(ranked) // 4)
    return ranked[:num_test] if part == "test" else ranked[num_test:]


def _pair_position(pair: frozenset[str]) -> int:
    return _number("pair/" + "/".join(sorted(pair)))


def _number(name: str) -> int:
    """A number that depends on the name alone."""
    return hash_number(f"sonicbank/{name}")


def _from_folder(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Every recording that has a caption: mono, 16 kHz, at most 4 s, silence before it cut off, of one peak."""
    if not folder.is_dir():
        raise MissingData(f"there is no folder {folder} of recordings: {source(PACKAGE).how_to_get}, without `folder`")
    waveforms = {}
    for name in itertools.chain.from_iterable(CAPTIONS.values()):
        path = folder / f"{name}.flac"
        if not path.is_file():
            raise MissingData(f"{folder} lacks {path.name}: {source(PACKAGE).how_to_get}, and leave `folder` out")
        waveform_S = load_audio(path, rate=RATE).numpy()
        level_S = np.abs(waveform_S)
        if not level_S.any():
            raise DamagedData(f"{path} is silent: {source(PACKAGE).how_to_get}, and leave `folder` out")
        begin = int(np.argmax(level_S > _SILENCE * level_S.max()))
        waveform_S = waveform_S[begin : begin + int(CLIP_S * RATE)]
        waveforms[name] = waveform_S * np.float32(_PEAK / np.abs(waveform_S).max())
    return waveforms


def _from_cache() -> dict[str, NDArray[np.float32]]:
    """The reduced recordings of the package; made when they are asked for the first time."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file, save_file

    path = cache_dir() / f"sonicbank-{source(PACKAGE).version}-{RATE}.safetensors"
    if not path.is_file():
        waveforms = _from_folder(locate(PACKAGE))
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".part-sonicbank-", dir=path.parent) as folder:
            save_file(waveforms, Path(folder) / path.name)
            os.replace(Path(folder) / path.name, path)
    try:
        loaded = load_file(path)
    except SafetensorError as error:
        raise DamagedData(f"{path} cannot be read ({error}): remove it, it is made anew") from error
    if missing := set(itertools.chain.from_iterable(CAPTIONS.values())) - loaded.keys():
        raise DamagedData(f"{path} lacks {min(missing)}, because the captions have changed: remove it, it is made anew")
    return loaded
