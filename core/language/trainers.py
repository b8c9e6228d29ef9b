"""The public trainer of plain language models."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import torch

from core.errors import UserError
from core.interfaces import BatchSource, Task
from core.language.config import LanguageConfig
from core.language.pretrained import AbsentText, continuations, start_ids
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
    _loaded: tuple[Transformer, Tokenizer | None] | None = None

    def build(self) -> tuple[Task, BatchSource]:
        """The model, its task and random windows of the training text."""
        config = self.config
        folder = config.out / TOKENIZER_NAME
        if folder.is_dir() and (config.text is None or not config.text.exists()):
            return self._without_text(folder)
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
        self,
        num_samples: int,
        *,
        prompt: str = "",
        max_new_tokens: int = 200,
        sampling: Sampling | None = None,
        generator: torch.Generator | None = None,
    ) -> list[str]:
        """Continuations of a prompt.

        Args:
            num_samples: how many.
            prompt: text to go on from; the first token of the held-out text when empty.
            max_new_tokens: tokens to add.
            sampling: how tokens are chosen; temperature 0.8 by default.
            generator: source of randomness; the global one by default.
        """
        assert isinstance(self.task, LanguageTask)
        ids = self.tokenizer.encode(prompt) or self._start
        with self.runtime.autocast():
            return continuations(
                self.task.model, self.tokenizer, ids, num_samples,
                max_new_tokens=max_new_tokens, sampling=sampling, generator=generator,
            )  # fmt: skip

    def write_samples(self, task: Task, folder: Path, step: int) -> None:
        """Three continuations."""
        generator = torch.Generator().manual_seed(self.config.seed)  # the same draws at every step
        write_samples(folder, step, [{"text": text} for text in self.sample(3, generator=generator)])

    def _without_text(self, tokenizer_folder: Path) -> tuple[Task, BatchSource]:
        """A finished run whose text is not on this machine: to sample and export, not to train or score."""
        self.tokenizer = load_tokenizer(tokenizer_folder)
        self._start = start_ids(self.tokenizer)
        absent = AbsentText(
            f"the text {self.config.text} of this run is not there: put it back, or give another --text"
        )
        task = LanguageTask(
            self._model(), self.config.optim, self.runtime, self.config.steps,
            validation=absent.__iter__, bytes_per_token=1.0,
        )  # fmt: skip
        return task, absent

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
            model_tokenizer = self._pretrained()[1]
            if model_tokenizer is None:
                raise UserError(f"{self.config.init_from} has no tokenizer.json: save its tokenizer there too")
            tokenizer = model_tokenizer
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
            model = self._pretrained()[0]
            self._loaded = None
            if model.config.max_length < self.config.length:
                raise UserError(
                    f"{self.config.init_from} reads at most {model.config.max_length} tokens: "
                    f"give --length {model.config.max_length} or less"
                )
            return model
        shape = dataclasses.replace(
            self.config.model,
            vocab_size=self.tokenizer.vocab_size,
            max_length=max(self.config.length, self.config.model.max_length),
        )
        return Transformer(shape)

    def _pretrained(self) -> tuple[Transformer, Tokenizer | None]:
        """Model and tokenizer of `init_from`, read once."""
        from core.pretrained.interchange import load_model

        assert self.config.init_from is not None
        if self._loaded is None:
            self._loaded = load_model(self.config.init_from)
        return self._loaded

    def export_parts(self) -> tuple[Transformer, Tokenizer]:
        """The language model and tokenizer, for `trillium export`."""
        assert isinstance(self.task, LanguageTask)
        return self.task.model, self.tokenizer
