"""Sentences that eSpeak says: what is held out, and that equal options give equal bits."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from core.pretrained.sources import MissingData
from multimodal.datasets import speech
from multimodal.datasets.espeak import Synthesiser
from multimodal.datasets.speech import TEST_VARIANTS, WORDS, examples, spoken_texts
from multimodal.examples import Example


class Hummer:
    """In place of the synthesiser: a tone for every word, as high as its place in the vocabulary."""

    def variants(self) -> list[str]:
        return sorted(["Storm", "f1", "m1", "m2", *TEST_VARIANTS[:3]])

    def say(self, text: str, *, voice: str, speed_wpm: int, pitch: int = 50) -> tuple[Tensor, int]:
        time_S = torch.arange(600 * 60 // speed_wpm) / 22_050
        tones = [torch.sin((WORDS.index(word) + pitch + len(voice)) * 6.283 * time_S) for word in text.split()]
        return torch.cat(tones), 22_050


@pytest.fixture
def hummer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech, "Synthesiser", Hummer)


def sound(example: Example) -> Tensor:
    (medium,) = example.media
    assert medium.kind == "audio"
    assert callable(medium.source)
    return medium.source()


def test_the_vocabulary_is_two_hundred_different_plain_words():
    assert len(WORDS) == len(set(WORDS)) == 200
    assert all(word.isalpha() and word.islower() and word.isascii() for word in WORDS)


def test_no_two_words_sound_alike():
    try:
        synthesiser = Synthesiser()
    except MissingData as error:
        pytest.skip(str(error))
    spoken = {synthesiser.say(word)[0].numpy().tobytes() for word in WORDS}
    assert len(spoken) == len(WORDS)
    # The check can fail: these two words do sound alike.
    assert torch.equal(synthesiser.say("sea")[0], synthesiser.say("see")[0])


def test_held_out_voices_exist_and_are_a_seventh_of_all():
    try:
        variants = Synthesiser().variants()
    except MissingData as error:
        pytest.skip(str(error))
    assert set(TEST_VARIANTS) < set(variants)
    assert 0.1 < len(TEST_VARIANTS) / len(variants) < 0.2


def test_test_voices_and_test_sentences_are_never_heard_in_training(hummer: None):
    data = examples(words=5, longest=3, train=500, test=30, seed=3)
    heard, held_out = ({example.group for example in part} for part in (data.train, data.test))
    assert heard == {"f1", "m1", "m2", "Storm"} - set(TEST_VARIANTS)
    assert held_out <= set(TEST_VARIANTS)
    learnt = {example.targets[0] for example in data.train}
    assert not learnt & {example.targets[0] for example in data.test}
    words = {word for sentence in learnt for word in sentence.split()}
    assert words == set(WORDS[:5])
    assert {len(sentence.split()) for sentence in learnt} == {2, 3}
    assert data.scoring == "words"
    assert len({example.key for part in (data.train, data.test) for example in part}) == 530


def test_equal_options_give_equal_sounds_and_train_does_not_move_the_test(hummer: None):
    first, again, more = (examples(train=train, test=20) for train in (10, 10, 40))
    for one, two in zip([*first.train, *first.test], [*again.train, *again.test], strict=True):
        assert one.targets == two.targets
        assert torch.equal(sound(one), sound(two))
    assert [example.targets for example in more.test] == [example.targets for example in first.test]
    assert all(torch.equal(sound(one), sound(two)) for one, two in zip(first.test, more.test, strict=True))
    other = examples(train=10, test=20, seed=1)
    assert [example.targets for example in other.test] != [example.targets for example in first.test]


def test_real_speech_of_a_few_sentences():
    try:
        data = examples(train=8, test=8)
    except MissingData as error:
        pytest.skip(str(error))
    for example in [*data.train, *data.test]:
        waveform_S = sound(example)
        assert waveform_S.dtype == torch.float32
        assert 0.3 < len(waveform_S) / example.media[0].rate < 6
        assert 0.05 < waveform_S.abs().max() <= 1
        assert torch.equal(waveform_S, sound(example))


def test_spoken_texts_have_one_voice_and_new_texts_in_the_test(hummer: None):
    made = spoken_texts(words=6, longest=3, train=60, test=10, voice="en-us+m1")
    assert made.rate == 22_050
    learnt = {text for text, _ in made.train}
    assert {len(text.split()) for text in learnt} == {1, 2, 3}
    assert len(learnt) == 60
    few = [text for text, _ in spoken_texts(words=2, longest=2, train=7, test=1, voice="en-us+m1").train]
    assert len(set(few[:5])) == len(set(few)) == 5  # two words and four pairs, less the one that is held out
    assert not learnt & {text for text, _ in made.test}
    text, waveform_S = made.test[0]
    expected, _ = Hummer().say(text, voice="en-us+m1", speed_wpm=175)
    assert torch.equal(waveform_S, expected)


@pytest.mark.parametrize("function", [examples, spoken_texts])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"words": 1}, r"words must be in \[2, 200\], got 1"),
        ({"words": 201}, "got 201"),
        ({"longest": 1}, r"longest must be in \[2, 20\], got 1"),
        ({"train": 0}, "train and test must be at least 1, got 0"),
    ],
)
def test_bad_options_are_refused(hummer: None, function, options: dict, words: str):
    with pytest.raises(ValueError, match=words):
        function(**options)


def test_a_vocabulary_whose_sentences_are_all_held_out_is_refused(hummer: None):
    with pytest.raises(ValueError, match="2 words make too few sentences: raise words"):
        examples(words=2, longest=2, train=50, test=300)


def test_nothing_is_written(hummer: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRILLIUM_CACHE", str(tmp_path / "cache"))
    sound(examples(train=1, test=1).train[0])
    assert list(tmp_path.iterdir()) == []
