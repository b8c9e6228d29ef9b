"""The public trainer of retrieval.

Shape suffixes: N = media or texts, V = numbers of a vector.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.interfaces import BatchSource, Task
from core.pretrained.sources import cache_dir
from core.text.tokenizer import Tokenizer, load_tokenizer
from core.text.words import WordTokenizer
from core.training import distributed
from core.training.batches import ShuffledBatches
from core.training.log import write_samples
from core.training.progress import Display
from core.training.resume import CHECKPOINTS_NAME
from core.training.runtime import Runtime
from core.training.trainer import Trainer
from multimodal.adapters import Adapter
from multimodal.datasets.named import load_examples
from multimodal.encoders.build import build_encoder
from multimodal.encoders.encoder import Encoder
from multimodal.examples import KINDS, Example, Examples, Kind, Medium
from multimodal.retrieval.batch import RetrievalBatch, TextReader, batch_media, media_to
from multimodal.retrieval.config import RetrievalConfig
from multimodal.retrieval.evaluation import RetrievalEvaluation
from multimodal.retrieval.task import PairModel, RetrievalTask, embed_media
from multimodal.retrieval.towers import FeatureTowers, SquarePictures, Towers, build_towers
from multimodal.store import MediaStore
from multimodal.trained import TOKENIZER_NAME

EVALUATION_BATCH = 64


class RetrievalTrainer(Trainer):
    """Trains two towers on pairs: the first medium of each example, and each of its targets.

    >>> from multimodal.retrieval.config import RetrievalConfig
    >>> RetrievalTrainer(RetrievalConfig(data="pictures/captions.jsonl")).train()  # doctest: +SKIP
    """

    config: RetrievalConfig
    tokenizer: Tokenizer
    store: MediaStore
    reader: TextReader
    evaluation: RetrievalEvaluation
    examples: Examples | None = None
    """The data, where they do not come from `config.data`: set it before training."""

    def build(self) -> tuple[Task, BatchSource]:
        """Decode and encode the media, or read features from the cache; make the towers, their task and batches."""
        config, runtime = self.config, self.runtime
        data = self.examples or load_examples(config.data, test_fraction=config.test_fraction)
        train, test = [_first_medium(one) for one in data.train], [_first_medium(one) for one in data.test]
        encoders = build_encoders(config, {example.media[0].kind for example in (*train, *test)})
        self.store = MediaStore(
            encoders,
            runtime,
            folder=config.cache or cache_dir() / "features",
            max_bad_fraction=config.max_bad_fraction,
            tell=None if self.quiet else Display().note,
        )
        usable = {id(example) for example in self.store.add((*train, *test))}
        self.train_examples = [example for example in train if id(example) in usable]
        self.test_examples = [example for example in test if id(example) in usable]
        self._notes = list(data.notes)
        if not (self.train_examples and self.test_examples):
            raise ValueError(f"{config.data} has no usable example to train on, or none to test on")
        self.tokenizer = self._tokenizer()
        self.reader = TextReader(self.tokenizer, config.max_text_tokens)
        towers = self._towers(encoders)
        if isinstance(towers, FeatureTowers):
            standardise(towers, self.store, [example.media[0] for example in self.train_examples])
        for example in self.test_examples:
            for text in example.targets:
                self.reader.ids(text)  # a text that does not fit is an error now, not after training
        self.evaluation = RetrievalEvaluation(
            lambda media: embed(self._task.towers, media, self.store, runtime),
            lambda texts: embed_texts(self._task.towers, texts, self.reader, runtime),
            self.test_examples,
            seed=config.seed,
        )
        task = RetrievalTask(
            PairModel(towers, unk_id=self.reader.unk_id, word_dropout=config.word_dropout),
            config.optim,
            runtime,
            config.steps,
            loss=config.loss,
            score=self.evaluation.score,
        )
        return task, self._batches()

    def write_samples(self, task: Task, folder: Path, step: int) -> None:
        """Held-out texts with the media that they find, for the report."""
        write_samples(folder, step, self.evaluation.samples(self.config.num_samples, self.config.out))

    def sample(self, num_samples: int) -> list[dict[str, Any]]:
        """Held-out texts and the media that the present model finds for them."""
        with self._task.updater.averaged():
            self._task.evaluate()
        return self.evaluation.samples(num_samples, self.config.out)

    def report_sections(self) -> Mapping[str, Any]:
        """Floors, controls and confidence intervals; what was skipped."""
        self._task.updater.module.eval()
        with self._task.updater.averaged():
            rows = self.evaluation.rows(self._untrained)
        notes = [
            *self.store.notes(len(self.train_examples), len(self.test_examples)),
            *self._notes,
            *self.evaluation.notes(),
        ]
        return {"rows": rows, "notes": notes}

    def save(self, folder: Path | str) -> Path:
        """Weights, config and tokenizer: what `Retriever.load` takes."""
        folder = super().save(folder)
        self.tokenizer.save(folder / TOKENIZER_NAME)
        return folder

    @property
    def _task(self) -> RetrievalTask:
        task = self.task
        assert isinstance(task, RetrievalTask)
        return task

    def _tokenizer(self) -> Tokenizer:
        """Words of the training texts, in lower case; the run's own tokenizer where it was written already."""
        folder = self.config.out / TOKENIZER_NAME
        if folder.is_dir() and any((self.config.out / CHECKPOINTS_NAME).glob("step-*")):
            return load_tokenizer(folder)
        texts = [text for example in self.train_examples for text in example.targets]
        tokenizer = WordTokenizer.train(texts, lower=True)
        if distributed.is_main():
            tokenizer.save(folder)
        return tokenizer

    def _towers(self, encoders: Mapping[Kind, Encoder]) -> Towers:
        return build_towers(self.config, self.tokenizer.vocab_size, self.reader.eos_id, encoders)

    def _number(self, medium: Medium) -> int:
        """A number that no other medium of the run has."""
        return self.store.index(medium) * len(KINDS) + KINDS.index(medium.kind)

    def _batches(self) -> BatchSource:
        pairs = [(one.media[0], self.reader.ids(text)) for one in self.train_examples for text in one.targets]
        numbers: dict[tuple[int, ...], int] = {}
        texts = [numbers.setdefault(tuple(ids), len(numbers)) for _, ids in pairs]
        # A compiled step wants one shape; otherwise a batch is as long as its longest text.
        length = self.config.max_text_tokens if self.runtime.compile else None

        def collate(chosen: list[int]) -> RetrievalBatch:
            media = [pairs[index][0] for index in chosen]
            return RetrievalBatch(
                self.reader.padded([pairs[index][1] for index in chosen], length),
                batch_media(media, self.store),
                torch.tensor([list(map(self._number, media)), [texts[index] for index in chosen]]),
            )

        return ShuffledBatches(len(pairs), self.config.batch_size, self.config.seed, collate)

    def _untrained(self) -> tuple[Tensor, Tensor]:
        """Vectors of the held-out media and texts by other random weights; mean and scale of features are kept."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed + 1)
            fresh = self._towers(build_encoders(self.config, set(self.store.encoders)))
        buffers = dict(self._task.towers.named_buffers())
        for name, buffer in fresh.named_buffers():
            if name.startswith("adapters."):
                buffer.copy_(buffers[name])
        fresh.to(self.runtime.device).eval()
        media_NV = embed(fresh, self.evaluation.media, self.store, self.runtime)
        return media_NV, embed_texts(fresh, self.evaluation.texts, self.reader, self.runtime)


def build_encoders(config: RetrievalConfig, kinds: "set[Kind]") -> dict[Kind, Encoder]:
    """What media of these kinds are loaded or encoded with.

    Raises:
        ValueError: the tower takes pictures only.
        MissingData: a pretrained encoder is not on this machine.
    """
    if config.tower == "features":
        return {kind: build_encoder(kind, config.encoders()) for kind in KINDS if kind in kinds}
    if kinds != {"image"}:
        raise ValueError(
            f"the tower open_clip takes pictures only, the data have {', '.join(sorted(kinds))}: set tower to features"
        )
    return {"image": SquarePictures(config.clip_side)}


def standardise(towers: FeatureTowers, store: MediaStore, media: Sequence[Medium]) -> None:
    """Give the towers the mean and scale of the features of training media, by kind."""
    for kind, encoder in towers.encoders.items():
        if encoder.frozen:
            adapter = towers.adapters[kind]
            assert isinstance(adapter, Adapter)
            found = {store.index(medium) for medium in media if medium.kind == kind}
            adapter.standardise_by([store.inputs[kind][index] for index in sorted(found)])


@torch.no_grad()
def embed(towers: Towers, media: Sequence[Medium], store: MediaStore, runtime: Runtime) -> Tensor:
    """vectors_NV, float32 on the CPU; media that the store does not hold are read for this once.

    Args:
        towers: in evaluation mode.
        media: of any kinds.
        store: with the encoders.
        runtime: device and precision.

    Raises:
        TooManyBadFiles: one of those cannot be used.
    """
    if not all(store.holds(medium) for medium in media):
        store = store.beside()
        store.add(Example((medium,), ("",)) for medium in media)
    parts = []
    for start in range(0, len(media), EVALUATION_BATCH):
        part = media[start : start + EVALUATION_BATCH]
        batches = media_to(batch_media(part, store), runtime.device)
        with runtime.autocast():
            parts.append(embed_media(towers, batches, len(part)).float().cpu())
    return torch.cat(parts)


@torch.no_grad()
def embed_texts(towers: Towers, texts: Sequence[str], reader: TextReader, runtime: Runtime) -> Tensor:
    """vectors_NV, float32 on the CPU.

    Args:
        towers: in evaluation mode.
        texts: one or more.
        reader: with the tokenizer.
        runtime: device and precision.

    Raises:
        TooLong: a text does not fit.
    """
    parts = []
    for start in range(0, len(texts), EVALUATION_BATCH):
        ids_NT = reader.padded([reader.ids(text) for text in texts[start : start + EVALUATION_BATCH]])
        with runtime.autocast():
            parts.append(towers.texts(ids_NT.to(runtime.device)).float().cpu())
    return torch.cat(parts)


def _first_medium(example: Example) -> Example:
    if not example.media:
        raise ValueError(f"example {(example.key or example.targets[0])!r} has no medium: retrieval needs one in each")
    return Example((example.media[0],), example.targets, example.key)
