"""Sentences that eSpeak says: speech recognition with any number of transcripts, and with voices never heard before."""

from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from multimodal.datasets.espeak import Synthesiser
from multimodal.datasets.hashing import hash_number
from multimodal.examples import Example, Examples, Medium

# No two of them sound alike (`one` and `won`, `sea` and `see` would): what is heard can be written in one way only.
WORDS = (
    "apple basket river window garden mountain yellow paper doctor music table under summer happy kitchen animal "
    "seven before market orange people winter simple button dinner camera family silver thunder village listen follow "
    "answer number purple pencil rabbit finger monkey ladder cotton dragon island jacket lemon magnet bird stone "
    "green house bread milk train cloud about after again always another around because become behind below between "
    "beyond bottle bridge bring broken brother brush build camp candle carry castle catch chair change cheap chicken "
    "child circle city clean clock close coat coffee cold color copper corner country cover cross dance dark daughter "
    "deep desk dirty dream drink drive drop early earth east easy eleven empty engine evening every farm fast father "
    "feather field fifty fire fish floor forest forget friend front fruit full future gentle giant give glass gold "
    "grass grow hammer hand heavy history honey horse hospital hundred hungry husband jump juice keep king lake "
    "language large laugh leg letter light little long machine magic minute mirror money moon morning mother mouth "
    "narrow never noise north nothing office old open party pepper picture planet plastic pocket point police pretty "
    "promise question quick quiet radio school secret shadow shirt short sister smile"
).split()
"""The words of the sentences, two hundred plain ones; `words=50` takes the first fifty."""

TEST_VARIANTS = (
    *("Alicia", "Andrea", "Annie", "belinda", "grandma", "linda"),
    *("Jacky", "Marco", "Storm", "boris", "ed", "norbert", "pablo", "pedro", "quincy"),
)
"""The held-out voices: six of women, nine of men, none closely related to one that stays."""

LANGUAGE = "en-us"
SPEEDS_WPM = (130, 220)
PITCHES = (30, 70)
_RATE = 22_050


def examples(*, words: int = 200, longest: int = 7, train: int = 4000, test: int = 400, seed: int = 0) -> Examples:
    """Spoken sentences of plain English words in any order: "window seven cloud again".

    Every word is equally likely at every place, so that a transcript cannot be guessed, only heard. Voice, speed
    (130-220 words a minute) and pitch are drawn for every sentence. Test voices (15 of 102, of both sexes) and test
    sentences occur in no training item; held-out items depend on `words`, `longest`, `test` and `seed`, not on `train`.
    The score is also given for each test voice.

    A sound is made when it is asked for, in 4 ms, the same each time; it has 22,050 samples a second, and lasts
    1.6 s on average.

    Source: eSpeak NG 1.52, package `espeakng-loader` 0.2.4. Licence: GPL-3.0 for the program, none needed for what it
    says.

    Args:
        words: size of the vocabulary, 2 to 200.
        longest: words of the longest sentences; the shortest have two.
        train: sentences to learn from.
        test: held-out sentences.
        seed: of everything drawn at random; equal arguments give equal bits.

    Returns:
        Examples with one sound and one transcript each.

    Raises:
        MissingData: the package is not installed.
        ValueError: an option out of range.
    """
    if not 2 <= words <= len(WORDS):
        raise ValueError(f"words must be in [2, {len(WORDS)}], got {words}")
    if not 2 <= longest <= 20:
        raise ValueError(f"longest must be in [2, 20], got {longest}")
    if train < 1 or test < 1:
        raise ValueError(f"train and test must be at least 1, got {train} and {test}")
    synthesiser = Synthesiser()
    variants = synthesiser.variants()
    heard = [variant for variant in variants if variant not in TEST_VARIANTS]
    held_out = _sentences(test, words, 2, longest, f"{seed}/test", frozenset())
    learnt = _sentences(train, words, 2, longest, f"{seed}/train", frozenset(held_out))
    return Examples(
        train=_spoken(synthesiser, learnt, heard, "train", seed),
        test=_spoken(synthesiser, held_out, TEST_VARIANTS, "test", seed),
        scoring="words",
        notes=(
            f"eSpeak: {train} sentences of 2 to {longest} out of {words} words, {len(heard)} voices, seed {seed}",
            f"{test} other sentences held out, by {len(TEST_VARIANTS)} voices that training never hears",
        ),
    )


