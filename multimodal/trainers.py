"""The public trainer of captioners.

Shape suffixes: N = pictures, P = positions of a picture, F = features of a position.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from core.interfaces import BatchSource, Task
from core.text.tokenizer import Tokenizer, load_tokenizer
from core.training import distributed
from core.training.batches import ShuffledBatches
from core.training.log import write_samples
from core.training.progress import Display
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
TELL_EVERY_S = 5.0
"""Seconds between two lines about the encoding of pictures."""


@dataclass(frozen=True)
class _Part:
    """The usable pictures of one side of the split."""

    items: Sequence[CaptionedImage]
    all_NPF: Tensor
    """The features of both sides: sliced when they are needed, not copied."""
    rows: Sequence[int]
    """Which of them are of these items."""

    def features(self, places: Sequence[int] | None = None) -> Tensor:
        """features_BPF of the items at some places, or of all."""
        rows = self.rows if places is None else [self.rows[place] for place in places]
        return self.all_NPF[rows]

    def pairs(self) -> list[tuple[int, str]]:
        """The place of an item and a caption of it, for all captions."""
        return [(place, text) for place, item in enumerate(self.items) for text in item.captions]


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
        began = self._told_s = time.perf_counter()
        self.encoder = build_encoder(
            config.encoder, config.image_side, config.grid, device=runtime.device, dtype=runtime.dtype
        )
        self._train, self._test = self._encode(data)
        self.encoding_s = time.perf_counter() - began
        pairs = self._train.pairs()
        self.tokenizer = self._tokenizer([text for _, text in pairs])
        captioner = build_captioner(config, self.encoder, self.tokenizer)
        captioner.fusion.standardise_by(self._train.features())
        self.evaluation = CaptionEvaluation(
            self._generate,
            self._test.features(),
            [item.captions for item in self._test.items],
            blank=captioner.fusion.blank,
            seed=config.seed,
        )
        ids = [self._ids(text, self._train.items[place].image) for place, text in pairs]
        self._held_out_ids = [
            (place, self._ids(text, self._test.items[place].image)) for place, text in self._test.pairs()
        ]
        # A compiled step wants one shape; otherwise a batch is as long as its longest caption.
        length = max(map(len, ids)) + 2 if runtime.compile else None

        def collate(chosen: list[int]) -> CaptionBatch:
            pictures = self._train.features([pairs[index][0] for index in chosen])
            return self._batch(pictures, [ids[index] for index in chosen], length)

        task = CaptioningTask(
            captioner,
            config.optim,
            runtime,
            config.steps,
            label_smoothing=config.label_smoothing,
            score=self.evaluation.score,
            held_out=self._held_out,
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
            said = self._generate(self._test.features(chosen))
        return [self._sample(index, text) for index, text in zip(chosen, said)]

    def report_sections(self) -> Mapping[str, Any]:
        """Floors, controls and confidence intervals; what was skipped, and how long encoding took."""
        with self._task.updater.averaged():
            rows = self.evaluation.rows(self._train.features(), [item.captions[0] for item in self._train.items])
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
        # In one order whatever the split is, so that all splits of a set share an entry of the cache.
        paths = sorted({item.image for item in (*data.train, *data.test)})
        if not distributed.is_main():
            distributed.barrier()  # the main process encodes; the others find it done
        encoded = encode_images(
            paths,
            self.encoder,
            folder=self.config.cache,
            max_bad_fraction=self.config.max_bad_fraction,
            on_progress=self._tell,
        )
        if distributed.is_main():
            distributed.barrier()
        self.bad = encoded.bad
        row_of = {paths[index]: row for row, index in enumerate(encoded.kept)}
        parts = []
        for side in (data.train, data.test):
            items = [item for item in side if item.image in row_of]
            parts.append(_Part(items, encoded.features_NPF, [row_of[item.image] for item in items]))
        if not (parts[0].items and parts[1].items):
            raise ValueError(f"{self.config.data} has no usable picture to train on, or none to test on")
        return parts[0], parts[1]

    def _tell(self, done: int, total: int) -> None:
        """Say now and then how far encoding is: it can take longer than training."""
        now = time.perf_counter()
        if not self.quiet and now - self._told_s >= TELL_EVERY_S:
            self._told_s = now
            Display().note(f"encoded {done:,} of {total:,} pictures (kept for the next run)")

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

    def _held_out(self) -> Iterator[CaptionBatch]:
        for start in range(0, len(self._held_out_ids), EVALUATION_BATCH):
            part = self._held_out_ids[start : start + EVALUATION_BATCH]
            yield self._batch(self._test.features([place for place, _ in part]), [ids for _, ids in part])

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
