"""From a trained run to vectors of new media and texts: towers, encoders and tokenizer together.

Shape suffixes: N = media or texts, V = numbers of a vector.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from core.training.runtime import Runtime
from multimodal.encoders.encoder import fingerprint
from multimodal.examples import Example, Kind, Medium
from multimodal.media.errors import MediaError, TooManyBadFiles
from multimodal.retrieval.batch import TextReader
from multimodal.retrieval.config import RetrievalConfig
from multimodal.retrieval.towers import Towers, build_towers
from multimodal.retrieval.trainers import build_encoders, embed, embed_texts
from multimodal.store import MediaStore
from multimodal.trained import kinds_of, open_run, read_tokenizer, read_weights

_PREFIX = "towers."


class Retriever:
    """Vectors of media and texts by trained towers; their products are cosines.

    Args:
        towers: in evaluation mode.
        reader: with the tokenizer.
        runtime: device and precision.
    """

    def __init__(self, towers: Towers, reader: TextReader, runtime: Runtime) -> None:
        self.towers = towers.to(runtime.device).eval()
        self.reader = reader
        self.runtime = runtime

    @classmethod
    def load(cls, folder: Path | str, *, device: str = "auto") -> Self:
        """The towers of a run directory (newest good checkpoint, averaged weights if any) or of a saved folder.

        Args:
            folder: a retrieval run's directory, or what `RetrievalTrainer.save` wrote.
            device: where to compute.

        Raises:
            RunError: not such a folder.
            MissingData: a pretrained encoder is not on this machine.
        """
        folder = Path(folder)
        config, runtime = open_run(folder, RetrievalConfig, "retrieval run: train multimodal:retrieval", device)
        reader = TextReader(read_tokenizer(folder), config.max_text_tokens)
        weights = read_weights(folder, _PREFIX)
        encoders = build_encoders(config, set(kinds_of(weights)) or {"image"})
        towers = build_towers(config, reader.tokenizer.vocab_size, reader.eos_id, encoders)
        towers.load_state_dict(weights)
        return cls(towers, reader, runtime)

    @property
    def kinds(self) -> list[Kind]:
        """Kinds of media that it takes."""
        return list(self.towers.encoders)

    @property
    def name(self) -> str:
        """Weights, encoders and precision: it differs whenever the vectors would."""
        encoders = ", ".join(encoder.name for encoder in self.towers.encoders.values())
        return f"{fingerprint(self.towers)} {encoders} {self.runtime.dtype}"

    def texts(self, texts: Sequence[str]) -> Tensor:
        """vectors_NV, float32 of length 1, on the CPU. Raises `TooLong`."""
        return embed_texts(self.towers, texts, self.reader, self.runtime)

    def media(self, media: Sequence[Medium]) -> tuple[Tensor, list[int], list[MediaError]]:
        """Vectors of the media that can be used.

        Args:
            media: of kinds that it takes.

        Returns:
            vectors_NV (float32 of length 1, on the CPU), which of the media they are, in order, and what is wrong with
            the others.
        """
        kept: list[int] = []
        bad: list[MediaError] = []
        store = MediaStore(self.towers.encoders, self.runtime, max_bad_fraction=1.0)
        for kind in self.kinds:
            chosen = [medium for medium in media if medium.kind == kind]
            try:
                store.add(Example((medium,), ("",)) for medium in chosen)
            except TooManyBadFiles as error:
                bad += error.bad  # all of them
        bad += store.bad
        kept = [index for index, medium in enumerate(media) if store.holds(medium)]
        if not kept:
            return torch.empty(0, self.texts([""]).shape[1]), [], bad
        return embed(self.towers, [media[index] for index in kept], store, self.runtime), kept, bad
