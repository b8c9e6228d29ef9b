"""From a trained run to texts for new media: encoders, captioner and tokenizer together."""

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from core.config import ModelConfig
from core.errors import RunError
from core.training import configfile
from core.training.runtime import Runtime
from multimodal.build import build_captioner, build_language_model
from multimodal.captioner import Captioner
from multimodal.config import CaptioningConfig
from multimodal.encoders.build import build_encoder
from multimodal.examples import Example, Kind, Part
from multimodal.generation import answer
from multimodal.media.errors import TooManyBadFiles
from multimodal.reading import Reader, begin_and_end
from multimodal.store import MediaStore
from multimodal.trained import kinds_of, open_run, read_tokenizer, read_weights, with_tied_head
from multimodal.trainers import LANGUAGE_MODEL_NAME

_PREFIX = "captioner."


class CaptioningPipeline:
    """Answers prompts with media by a trained captioner. Needs pretrained encoders' weights, but no training data.

    Args:
        captioner: in evaluation mode.
        store: an empty one, with the encoders.
        reader: with the tokenizer.
        runtime: device and precision.
    """

    def __init__(self, captioner: Captioner, store: MediaStore, reader: Reader, runtime: Runtime) -> None:
        self.captioner = captioner.to(runtime.device).eval()
        self.store = store
        self.reader = reader
        self.runtime = runtime

    @property
    def kinds(self) -> list[Kind]:
        """Kinds of media that it reads."""
        return list(self.store.encoders)

    @classmethod
    def load(cls, folder: Path | str, *, device: str = "auto") -> Self:
        """The pipeline of a run directory (newest good checkpoint, averaged weights if any) or of a saved folder.

        Args:
            folder: a captioning run's directory, or what `CaptioningTrainer.save` wrote.
            device: where to compute.

        Raises:
            RunError: not such a folder.
            MissingData: a pretrained encoder is not on this machine.
        """
        folder = Path(folder)
        config, runtime = open_run(folder, CaptioningConfig, "captioning run", device)
        tokenizer = read_tokenizer(folder)
        if not (folder / LANGUAGE_MODEL_NAME).is_file():
            raise RunError(f"{folder} has no {LANGUAGE_MODEL_NAME}: train the run first")
        weights = read_weights(folder, _PREFIX)
        encoders = {kind: build_encoder(kind, config) for kind in kinds_of(weights)}
        shape = configfile.decode(ModelConfig, json.loads((folder / LANGUAGE_MODEL_NAME).read_text()), "model")
        model = build_language_model(config, shape)
        bos_id, eos_id = begin_and_end(tokenizer)
        captioner = build_captioner(config, encoders, model, bos_id=bos_id, eos_id=eos_id)
        captioner.load_state_dict(with_tied_head(weights) if shape.tied else weights)
        return cls(captioner, MediaStore(encoders, runtime), Reader.of(captioner, tokenizer), runtime)

    def answer(
        self,
        prompts: Sequence[Sequence[Part]],
        *,
        beams: int = 1,
        on_text: Callable[[str], None] | None = None,
    ) -> list[str]:
        """A text for each prompt.

        Args:
            prompts: media and texts, as in `Example.prompt`.
            beams: width of the beam; 1 is greedy.
            on_text: called with each further piece of the text as it comes, for one prompt without beams; with all of
                it by a captioner that spells sounds (`ctc_weight`), because it settles on a text at the end.

        Raises:
            MediaError: a file cannot be used.
            ValueError: a kind of media that this captioner does not read.
        """
        examples = [Example(tuple(prompt), ("",)) for prompt in prompts]
        store = self.store.beside()
        try:
            store.add(examples)
        except TooManyBadFiles as error:
            raise error.bad[0] from None
        read = [self.reader.prompt(example, store) for example in examples]
        streamed = _Streamed(self.reader.text, on_text) if on_text is not None else None
        on_token = None if self.captioner.ctc_weight else streamed
        texts = answer(self.captioner, self.reader, read, store, self.runtime, beams=beams, on_token=on_token)
        if streamed is not None:
            streamed.finish(texts[0])
        return texts


class _Streamed:
    """Turns tokens as they come into pieces of text; a character that is not complete yet waits."""

    def __init__(self, decode: Callable[[Sequence[int]], str], on_text: Callable[[str], None]) -> None:
        self.decode, self.on_text = decode, on_text
        self.ids: list[int] = []
        self.said = ""

    def __call__(self, rows: list[int], tokens: list[int]) -> None:
        self.ids.append(tokens[0])
        text = self.decode(self.ids)
        if text.startswith(self.said) and not text.endswith("\N{REPLACEMENT CHARACTER}"):
            self.on_text(text[len(self.said) :])
            self.said = text

    def finish(self, text: str) -> None:
        """Say what is missing of the whole text, should its beginning have changed or its last character be broken."""
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(self.said, text))
        self.on_text(text[len(list(same)) :])
