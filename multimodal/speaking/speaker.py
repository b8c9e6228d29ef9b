"""From text to sound by a trained run: a language model that writes codes, and the codec that sounds them.

A sound is text in an alphabet of its own: code 0 is the character U+E000 of Unicode's private use area, code 1 the next
one. So one character tokenizer serves both, and nothing that is written collides with it.

Shape suffixes: S = samples, V = vocabulary.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from core.config import ModelConfig
from core.errors import RunError, UserError
from core.nn.transformer import Transformer
from core.sampling import Sampling
from core.text.atomic import write_json
from core.text.characters import CharTokenizer
from core.text.tokenizer import Tokenizer
from core.training import configfile
from core.training.runtime import Runtime
from multimodal.batch import Contexts
from multimodal.captioner import Captioner
from multimodal.metrics.words import normalise_words
from multimodal.speaking.codec import SpeechCodec
from multimodal.speaking.config import SpeakingConfig
from multimodal.trained import TOKENIZER_NAME, open_run, read_tokenizer, read_weights, with_tied_head

FIRST_CODE = 0xE000
"""First character of Unicode's private use area, which has 6400."""
BATCH = 64
PARTS_NAME = "speaker.json"
_PREFIX = "captioner."
_SLACK = 1.5
"""A text may take so many times the codes per character of the slowest text, before it is cut off."""


class CannotSpeak(UserError, ValueError):
    """A text that the model can't say; the message names what it lacks."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the texts of the run were like: how far the model can be trusted."""

    most_words: int
    """Longer texts are spoken in pieces of so many words."""
    most_characters: int
    most_codes: int
    codes_per_character: float
    """Of the slowest text."""


class Speaker:
    """Speaks texts.

    Args:
        captioner: a language model without media, that answers a text with codes.
        tokenizer: of the characters of texts and codes.
        codec: sounds the codes.
        limits: of the texts of its run.
        sampling: how codes are chosen.
        runtime: device and precision.
    """

    def __init__(
        self, captioner: Captioner, tokenizer: Tokenizer, codec: SpeechCodec, limits: Limits, sampling: Sampling,
        runtime: Runtime,
    ) -> None:  # fmt: skip
        self.captioner = captioner
        self.tokenizer = tokenizer
        self.codec = codec
        self.limits = limits
        self.sampling = sampling
        self.runtime = runtime
        assert tokenizer.bos_id is not None
        assert tokenizer.eos_id is not None
        self.bos_id, self.eos_id = tokenizer.bos_id, tokenizer.eos_id
        self._blank = tokenizer.encode(" ")
        allowed_V = torch.zeros(tokenizer.vocab_size, dtype=torch.bool, device=runtime.device)
        allowed_V[self.target([*range(codec.settings.num_codes)])] = True
        self._allowed_V = allowed_V

    def prompt(self, text: str) -> list[int]:
        """Ids of a text, as the model reads it: filled up with spaces to the length of the longest text.

        So codes begin at the same position after every text, and what is spoken when is about equally far away from
        where it is written: the model finds its place in the text sooner.

        Raises:
            CannotSpeak: there is nothing to say, or a character that no training text has.
        """
        ids = self.tokenizer.encode(text)
        unknown = [character for character, id in zip(text, ids) if id == self.tokenizer.unk_id]
        if unknown:
            raise CannotSpeak(
                f"{unknown[0]!r} in {text!r} cannot be spoken: no training text has this character, write the text "
                "with others (numbers in words)"
            )
        if not ids:
            raise CannotSpeak("there is nothing to say: give a text with words")
        if len(ids) > self.limits.most_characters:
            raise CannotSpeak(
                f"{text!r} is longer than any text of the run, {self.limits.most_characters} characters: break it up"
            )
        return [*ids, *self._blank * (self.limits.most_characters - len(ids)), self.bos_id]

    def target(self, codes: Sequence[int]) -> list[int]:
        """Ids of the codes of a sound, and of its end."""
        return [*self.tokenizer.encode("".join(chr(FIRST_CODE + code) for code in codes)), self.eos_id]

    def codes(self, texts: Sequence[str], *, seed: int = 0) -> list[list[int]]:
        """The codes of texts of at most `limits.most_words` words. A text sounds the same whatever is spoken with it.

        Args:
            texts: normalised, as by `normalise_words`.
            seed: of the choices.
        """
        spoken: list[list[int]] = []
        for start in range(0, len(texts), BATCH):
            part = texts[start : start + BATCH]
            contexts = Contexts([self.prompt(text) for text in part], {})
            # A generator for each text: its choices don't depend on its neighbours.
            generators = [torch.Generator().manual_seed(seed) for _ in part]
            with self.runtime.autocast():
                samples = self.captioner.sample(
                    contexts, sampling=self.sampling, token_mask=self._allowed_V, generator=generators
                )
            for text, ids in zip(part, samples.lists()):
                written = self.tokenizer.decode(ids)
                most = math.ceil(_SLACK * self.limits.codes_per_character * len(text))
                spoken.append([ord(character) - FIRST_CODE for character in written[:most]])
        return spoken

    def speak(self, text: str, *, seed: int = 0) -> Tensor:
        """waveform_S of a text, 16,000 samples a second; a long text is spoken in pieces.

        Raises:
            CannotSpeak: a character that no training text has, a word longer than any text of the run, or no word.
        """
        pieces = self.pieces(normalise_words(text))
        return self.codec.decode([code for codes in self.codes(pieces, seed=seed) for code in codes])

    def pieces(self, text: str) -> list[str]:
        """A text in pieces that are no longer than those of the run."""
        pieces: list[str] = []
        for word in text.split():
            if len(word) > self.limits.most_characters:
                raise CannotSpeak(
                    f"{word!r} is longer than any text of the run, {self.limits.most_characters} characters: "
                    "break it into words"
                )
            longer = f"{pieces[-1]} {word}" if pieces else word
            fits = len(longer) <= self.limits.most_characters and len(longer.split()) <= self.limits.most_words
            if pieces and fits:
                pieces[-1] = longer
            else:
                pieces.append(word)
        if not pieces:
            raise CannotSpeak("there is nothing to say: give a text with words")
        return pieces

    def save_parts(self, folder: Path) -> None:
        """Write all but the weights, so that `load` can build the same."""
        self.tokenizer.save(folder / TOKENIZER_NAME)
        self.codec.save(folder)
        content = {
            "limits": dataclasses.asdict(self.limits),
            "model": configfile.encode(self.captioner.model.config),
        }
        write_json(folder / PARTS_NAME, content)

    @staticmethod
    def load(folder: Path | str, *, device: str = "auto") -> "Speaker":
        """The speaker of a run directory (newest good checkpoint, averaged weights if any) or of a saved folder.

        Raises:
            RunError: not such a folder.
        """
        folder = Path(folder)
        config, runtime = open_run(folder, SpeakingConfig, "speaking run", device)
        speaker = load_parts(folder, config, runtime)
        weights = read_weights(folder, _PREFIX)
        tied = speaker.captioner.model.config.tied
        speaker.captioner.load_state_dict(with_tied_head(weights) if tied else weights)
        return speaker


