"""The public trainer of captioners."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from core.interfaces import BatchSource, Task
from core.nn.lora import hold_frozen
from core.nn.transformer import Transformer
from core.pretrained.sources import cache_dir
from core.text.atomic import write_json
from core.text.tokenizer import Tokenizer, load_tokenizer
from core.training import configfile, distributed
from core.training.batches import ShuffledBatches
from core.training.log import write_samples
from core.training.progress import Display
from core.training.resume import CHECKPOINTS_NAME
from core.training.trainer import Trainer
from core.training.workers import WorkerBatches
from multimodal.adapters import Adapter
from multimodal.batch import CaptionBatch, Prompt
from multimodal.build import build_captioner, build_language_model, language_model_shape, load_language_model
from multimodal.captioner import Captioner
from multimodal.config import CaptioningConfig
from multimodal.controls import NAMES, changed, changes_for
from multimodal.datasets.named import load_examples
from multimodal.encoders.build import build_encoder
from multimodal.evaluation import Evaluation
from multimodal.examples import KINDS, Example, Examples, Kind
from multimodal.floors import nearest_neighbours
from multimodal.generation import answer
from multimodal.media.video import sample_frames
from multimodal.reading import Reader, begin_and_end
from multimodal.samples import sample_row
from multimodal.store import MediaStore
from multimodal.task import CaptioningTask
from multimodal.trained import TOKENIZER_NAME

LANGUAGE_MODEL_NAME = "language_model.json"
EVALUATION_BATCH = 64
ROW_EXAMPLES = 8
"""A packed row holds about so many examples: more would save little padding, and attention grows with the square."""


class CaptioningTrainer(Trainer):
    """Trains a language model on examples with media: captions, transcripts, answers.

    >>> from multimodal.config import CaptioningConfig
    >>> CaptioningTrainer(CaptioningConfig(data="pictures/captions.jsonl")).train()  # doctest: +SKIP
    """

    own_files = (LANGUAGE_MODEL_NAME,)
    config: CaptioningConfig
    tokenizer: Tokenizer
    store: MediaStore
    reader: Reader
    evaluation: Evaluation
    examples: Examples | None = None
    """The data, where they do not come from `config.data`: set it before training."""

    def build(self) -> tuple[Task, BatchSource]:
        """Decode and encode the media, or read features from the cache; make the captioner, its task and batches."""
        config, runtime = self.config, self.runtime
        data = self.examples or load_examples(config.data, test_fraction=config.test_fraction)
        looked_at = functools.partial(
            sample_frames, num_frames=config.num_frames, sampling=config.frame_sampling, stride=config.frame_stride
        )
        data = dataclasses.replace(
            data,
            scoring=config.scoring or data.scoring,
            train=[changed(example, config.media_change, looked_at) for example in data.train],
            test=[changed(example, config.media_change, looked_at) for example in data.test],
        )
        found = {medium.kind for example in (*data.train, *data.test) for medium in example.media}
        if config.media_change not in ("none", *changes_for(sorted(found))):
            raise ValueError(
                f"media_change {config.media_change} changes nothing: {config.data} has no media with time"
            )
        encoders = {kind: build_encoder(kind, config) for kind in KINDS if kind in found}
        if config.augment and not any(encoder.augments for encoder in encoders.values()):
            names = ", ".join(config.encoder_name(kind) for kind in encoders) or "no encoder"
            raise ValueError(
                f"augment varies what trained encoders see, and {names} does not: leave it out, or set train_encoders "
                "or an encoder that starts from scratch (vit, spectrogram)"
            )
        self.store = MediaStore(
            encoders,
            runtime,
            folder=config.cache or cache_dir() / "features",
            max_bad_fraction=config.max_bad_fraction,
            keep=config.keep_media,
            tell=None if self.quiet else Display().note,
        )
        usable = {id(example) for example in self.store.add((*data.train, *data.test))}
        self.train_examples = [example for example in data.train if id(example) in usable]
        self.test_examples = [example for example in data.test if id(example) in usable]
        self._notes = list(data.notes)
        if config.media_change != "none":
            self._notes.append(f"trained and tested on changed media: {NAMES[config.media_change]}")
        if not (self.train_examples and self.test_examples):
            raise ValueError(f"{config.data} has no usable example to train on, or none to test on")
        model, self.tokenizer = self._language_model()
        bos_id, eos_id = begin_and_end(self.tokenizer)
        captioner = build_captioner(config, encoders, model, bos_id=bos_id, eos_id=eos_id)
        self.reader = Reader.of(captioner, self.tokenizer)
        for kind, encoder in encoders.items():
            if encoder.frozen:
                adapter = captioner.adapters[kind]
                assert isinstance(adapter, Adapter)
                trained = {self.store.index(m) for e in self.train_examples for m in e.media if m.kind == kind}
                adapter.standardise_by([self.store.inputs[kind][index] for index in sorted(trained)])
        hold_frozen(model, runtime.dtype)
        # Both before training, so that a text which does not fit is an error now.
        pairs, self._test_pairs = self._pairs(self.train_examples), self._pairs(self.test_examples)
        self.evaluation = Evaluation(
            self._generate, self.test_examples, data.scoring, seed=config.seed, looked_at=looked_at
        )
        task = CaptioningTask(
            captioner,
            config.optim,
            runtime,
            config.steps,
            label_smoothing=config.label_smoothing,
            score=self.evaluation.score,
            held_out=self._held_out,
            # Sounds that an encoder is trained on are as long as they are.
            shapes_vary=config.pack or config.bucket or "audio" in captioner.encoders,
        )
        return task, self._batches(pairs)

    def write_samples(self, task: Task, folder: Path, step: int) -> None:
        """Held-out examples with what the model says of them, for the report."""
        texts = self.evaluation.texts
        chosen = self._chosen(self.config.num_samples)
        rows = [sample_row(self.test_examples[index], texts[index], self.config.out) for index in chosen]
        write_samples(folder, step, rows)

    def sample(self, num_samples: int) -> list[dict[str, Any]]:
        """Held-out examples, what the present model says, their references, and whether they agree."""
        chosen = [self.test_examples[index] for index in self._chosen(num_samples)]
        with self._task.updater.averaged():
            said = self._generate(chosen, False)
        return [sample_row(example, text, self.config.out) for example, text in zip(chosen, said)]

    def report_sections(self) -> Mapping[str, Any]:
        """Floors, controls and confidence intervals; what was skipped."""
        with self._task.updater.averaged():
            rows = self.evaluation.rows(self.train_examples, self.nearest())
        notes = [
            *self.store.notes(len(self.train_examples), len(self.test_examples)),
            *self._notes,
            *self.evaluation.notes(),
        ]
        return {"rows": rows, "notes": notes}

    def save(self, folder: Path | str) -> Path:
        """Weights, config, shape of the language model and tokenizer: what `CaptioningPipeline.load` takes."""
        folder = super().save(folder)
        self.tokenizer.save(folder / TOKENIZER_NAME)
        write_shape(folder, self._task.captioner.model)
        return folder

    def export_parts(self) -> tuple[Any, Any]:
        """The language model alone, without what it reads media with, for `trillium export`."""
        if self.config.lora_rank or self.config.fusion == "gated_cross_attention":
            return super().export_parts()
        return self._task.captioner.model, self.tokenizer

    @property
    def _task(self) -> CaptioningTask:
        task = self.task
        assert isinstance(task, CaptioningTask)
        return task

    def _chosen(self, count: int) -> list[int]:
        """The test examples that samples show: always the same, spread over the set."""
        total = len(self.test_examples)
        return [index * total // min(count, total) for index in range(min(count, total))]

    def _language_model(self) -> tuple[Transformer, Tokenizer]:
        """The model, fresh or pretrained, and the tokenizer: the run's own where it was written already."""
        config = self.config
        folder = config.out / TOKENIZER_NAME
        loaded, tokenizer = None, None
        if config.init_from is not None:
            loaded, tokenizer = load_language_model(config.init_from, config.init_layers)
        resumed = folder.is_dir() and any((config.out / CHECKPOINTS_NAME).glob("step-*"))
        if resumed:
            tokenizer = load_tokenizer(folder)  # so that a resumed run reads the same ids
        elif tokenizer is None:
            tokenizer = train_tokenizer(config, self.train_examples)
        base = loaded.config if loaded else dataclasses.replace(config.model, vocab_size=tokenizer.vocab_size)
        model = build_language_model(config, language_model_shape(config, base), loaded)
        if distributed.is_main() and not resumed:
            tokenizer.save(folder)
            write_shape(config.out, model)
        return model, tokenizer

    def _pairs(self, examples: Sequence[Example]) -> list[tuple[Prompt, list[int]]]:
        """Prompt and target for every text of every example. Raises `TooLong`."""
        prompts = [self.reader.prompt(example, self.store) for example in examples]
        return [
            (prompt, self.reader.target(example, text))
            for example, prompt in zip(examples, prompts)
            for text in example.targets
        ]

    def _batches(self, pairs: Sequence[tuple[Prompt, list[int]]]) -> BatchSource:
        config = self.config
        lengths = [len(prompt.ids) + len(target) - 1 for prompt, target in pairs]
        # A compiled step is fastest with one shape; otherwise a batch is as long as its longest row.
        fixed = self.runtime.compile and not (config.pack or config.bucket)
        length = max(lengths) if fixed else None
        target_length = max(len(target) for _, target in pairs) if fixed else None
        pack_to = None
        if config.pack:
            enough = max(max(lengths), ROW_EXAMPLES * sum(lengths) // len(lengths))
            pack_to = min(enough, self.reader.max_length)

        def collate(chosen: list[int]) -> list[CaptionBatch]:
            micros = [chosen[start :: config.optim.accumulate] for start in range(config.optim.accumulate)]
            return [
                self.reader.batch(
                    [pairs[index][0] for index in micro], [pairs[index][1] for index in micro], self.store,
                    pack_to=pack_to, length=length, target_length=target_length,
                )
                for micro in micros if micro
            ]  # fmt: skip

        names = [example.key or text for example in self.train_examples for text in example.targets]
        batches = ShuffledBatches(
            len(pairs), config.batch_size, config.seed, collate, lengths=lengths if config.bucket else None
        )
        return WorkerBatches(batches, config.workers, name_of=names.__getitem__)

    def _held_out(self) -> Iterator[CaptionBatch]:
        for start in range(0, len(self._test_pairs), EVALUATION_BATCH):
            part = self._test_pairs[start : start + EVALUATION_BATCH]
            yield self.reader.batch([prompt for prompt, _ in part], [target for _, target in part], self.store)

    def _generate(self, examples: Sequence[Example], blank: bool) -> list[str]:
        """What the model says of examples; media that are not those of the run are read for this once."""
        store = self.store
        if any(not store.holds(medium) for example in examples for medium in example.media):
            store = store.beside()
            store.add(examples)
        captioner = self._task.captioner
        if blank:
            with captioner.blanked():
                return self._answers(captioner, examples, store)
        return self._answers(captioner, examples, store)

    def _answers(self, captioner: Captioner, examples: Sequence[Example], store: MediaStore) -> list[str]:
        prompts: list[Prompt] = [self.reader.prompt(example, store) for example in examples]
        return answer(
            captioner, self.reader, prompts, store, self.runtime, beams=self.config.beams, batch_size=EVALUATION_BATCH
        )

    def nearest(self) -> list[str]:
        """For each test example the first text of the training example whose media are nearest on average."""
        train = torch.stack([self._mean_features(example) for example in self.train_examples])
        test = torch.stack([self._mean_features(example) for example in self.test_examples])
        found = nearest_neighbours(train, test, cosine=True)
        return [self.train_examples[index].targets[0] for index in found]

    def _mean_features(self, example: Example) -> torch.Tensor:
        """One vector: over each kind of media the mean over time, behind one another."""
        parts = []
        for kind, size in self._feature_sizes.items():
            own = [self.store.features(medium) for medium in example.media if medium.kind == kind]
            means = [features.float().mean(0).flatten() for features in own] or [torch.zeros(size)]
            parts.append(torch.stack(means).mean(0))
        return torch.cat(parts) if parts else torch.zeros(1)

    @functools.cached_property
    def _feature_sizes(self) -> dict[Kind, int]:
        """Numbers of a position of each kind's features."""
        return {kind: inputs[0][0].numel() for kind, inputs in self.store.inputs.items()}


def train_tokenizer(config: CaptioningConfig, examples: Sequence[Example]) -> Tokenizer:
    """A tokenizer of the config's kind for the texts of training examples, prompts and targets."""
    texts = [part for example in examples for part in example.prompt if isinstance(part, str)]
    texts += [text for example in examples for text in example.targets]
    if config.tokenizer == "word":
        from core.text.words import WordTokenizer

        return WordTokenizer.train(texts)
    if config.tokenizer == "char":
        from core.text.characters import CharTokenizer

        return CharTokenizer.train(texts)
    from core.text.bytelevel import BPETokenizer

    return BPETokenizer.train(texts, vocab_size=config.bpe_size)


def write_shape(folder: Path, model: Transformer) -> None:
    """Note the shape of a captioner's language model, so that it can be built without what it started from."""
    write_json(folder / LANGUAGE_MODEL_NAME, configfile.encode(model.config))
