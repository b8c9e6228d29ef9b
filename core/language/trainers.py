"""The public trainer of plain language models."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import torch

from core.errors import UserError
from core.generate import generate
from core.interfaces import BatchSource, Task
from core.language.config import LanguageConfig
from core.language.task import Batch, LanguageTask
from core.nn.transformer import Transformer
from core.sampling import Sampling
from core.text.dataset import TokenWindows, sequential_windows
from core.text.tokenizer import Tokenizer, load_tokenizer
from core.training.log import write_samples
from core.training.trainer import Trainer

TOKENIZER_NAME = "tokenizer"


class LanguageTrainer(Trainer):
    """Trains the core Transformer on a text file, from fresh or from pretrained weights.

    >>> from core.language.recipes import text
    >>> LanguageTrainer(text("my_book.txt")).train()  # doctest: +SKIP
    """

    config: LanguageConfig
    tokenizer: Tokenizer

    def build(self) -> tuple[Task, BatchSource]:
        """The model, its task and random windows of the training text."""
        config = self.config
        text = self._read()
        cut = int(len(text) * (1 - config.validation_fraction))
        held_out = text[cut:]
        self.tokenizer = self._tokenizer(text)
        train_ids = self.tokenizer.encode(text[:cut])
        held_out_ids = self.tokenizer.encode(held_out)
        if len(held_out_ids) < 2:
            raise ValueError(
                f"the held-out part of {config.text} has {len(held_out_ids)} tokens: give more text or a larger "
                "validation_fraction"
            )
        self._start = held_out_ids[:1]
        model = self._model()

        def validation() -> Iterator[Batch]:
            return sequential_windows(held_out_ids, config.length, batch_size=64)

        task = LanguageTask(
            model,
            config.optim,
            self.runtime,
            config.steps,
            validation=validation,
            bytes_per_token=len(held_out.encode()) / len(held_out_ids),
            label_smoothing=config.label_smoothing,
        )
        batches = TokenWindows(train_ids, config.length, config.batch_size, config.seed, order="epoch")
        return task, batches

    def sample(
        self, num_samples: int, *, prompt: str = "", max_new_tokens: int = 200, sampling: Sampling | None = None
    ) -> list[str]:
        """Continuations of a prompt.

        Args:
            num_samples: how many.
            prompt: text to go on from; the first token of the held-out text when empty.
            max_new_tokens: tokens to add.
            sampling: how tokens are chosen; temperature 0.8 by default.
        """
        assert isinstance(self.task, LanguageTask)
        ids = self.tokenizer.encode(prompt) or self._start
        room = self.task.model.config.max_length - len(ids)
        with self.runtime.autocast():
            samples = generate(
                self.task.model, [ids], num_samples=num_samples, max_new_tokens=min(max_new_tokens, room),
                sampling=sampling or Sampling(temperature=0.8), eos_id=self.tokenizer.eos_id,
                generator=torch.Generator().manual_seed(self.config.seed),
            )  # fmt: skip
        return [self.tokenizer.decode([*ids, *row]) for row in samples.lists()]

    def write_samples(self, task: Task, folder: Path, step: int) -> None:
        """Three continuations."""
        write_samples(folder, step, [{"text": text} for text in self.sample(3)])

    def _read(self) -> str:
        from core.text.readers import TextReader, Unit

        if self.config.text is None:
            raise UserError("no text to learn: give --text FILE (text, JSON lines, CSV or Parquet)")
        unit: Unit = "file" if self.config.text.suffix in ("", ".txt", ".md") else "line"
        return "\n".join(TextReader(self.config.text, unit=unit))

    def _tokenizer(self, text: str) -> Tokenizer:
        """The run's own tokenizer where it was written already, so that a resumed run reads the same ids."""
        folder = self.config.out / TOKENIZER_NAME
        if folder.is_dir():
            return load_tokenizer(folder)
        tokenizer: Tokenizer
        if self.config.init_from is not None:
            tokenizer = load_tokenizer(self.config.init_from)
        elif self.config.tokenizer == "char":
            from core.text.characters import CharTokenizer

            tokenizer = CharTokenizer.train(text, special=False)
        elif self.config.tokenizer == "byte":
            from core.text.bytelevel import ByteTokenizer

            tokenizer = ByteTokenizer()
        else:
            from core.text.bytelevel import BPETokenizer

            tokenizer = BPETokenizer.train([text], vocab_size=self.config.bpe_size)
        tokenizer.save(folder)
        return tokenizer

    def _model(self) -> Transformer:
        if self.config.init_from is not None:
            from core.pretrained.huggingface import from_hf

            return from_hf(self.config.init_from)[0]
        shape = dataclasses.replace(
            self.config.model,
            vocab_size=self.tokenizer.vocab_size,
            max_length=max(self.config.length, self.config.model.max_length),
        )
        return Transformer(shape)

    def export_parts(self) -> tuple[Transformer, Tokenizer]:
        """The language model and tokenizer, for `trillium export`."""
        assert isinstance(self.task, LanguageTask)
        return self.task.model, self.tokenizer
