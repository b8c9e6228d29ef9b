"""Texts and their sounds, to learn speaking from."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from core.errors import UserError
from multimodal.examples import Example
from multimodal.media.decode import waveform
from multimodal.metrics.words import normalise_words
from multimodal.speaking.codec import RATE
from multimodal.speaking.config import SpeakingConfig

_SILENT = 1e-3


@dataclass(frozen=True)
class Spoken:
    """A text and its sound."""

    text: str
    """As `normalise_words` gives it: lower case, no punctuation."""
    waveform_S: Tensor
    """float32 in [-1, 1], 16,000 samples a second, without silence at its ends."""


def load_spoken(config: SpeakingConfig) -> tuple[list[Spoken], list[Spoken], list[str]]:
    """Training texts, held-out texts, and notes on where they come from.

    Raises:
        MissingData: eSpeak's package is not on this machine.
        UserError: an example is not one sound with a text.
    """
    if config.data == "espeak":
        from multimodal.datasets.speech import spoken_texts

        made = spoken_texts(
            words=config.words, longest=config.longest, train=config.train_texts, test=config.test_texts,
            voice=config.voice, speed_wpm=config.speed_wpm, seed=config.seed,
        )  # fmt: skip
        # One filter for all sounds: to make it takes longer than to apply it.
        from torchaudio.transforms import Resample

        resample = Resample(made.rate, RATE)
        train, test = (
            [Spoken(text, trimmed(resample(samples).clamp(-1, 1))) for text, samples in part]
            for part in (made.train, made.test)
        )
        note = (
            f"eSpeak, voice {config.voice}, {config.speed_wpm} words a minute: texts of 1 to {config.longest} out of "
            f"{config.words} words; no test text is a training text, seed {config.seed}"
        )
        return train, test, [note]
    from multimodal.datasets.named import load_examples

    data = load_examples(config.data, test_fraction=config.test_fraction)
    return _spoken(data.train, config), _spoken(data.test, config), list(data.notes)


def trimmed(waveform_S: Tensor) -> Tensor:
    """A sound without the silence at its ends: no codes are spent on it, and the end of speech is heard sooner."""
    loud = (waveform_S.abs() > _SILENT).nonzero().squeeze(1)
    return waveform_S[int(loud[0]) : int(loud[-1]) + 1] if len(loud) else waveform_S[:0]


def _spoken(examples: Sequence[Example], config: SpeakingConfig) -> list[Spoken]:
    spoken = []
    for example in examples:
        media = example.media
        text = normalise_words(example.targets[0])
        if len(media) != 1 or media[0].kind != "audio" or not text:
            raise UserError(
                f"{config.data}: {example.key or 'an example'} is not one sound with a text: speaking is learnt from "
                "such examples only"
            )
        sound = trimmed(waveform(media[0], RATE, config.max_seconds))
        if not len(sound):
            raise UserError(f"{config.data}: {media[0].name} is silent: leave it out")
        spoken.append(Spoken(text, sound))
    return spoken