def build_speaker(
    config: SpeakingConfig, runtime: Runtime, tokenizer: Tokenizer, codec: SpeechCodec, limits: Limits
) -> Speaker:
    """A speaker with a fresh language model, for a tokenizer and a codec."""
    shape = dataclasses.replace(
        config.model, vocab_size=tokenizer.vocab_size, max_length=limits.most_characters + limits.most_codes + 2
    )
    return _speaker(config, runtime, tokenizer, codec, limits, shape)


def load_parts(folder: Path, config: SpeakingConfig, runtime: Runtime) -> Speaker:
    """What `Speaker.save_parts` wrote, with a fresh language model.

    Raises:
        RunError: there is no such thing in the folder.
    """
    if not (folder / PARTS_NAME).is_file():
        raise RunError(f"{folder} has no {PARTS_NAME}: train the run first")
    content = json.loads((folder / PARTS_NAME).read_text(encoding="utf-8"))
    shape = configfile.decode(ModelConfig, content["model"], "model")
    tokenizer, codec = read_tokenizer(folder), SpeechCodec.load(folder)
    return _speaker(config, runtime, tokenizer, codec, Limits(**content["limits"]), shape)


def train_tokenizer(texts: Sequence[str], num_codes: int) -> CharTokenizer:
    """One id for every character of the texts, for the space, and for every code."""
    return CharTokenizer.train([*texts, " ", "".join(chr(FIRST_CODE + code) for code in range(num_codes))])


def _speaker(
    config: SpeakingConfig,
    runtime: Runtime,
    tokenizer: Tokenizer,
    codec: SpeechCodec,
    limits: Limits,
    shape: ModelConfig,
) -> Speaker:
    assert tokenizer.eos_id is not None
    captioner = Captioner(Transformer(shape), {}, eos_id=tokenizer.eos_id, max_new_tokens=limits.most_codes + 1)
    sampling = Sampling(temperature=config.temperature, top_p=config.top_p)
    return Speaker(captioner.to(runtime.device), tokenizer, codec, limits, sampling, runtime)
