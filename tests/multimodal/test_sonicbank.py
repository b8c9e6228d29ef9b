"""Mixes of sounds: what a caption says is heard, in that order, and held-out pairs are held out."""

import itertools
import re
import tarfile
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor

from core.pretrained.sources import DamagedData, MissingData
from multimodal.datasets import sonicbank
from multimodal.datasets.sonicbank import BUFFER_S, RATE, examples
from multimodal.datasets.sonicbank_captions import CAPTIONS
from multimodal.examples import Example
from multimodal.media.audio import save_audio

CLIPS = Path(__file__).parents[2].parent / "shared" / "data" / "sonicbank" / "clips.tar"

TONES = {f"a {letter} tone": (f"{letter}1", f"{letter}2") for letter in "abcdefgh"} | {"an i tone": ("i1",)}
SUSTAINED = ("g1", "g2", "h1", "h2")
BLOCK = 160


def frequency(caption: str) -> float:
    """A multiple of 100 Hz: a whole number of periods in a block of 10 ms."""
    return 400.0 + 600 * list(TONES).index(caption)


@pytest.fixture
def tones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of pure tones, one frequency a caption, of 0.4 s or of 3 s; and a table that names them."""
    monkeypatch.setattr(sonicbank, "CAPTIONS", TONES)
    monkeypatch.setenv("TRILLIUM_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "tones"
    folder.mkdir()
    for caption, names in TONES.items():
        for name in names:
            time_S = torch.arange(int(RATE * (3.0 if name in SUSTAINED else 0.4))) / RATE
            level = 0.3 if name.endswith("1") else 0.6
            tone_S = level * torch.sin(2 * torch.pi * frequency(caption) * time_S)
            save_audio(folder / f"{name}.flac", torch.cat([torch.zeros(1000), tone_S, torch.zeros(500)]), RATE)
    return folder


def sound(example: Example) -> Tensor:
    (medium,) = example.media
    assert (medium.kind, medium.rate) == ("audio", RATE)
    assert callable(medium.source)
    return medium.source()


def heard(waveform_S: Tensor) -> dict[str, tuple[int, int]]:
    """The first and the last block of 10 ms in which each tone is loud, by correlation with sine and cosine."""
    blocks = waveform_S.reshape(-1, BLOCK)
    time = torch.arange(BLOCK) / RATE
    spans = {}
    for caption in TONES:
        waves = torch.exp(2j * torch.pi * frequency(caption) * time)
        loud = ((blocks.to(waves.dtype) @ waves).abs() > 0.12 * BLOCK / 2).nonzero().flatten().tolist()
        if loud:
            spans[caption] = (loud[0], loud[-1])
    return spans


def said(text: str) -> list[str]:
    return re.split(", then | followed by | while ", text)


def test_what_a_caption_says_is_heard_in_that_order(tones: Path):
    data = examples(folder=str(tones), classes=9, train=300, test=100)
    kinds: Counter[str] = Counter()
    for example in [*data.train, *data.test]:
        (text,) = example.targets
        waveform_S = sound(example)
        assert waveform_S.shape == (int(BUFFER_S * RATE),)
        assert waveform_S.abs().max() <= 1
        spans = heard(waveform_S)
        captions = said(text)
        assert set(spans) == set(captions)
        if " while " in text:
            (front, back) = (spans[caption] for caption in captions)
            assert back[0] + 5 < front[0]
            assert front[1] < back[1] - 5
        else:
            for before, after in itertools.pairwise(captions):
                assert spans[before][1] < spans[after][0]
        kinds[example.group] += 1
    assert kinds.keys() == {"one", "followed by", "while", "then"}
    assert not any(example.group == "one" for example in data.test)


def test_held_out_pairs_occur_in_no_training_mix_and_in_every_test_mix(tones: Path):
    data = examples(folder=str(tones), classes=9, train=2000, test=200)

    def pairs(example: Example) -> set[frozenset[str]]:
        return {frozenset(pair) for pair in itertools.combinations(said(example.targets[0]), 2)}

    learnt = set().union(*(pairs(example) for example in data.train))
    for example in data.test:
        assert pairs(example) - learnt
    held_out = set(map(frozenset, itertools.combinations(TONES, 2))) - learnt
    assert len(held_out) == round(0.15 * 36)
    assert {caption for example in data.train for caption in said(example.targets[0])} == set(TONES)
    assert data.scoring == "captions"
    assert len({example.key for example in [*data.train, *data.test]}) == 2200


def test_a_mix_of_two_in_sequence_reversed_is_the_other_caption(tones: Path):
    data = examples(folder=str(tones), classes=9, train=200, test=1)
    example = next(example for example in data.train if example.group == "followed by")
    first, second = said(example.targets[0])
    spans = heard(sound(example).flip(0))
    assert spans[second][1] < spans[first][0]


def recordings(examples: list[Example]) -> set[int]:
    return {event.waveform_S.__array_interface__["data"][0] for one in examples for event in one.media[0].source.events}


def test_unseen_recordings_are_heard_in_the_test_only(tones: Path):
    same = examples(folder=str(tones), classes=9, train=500, test=300)
    assert recordings(same.test) <= recordings(same.train)
    new = examples(folder=str(tones), classes=9, train=500, test=300, unseen_recordings=True)
    both = recordings(new.train) & recordings(new.test)
    assert len(both) == 1  # the caption with one recording
    assert len(recordings(new.train)) == len(recordings(new.test)) == 9
    assert any("a quarter of their recordings" in note for note in new.notes)


def test_equal_options_give_equal_bits_and_train_does_not_move_the_test(tones: Path):
    first, again, more = (examples(folder=str(tones), classes=9, train=train, test=20) for train in (20, 20, 60))
    for one, two in zip([*first.train, *first.test], [*again.train, *again.test], strict=True):
        assert one.targets == two.targets
        assert torch.equal(sound(one), sound(two))
    for one, two in zip(first.test, more.test, strict=True):
        assert torch.equal(sound(one), sound(two))
    other = examples(folder=str(tones), classes=9, train=20, test=20, seed=1)
    assert [example.targets for example in other.test] != [example.targets for example in first.test]


def test_the_package_is_reduced_once_into_the_cache(tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls = []
    monkeypatch.setattr(sonicbank, "locate", lambda name: calls.append(name) or tones)
    direct, first, second = (examples(folder=f, classes=9, train=30, test=5) for f in (str(tones), "", ""))
    for one, two, three in zip(direct.train, first.train, second.train, strict=True):
        assert torch.equal(sound(one), sound(two))
        assert torch.equal(sound(one), sound(three))
    assert calls == ["supersonic-scsynth-samples"]
    (path,) = (tmp_path / "cache").iterdir()
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DamagedData, match=r"cannot be read .*: remove it, it is made anew"):
        examples(classes=9)
    path.unlink()
    assert torch.equal(sound(examples(classes=9, train=30, test=5).train[0]), sound(direct.train[0]))
    monkeypatch.setattr(sonicbank, "CAPTIONS", TONES | {"a new tone": ("new",)})
    with pytest.raises(DamagedData, match="lacks new, because the captions have changed: remove it"):
        examples(classes=9)


def test_a_reduction_that_fails_leaves_nothing(tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sonicbank, "locate", lambda _: tones)
    monkeypatch.setattr(sonicbank.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        examples(classes=9)
    assert list((tmp_path / "cache").iterdir()) == []


def test_missing_recordings_say_how_to_get_them(tones: Path, tmp_path: Path):
    get = "trillium data get supersonic-scsynth-samples"
    with pytest.raises(MissingData, match=get):
        examples(classes=9)
    with pytest.raises(MissingData, match=f"no folder .*nowhere of recordings: .*{get}"):
        examples(folder=str(tmp_path / "nowhere"), classes=9)
    (tones / "c1.flac").unlink()
    with pytest.raises(MissingData, match=rf"lacks c1\.flac: .*{get}"):
        examples(folder=str(tones), classes=9)
    save_audio(tones / "c1.flac", torch.zeros(100), RATE)
    with pytest.raises(DamagedData, match=r"c1\.flac is silent"):
        examples(folder=str(tones), classes=9)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"classes": 5}, r"classes must be in \[6, 9\], got 5"),
        ({"classes": 10}, "got 10"),
        ({"classes": 6, "train": 100}, "6 classes make no mix of the kind 'while': raise classes"),
        ({"classes": 9, "train": 0}, "train and test must be at least 1, got 0"),
    ],
)
def test_bad_options_are_refused(tones: Path, options: dict, words: str):
    with pytest.raises(ValueError, match=words):
        examples(folder=str(tones), **options)


def test_no_recording_has_two_captions_and_no_caption_could_be_taken_apart():
    names = [name for own in CAPTIONS.values() for name in own]
    assert len(names) == len(set(names)) == 149
    assert len(CAPTIONS) == 36
    assert all(said(caption) == [caption] and "," not in caption for caption in CAPTIONS)


def test_real_recordings_serve_every_number_of_classes(tmp_path: Path):
    if not CLIPS.is_file():
        pytest.skip(f"{CLIPS} is not on this machine: it holds recordings of the Sonic Pi sample bank")
    with tarfile.open(CLIPS) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    for classes, unseen in ((6, True), (24, False), (36, True)):
        data = examples(folder=str(folder), classes=classes, unseen_recordings=unseen, train=12 * classes, test=50)
        assert len({caption for example in data.train for caption in said(example.targets[0])}) == classes
        assert {example.group for example in data.test} == {"followed by", "while", "then"}
        for example in data.test[:20]:
            waveform_S = sound(example)
            assert waveform_S.isfinite().all()
            assert 0.05 < waveform_S.abs().max() <= 1
