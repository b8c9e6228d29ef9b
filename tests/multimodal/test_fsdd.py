"""Connected digits: the splits, the joins by hand, and both forms of the data set."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from core.pretrained.sources import MissingData
from multimodal.datasets.fsdd import DIGITS, DigitsError, examples
from multimodal.examples import Example
from multimodal.media.audio import save_audio
from multimodal.media.errors import MediaError

PACKED = Path(__file__).parents[2].parent / "shared" / "data" / "fsdd"
SPEAKERS = ("ann", "bob", "eve")
RATE = 8000


def recording(speaker: str, digit: int, index: int) -> Tensor:
    """A constant that tells which recording it is, as long as the index says; exact in 16 bits."""
    level = (1 + SPEAKERS.index(speaker) * 100 + digit * 10 + index) / 2**10
    return torch.full((800 + 8 * index,), level)


def identify(level: float) -> tuple[str, int, int]:
    number = round(level * 2**10) - 1
    return SPEAKERS[number // 100], number // 10 % 10, number % 10


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The original form: three speakers, ten digits, seven recordings of each."""
    folder = tmp_path_factory.mktemp("fsdd")
    (folder / "recordings").mkdir()
    for speaker, digit, index in itertools.product(SPEAKERS, range(10), range(7)):
        path = folder / "recordings" / f"{digit}_{speaker}_{index}.wav"
        save_audio(path, recording(speaker, digit, index), RATE)
    (folder / "recordings" / "notes.wav").write_bytes(b"not a recording")
    return folder


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in one FLAC a speaker."""
    folder = tmp_path_factory.mktemp("packed")
    index_rows = []
    for speaker in SPEAKERS:
        parts = []
        for digit, index in itertools.product(range(10), range(7)):
            start = sum(map(len, parts))
            parts.append(recording(speaker, digit, index))
            row = {"speaker": speaker, "digit": digit, "index": index, "start": start, "length": len(parts[-1])}
            index_rows.append(row)
        save_audio(folder / f"{speaker}.flac", torch.cat(parts), RATE)
    (folder / "index.json").write_text(json.dumps(index_rows), "utf-8")
    return folder


def sound(example: Example) -> Tensor:
    (medium,) = example.media
    assert (medium.kind, medium.rate) == ("audio", RATE)
    assert callable(medium.source)
    return medium.source()


def runs(waveform_S: Tensor) -> list[tuple[float, int]]:
    """(level, length) of each stretch of equal samples."""
    values = waveform_S.numpy()
    ends = np.flatnonzero(np.diff(values)) + 1
    return [(float(part[0]), len(part)) for part in np.split(values, ends)]


def test_a_test_item_is_recordings_of_one_speaker_with_short_gaps(repository: Path):
    data = examples(folder=str(repository), train=1, test=200)
    lengths, gaps = set(), set()
    for example in data.test:
        said, previous = [], 0.0
        for level, length in runs(sound(example)):
            if level == 0:
                assert previous > 0
                assert length <= 0.2 * RATE
                gaps.add(length)
            else:
                speaker, digit, index = identify(level)
                assert speaker == example.group
                # The same recording twice without a gap is one run.
                repeats, rest = divmod(length, 800 + 8 * index)
                assert rest == 0
                assert index < 5
                said.extend([DIGITS[digit]] * repeats)
            previous = level
        assert example.targets == (" ".join(said),)
        lengths.add(len(said))
    assert lengths == set(range(1, 8))
    assert max(gaps) > 0.19 * RATE


def test_the_official_split_is_by_index(repository: Path):
    data = examples(folder=str(repository), train=300, test=1)
    assert {example.group for example in data.train} == set(SPEAKERS)
    for example in data.train:
        # Joined without noise and gain: only the recordings differ from the test's.
        for waveform_S in example.media[0].source.waveforms:
            assert identify(float(waveform_S[0]))[2] >= 5


def test_a_held_out_speaker_is_heard_in_the_test_only(repository: Path):
    data = examples(folder=str(repository), hold_out="bob", train=100, test=100)
    assert {example.group for example in data.train} == {"ann", "eve"}
    assert {example.group for example in data.test} == {"bob"}
    indices = {identify(level)[2] for example in data.test for level, _ in runs(sound(example)) if level}
    assert indices == set(range(7))
    assert any("bob" in note for note in data.notes)


def test_training_items_have_noise_and_gain_within_bounds(repository: Path):
    data = examples(folder=str(repository), train=200, test=1)
    gains_db, snrs_db = [], []
    for example in data.train:
        source = example.media[0].source
        clean_S = type(source)(source.waveforms, source.gaps)()
        noisy_S = sound(example)
        assert noisy_S.abs().max() <= 1
        gain = float(clean_S @ noisy_S / (clean_S @ clean_S))
        noise_S = noisy_S / gain - clean_S
        gains_db.append(20 * np.log10(gain))
        snrs_db.append(10 * np.log10(float(clean_S.square().mean() / noise_S.square().mean())))
    assert -6.3 < min(gains_db) < -5
    assert 5 < max(gains_db) < 6.3
    assert 14.5 < min(snrs_db) < 17
    assert 38 < max(snrs_db) < 40.5


def test_both_forms_of_the_data_set_give_the_same_bits(repository: Path, packed: Path):
    one, two, three = (
        examples(folder=str(folder), train=20, test=20) for folder in (repository, repository / "recordings", packed)
    )
    for first, *others in zip([*one.train, *one.test], [*two.train, *two.test], [*three.train, *three.test]):
        for other in others:
            assert other.targets == first.targets
            assert torch.equal(sound(other), sound(first))
            assert torch.equal(sound(other), sound(other))


def test_train_and_seed(repository: Path):
    few, many, other = (
        examples(folder=str(repository), train=train, test=20, seed=seed) for train, seed in ((5, 0), (50, 0), (5, 1))
    )
    assert [example.targets for example in few.test] == [example.targets for example in many.test]
    assert [example.targets for example in few.test] != [example.targets for example in other.test]
    assert len({example.key for example in [*many.train, *many.test]}) == 70


def test_digits_limits_the_length(packed: Path):
    data = examples(folder=str(packed), digits=2, train=50, test=50)
    assert {len(example.targets[0].split()) for example in data.train} == {1, 2}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hold_out": "mallory"}, "got 'mallory'; there: ann, bob, eve"),
        ({"digits": 0}, r"digits must be in \[1, 20\], got 0"),
        ({"test": 0}, "train and test must be at least 1, got 3000 and 0"),
    ],
)
def test_bad_options_are_refused(packed: Path, options: dict, words: str):
    with pytest.raises(ValueError, match=words):
        examples(folder=str(packed), **options)


def test_a_folder_that_is_missing_or_something_else_is_named(tmp_path: Path):
    with pytest.raises(MissingData, match="nowhere: clone https"):
        examples(folder=str(tmp_path / "nowhere"))
    with pytest.raises(DigitsError, match="nor recordings named like 7_jackson_32"):
        examples(folder=str(tmp_path))
    (tmp_path / "index.json").write_text("[{}]")
    with pytest.raises(DigitsError, match="is not a list of speaker, digit, index, start and length"):
        examples(folder=str(tmp_path))
    (tmp_path / "index.json").write_text("[]")
    with pytest.raises(DigitsError, match="lists no recordings"):
        examples(folder=str(tmp_path))


def test_recordings_with_nothing_to_test_on_are_refused(tmp_path: Path):
    save_audio(tmp_path / "3_ann_7.wav", recording("ann", 3, 6), RATE)
    with pytest.raises(DigitsError, match="has 1 recordings to train on and 0 to test on"):
        examples(folder=str(tmp_path))
    with pytest.raises(DigitsError, match="one of several speakers"):
        examples(folder=str(tmp_path), hold_out="ann")


def test_damage_is_named(packed: Path, tmp_path: Path):
    for path in packed.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    rows = json.loads((tmp_path / "index.json").read_text())
    rows[3]["length"] = 10**9
    (tmp_path / "index.json").write_text(json.dumps(rows))
    with pytest.raises(DigitsError, match="ann, digit 0, index 3 lies outside its recording"):
        examples(folder=str(tmp_path))
    (tmp_path / "index.json").write_bytes((packed / "index.json").read_bytes())
    (tmp_path / "bob.flac").write_bytes(b"fLaC" + bytes(100))
    with pytest.raises(MediaError, match=r"bob\.flac"):
        examples(folder=str(tmp_path))


def test_the_real_recordings():
    if not PACKED.is_dir():
        pytest.skip(f"{PACKED} is not on this machine: it holds recordings of the Free Spoken Digit Dataset")
    data = examples(folder=str(PACKED), hold_out="lucas", train=40, test=40)
    assert {example.group for example in data.test} == {"lucas"}
    assert {example.group for example in data.train} == {"george", "jackson", "nicolas"}
    for example in [*data.train, *data.test]:
        waveform_S = sound(example)
        seconds_a_digit = len(waveform_S) / RATE / len(example.targets[0].split())
        assert 0.1 < seconds_a_digit < 1.6
        assert 0.01 < waveform_S.abs().max() <= 1