@dataclass(frozen=True)
class SpokenTexts:
    """Texts and their speech, by one voice: what a model learns from that is to speak itself."""

    train: Sequence[tuple[str, Tensor]]
    """Text and waveform_S, float32 in [-1, 1]."""
    test: Sequence[tuple[str, Tensor]]
    rate: int
    """Samples a second."""


def spoken_texts(
    *,
    words: int = 50,
    longest: int = 3,
    train: int = 1000,
    test: int = 100,
    voice: str = f"{LANGUAGE}+f2",
    speed_wpm: int = 175,
    seed: int = 0,
) -> SpokenTexts:
    """Short texts with their speech, always by the same voice at the same speed and pitch.

    Made at once and kept: about 75 kB a text.

    Args:
        words: size of the vocabulary, 2 to 200.
        longest: words of the longest texts; the shortest have one.
        train: texts to learn from; they repeat only where the words make no more.
        test: held-out texts of two words or more, none of them a training text.
        voice: as in `Synthesiser.say`.
        speed_wpm: words a minute.
        seed: of everything drawn at random; equal arguments give equal bits.

    Raises:
        MissingData: the package is not installed.
        ValueError: an option out of range.
    """
    if not 2 <= words <= len(WORDS):
        raise ValueError(f"words must be in [2, {len(WORDS)}], got {words}")
    if not 2 <= longest <= 20:
        raise ValueError(f"longest must be in [2, 20], got {longest}")
    if train < 1 or test < 1:
        raise ValueError(f"train and test must be at least 1, got {train} and {test}")
    synthesiser = Synthesiser()
    held_out = _sentences(test, words, 2, longest, f"{seed}/spoken/test", frozenset())
    learnt = _sentences(train, words, 1, longest, f"{seed}/spoken/train", frozenset(held_out), repeat=False)

    def speak(texts: Sequence[str]) -> list[tuple[str, Tensor]]:
        return [(text, synthesiser.say(text, voice=voice, speed_wpm=speed_wpm)[0]) for text in texts]

    return SpokenTexts(train=speak(learnt), test=speak(held_out), rate=_RATE)


@dataclass(frozen=True)
class _Speech:
    """What makes one sound."""

    synthesiser: Synthesiser
    text: str
    voice: str
    speed_wpm: int
    pitch: int

    def __call__(self) -> Tensor:
        return self.synthesiser.say(self.text, voice=self.voice, speed_wpm=self.speed_wpm, pitch=self.pitch)[0]


def _sentences(
    count: int, words: int, shortest: int, longest: int, seed: str, taken: Set[str], *, repeat: bool = True
) -> list[str]:
    """Sentences of which none is one of `taken`; every length is equally likely.

    Without `repeat` none comes twice before all have come once.
    """
    random = _generator(f"sentences/{seed}")
    kept: list[str] = []
    avoided, tries = set(taken), 0
    possible = sum(words**length for length in range(shortest, longest + 1)) - len(taken)
    while len(kept) < count:
        tries += 1
        if tries > 100 * count + 1000:
            raise ValueError(f"{words} words make too few sentences: raise words or longest, or lower test")
        length = random.integers(shortest, longest + 1)
        sentence = " ".join(WORDS[index] for index in random.integers(words, size=length))
        if sentence not in avoided:
            kept.append(sentence)
            if not repeat:
                avoided.add(sentence)
                if len(avoided) - len(taken) == possible:
                    avoided = set(taken)
    return kept


def _spoken(
    synthesiser: Synthesiser, sentences: Sequence[str], variants: Sequence[str], part: str, seed: int
) -> list[Example]:
    random = _generator(f"voices/{seed}/{part}")
    spoken = []
    for index, sentence in enumerate(sentences):
        variant = variants[int(random.integers(len(variants)))]
        speed_wpm, pitch = (int(random.integers(low, high + 1)) for low, high in (SPEEDS_WPM, PITCHES))
        sound = _Speech(synthesiser, sentence, f"{LANGUAGE}+{variant}", speed_wpm, pitch)
        spoken.append(Example((Medium("audio", sound, _RATE),), (sentence,), f"{part}-{index}", variant))
    return spoken


def _generator(name: str) -> np.random.Generator:
    return np.random.default_rng(hash_number(f"speech/{name}"))
