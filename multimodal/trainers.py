"""The public trainer of captioners.

Shape suffixes: N = pictures, P = positions of a picture, F = features of a position.
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from core.interfaces import BatchSource, Task
from core.text.tokenizer import Tokenizer, load_tokenizer
from core.training import distributed
from core.training.batches import ShuffledBatches
from core.training.log import write_samples
from core.training.resume import CHECKPOINTS_NAME
from core.training.trainer import Trainer
from multimodal.config import CaptioningConfig
from multimodal.datasets import twemoji
from multimodal.datasets.folder import CaptionedImage, CaptionedImages, load_manifest
from multimodal.encoders.cache import encode_images
from multimodal.encoders.grid import GridEncoder, build_encoder
from multimodal.evaluation import CaptionEvaluation, generate_captions
from multimodal.media import MediaError
from multimodal.pipeline import TOKENIZER_NAME, build_captioner
from multimodal.task import CaptionBatch, CaptioningTask, caption_batch

EVALUATION_BATCH = 128


@dataclass(frozen=True)
class _Part:
    """The usable pictures of one side of the split."""

    items: Sequence[CaptionedImage]
    features_NPF: Tensor


class CaptioningTrainer(Trainer):
    """Trains a captioner on encoded pictures: Twemoji, or a manifest of one's own.

    >>> from multimodal.config import CaptioningConfig
    >>> CaptioningTrainer(CaptioningConfig(data="pictures/captions.jsonl")).train()  # doctest: +SKIP
    """

    config: CaptioningConfig
    tokenizer: Tokenizer
    encoder: GridEncoder
    evaluation: CaptionEvaluation
    bad: list[MediaError]
    """Pictures that were skipped."""

    def build(self) -> tuple[Task, BatchSource]:
        """Encode the pictures, or read them from the cache; make the captioner, its task and its batches."""
        config, runtime = self.config, self.runtime
        data = load_pictures(config)
        began = time.perf_counter()
        self.encoder = build_encoder(
            config.encoder, config.image_side, config.grid, device=runtime.device, dtype=runtime.dtype
        )
        self._train, self._test = self._encode(data)
        self.encoding_s = time.perf_counter() - began
        pairs = [(place, text) for place, item in enumerate(self._train.items) for text in item.captions]
        self.tokenizer = self._tokenizer([text for _, text in pairs])
        captioner = build_captioner(config, self.encoder, self.tokenizer)
        captioner.fusion.standardise_by(self._train.features_NPF)
        self.evaluation = CaptionEvaluation(
            self._generate,
            self._test.features_NPF,
            [item.captions for item in self._test.items],
            blank=captioner.fusion.blank,
            seed=config.seed,
        )
        ids = [self._ids(text, self._train.items[place].image) for place, text in pairs]
        self._held_out_batches = self._held_out()
        # A compiled step wants one shape; otherwise a batch is as long as its longest caption.
        length = max(map(len, ids)) + 2 if runtime.compile else None

        def collate(chosen: list[int]) -> CaptionBatch:
            pictures = self._train.features_NPF[[pairs[index][0] for index in chosen]]
            return self._batch(pictures, [ids[index] for index in chosen], length)

        task = CaptioningTask(
            captioner,
            config.optim,
            runtime,
            config.steps,
            label_smoothing=config.label_smoothing,
            score=self.evaluation.score,
            held_out=lambda: self._held_out_batches,
        )
        return task, ShuffledBatches(len(pairs), config.batch_size, config.seed, collate)

    def write_samples(self, task: Task, folder: Path, step: int) -> None:
        """Held-out pictures with what the model says of them, for the report."""
        chosen = self._chosen(self.config.num_samples)
        write_samples(folder, step, [self._sample(index, self.evaluation.captions[index]) for index in chosen])

    def sample(self, num_samples: int) -> list[dict[str, Any]]:
        """Held-out pictures, their captions by the present model, their references, and whether they agree."""
        chosen = self._chosen(num_samples)
        with self._task.updater.averaged():
            said = self._generate(self._test.features_NPF[chosen])
        return [self._sample(index, text) for index, text in zip(chosen, said)]

    def report_sections(self) -> Mapping[str, Any]:
        """Floors, controls and confidence intervals; what was skipped, and how long encoding took."""
        with self._task.updater.averaged():
            rows = self.evaluation.rows(self._train.features_NPF, [item.captions[0] for item in self._train.items])
        notes = [
            f"{len(self._train.items)} training and {len(self._test.items)} test pictures; {len(self.bad)} could not "
            "be used" + "".join(f"; {error}" for error in self.bad[:10]),
            f"pictures encoded by {self.encoder.name} in {self.encoding_s:.0f} s (the cache included)",
            f"intervals are 95 % over the test pictures; {self.evaluation.signature}",
        ]
        return {"rows": rows, "notes": notes}

    def save(self, folder: Path | str) -> Path:
        """Weights, config and tokenizer: what `CaptioningPipeline.load` takes."""
        folder = super().save(folder)
        self.tokenizer.save(folder / TOKENIZER_NAME)
        return folder

    @property
    def _task(self) -> CaptioningTask:
        task = self.task
        assert isinstance(task, CaptioningTask)
        return task

    def _chosen(self, count: int) -> list[int]:
        """The test pictures that samples show: always the same, spread over the set."""
        total = len(self._test.items)
        return [index * total // min(count, total) for index in range(min(count, total))]

    def _sample(self, index: int, text: str) -> dict[str, Any]:
        item = self._test.items[index]
        return {
            "image": os.path.relpath(item.image.resolve(), self.config.out.resolve()),
            "text": text,
            "reference": item.captions[0] if len(item.captions) == 1 else list(item.captions),
            "ok": text.split() in [caption.split() for caption in item.captions],
        }

    def _encode(self, data: CaptionedImages) -> tuple[_Part, _Part]:
        items = [*data.train, *data.test]
        if not distributed.is_main():
            distributed.barrier()  # the main process encodes; the others find it done
        encoded = encode_images(
            [item.image for item in items],
            self.encoder,
            folder=self.config.cache,
            max_bad_fraction=self.config.max_bad_fraction,
        )
        if distributed.is_main():
            distributed.barrier()
        self.bad = encoded.bad
        border = sum(index < len(data.train) for index in encoded.kept)
        if not 0 < border < len(encoded.kept):
            raise ValueError(f"{self.config.data} has no usable picture to train on, or none to test on")
        kept = [items[index] for index in encoded.kept]
        features_NPF = encoded.features_NPF
        return _Part(kept[:border], features_NPF[:border]), _Part(kept[border:], features_NPF[border:])

    def _tokenizer(self, captions: list[str]) -> Tokenizer:
        """The run's own tokenizer where it was written already, so that a resumed run reads the same ids."""
        folder = self.config.out / TOKENIZER_NAME
        if folder.is_dir() and any((self.config.out / CHECKPOINTS_NAME).glob("step-*")):
            return load_tokenizer(folder)
        tokenizer: Tokenizer
        if self.config.tokenizer == "word":
            from core.text.words import WordTokenizer

            tokenizer = WordTokenizer.train(captions)
        elif self.config.tokenizer == "char":
            from core.text.characters import CharTokenizer

            tokenizer = CharTokenizer.train(captions)
        else:
            from core.text.bytelevel import BPETokenizer

            tokenizer = BPETokenizer.train(captions, vocab_size=self.config.bpe_size)
        tokenizer.save(folder)
        return tokenizer

    def _ids(self, caption: str, image: Path) -> list[int]:
        ids = self.tokenizer.encode(caption)
        if len(ids) + 1 > self.config.max_caption_tokens:
            raise ValueError(
                f"the caption of {image} has {len(ids) + 1} tokens, end-of-sequence counted, more than "
                f"max_caption_tokens={self.config.max_caption_tokens}: raise it, or shorten the caption"
            )
        return ids

    def _batch(self, features_BPF: Tensor, ids: Sequence[Sequence[int]], length: int | None = None) -> CaptionBatch:
        bos_id, eos_id = self.tokenizer.bos_id, self.tokenizer.eos_id
        assert bos_id is not None
        assert eos_id is not None
        return caption_batch(features_BPF, ids, bos_id=bos_id, eos_id=eos_id, length=length)

    def _held_out(self) -> list[CaptionBatch]:
        pairs = [(place, text) for place, item in enumerate(self._test.items) for text in item.captions]
        batches = []
        for start in range(0, len(pairs), EVALUATION_BATCH):
            part = pairs[start : start + EVALUATION_BATCH]
            ids = [self._ids(text, self._test.items[place].image) for place, text in part]
            batches.append(self._batch(self._test.features_NPF[[place for place, _ in part]], ids))
        return batches

    def _generate(self, features_NPF: Tensor) -> list[str]:
        return generate_captions(
            self._task.captioner,
            features_NPF,
            self.tokenizer.decode,
            self.runtime,
            beams=self.config.beams,
            batch_size=EVALUATION_BATCH,
        )


def load_pictures(config: CaptioningConfig) -> CaptionedImages:
    """The pictures and captions that a config names.

    Raises:
        MissingData: Twemoji's packages are not on this machine.
        ManifestError: the manifest cannot be used.
    """
    if config.data != "twemoji":
        return load_manifest(Path(config.data), test_fraction=config.test_fraction)
    parts = twemoji.split(twemoji.load(), config.split)
    train, test = ([CaptionedImage(item.image, (item.caption,)) for item in part] for part in (parts.train, parts.test))
    return CaptionedImages(train, test)
