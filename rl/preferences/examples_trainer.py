"""What the trainers that learn from written examples have in common."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.errors import RunError, UserError
from core.interfaces import BatchSource
from core.language.pretrained import AbsentText
from core.nn.lora import hold_frozen, merge_lora
from core.nn.networks import LanguageNetwork
from core.nn.transformer import Transformer
from core.policy import LanguageModelPolicy
from core.text.chat import turn_ends
from core.text.huggingface import HFTokenizer
from core.text.readers import Record
from core.text.tokenizer import load_tokenizer
from core.training import distributed
from core.training.batches import ShuffledBatches
from core.training.log import write_samples
from core.training.resume import CHECKPOINTS_NAME
from core.training.trainer import Trainer
from rl.preferences.config import ExamplesConfig, WriterConfig
from rl.preferences.encoding import Completion, start_of
from rl.preferences.examples import Encoder, texts_of
from rl.preferences.networks import most_tokens, starting_point
from rl.preferences.sources import is_absent, records_of
from rl.preferences.words import word_scores
from rl.preferences.writer import Writer

TOKENIZER_NAME = "tokenizer"


class ExamplesTrainer(Trainer):
    """Reads examples, and the model to start from."""

    config: ExamplesConfig
    encoder: Encoder
    """Turns lines into examples; holds the tokenizer."""

    def begin(self) -> tuple[LanguageNetwork, list[Record], list[Record]]:
        """The model, the lines to learn from and those held out; without lines where a finished run's file is gone."""
        config = self.config
        folder = config.out / TOKENIZER_NAME
        going_on = folder.is_dir() and any((config.out / CHECKPOINTS_NAME).glob("step-*"))
        stored = load_tokenizer(folder) if going_on else None
        absent = stored is not None and is_absent(config)
        train, held_out = ([], []) if absent else records_of(config)
        model, tokenizer = starting_point(config, texts_of([*train, *held_out]), stored)
        if stored is None and distributed.is_main():
            tokenizer.save(folder)
        self.encoder = Encoder(tokenizer, most_tokens(config, model), config.too_long)
        return model, train, held_out

    def batches_of(self, train: Sequence[int], held_out: int) -> BatchSource:
        """Batches of numbers of examples, those of like length together.

        Args:
            train: tokens of each example to learn from.
            held_out: number of examples held out.
        """
        config = self.config
        if is_absent(config) and not train:
            return AbsentText(f"the examples {config.data} of this run are not there: put them back, or give --data")
        if not train or not held_out:
            raise UserError(
                f"{len(train)} examples to learn from and {held_out} held out are left: give more, or change too_long"
            )
        return ShuffledBatches(len(train), config.batch_size, config.seed, list, lengths=train)

    @property
    def tokenizer(self) -> HFTokenizer:
        """The model's tokenizer."""
        _ = self.task
        return self.encoder.tokenizer

    def save(self, folder: Path | str) -> Path:
        """Write the weights, the config and the tokenizer; see `Trainer.save`."""
        folder = super().save(folder)
        self.tokenizer.save(folder)
        return folder


class WriterTrainer(ExamplesTrainer):
    """A trainer whose model writes completions."""

    config: WriterConfig
    writer: Writer

    def begin(self) -> tuple[LanguageNetwork, list[Record], list[Record]]:
        """As of every trainer; frozen weights are held in the dtype that they are multiplied in."""
        model, train, held_out = super().begin()
        if self.config.lora_rank:
            hold_frozen(model, self.runtime.dtype)
        return model, train, held_out

    def make_writer(self, model: LanguageNetwork, held_out: Sequence[tuple[str, Completion]]) -> Writer:
        """What samples completions of the held-out prompts, judged by the rule of the words where they are the data."""
        config, tokenizer = self.config, self.encoder.tokenizer
        prompts = {text: completion.prompt for text, completion in held_out}
        new = config.max_new_tokens
        if isinstance(model, Transformer):
            new = min(new, model.config.max_length + 1 - max(map(len, prompts.values()), default=1))
        ends: Any = sorted(turn_ends(tokenizer))  # a chat model may end a turn otherwise than a text
        self.writer = Writer(
            LanguageModelPolicy(model, max_new_tokens=new, eos_id=ends),
            tokenizer,
            self.runtime,
            prompts,
            seed=config.seed,
            shown=config.sample_prompts,
            judge=word_scores if config.data is None else None,
        )
        return self.writer

    def sample(
        self, num_samples: int, *, prompt: str | None = None, max_new_tokens: int | None = None
    ) -> list[dict[str, Any]]:
        """Sampled completions, with `prompt` and `text`; torch's generator draws.

        Args:
            num_samples: how many.
            prompt: plain text to go on from; the held-out prompts in turn if absent.
            max_new_tokens: most tokens of each; the config's by default.
        """
        tokenizer = self.tokenizer  # builds the task
        known = self.writer.prompts if prompt is None else {prompt: start_of(tokenizer, prompt)}
        if not known:
            raise RunError(f"{self.config.out} has no prompts here to go on from: give --prompt")
        writer = copy.copy(self.writer)
        writer.policy = copy.copy(writer.policy)
        writer.policy.max_new_tokens = max_new_tokens or writer.policy.max_new_tokens
        texts = (list(known) * num_samples)[:num_samples]
        written = writer.write([known[text] for text in texts])
        return [{"prompt": text, "text": found} for text, found in zip(texts, written)]

    def write_samples(self, task: Any, folder: Path, step: int) -> None:
        """Write a completion of some held-out prompts, and once what the start wrote."""
        first, rows = self.writer.start_rows
        if rows and first < step and not (folder / f"step-{first:08d}.jsonl").exists():
            write_samples(folder, first, rows)
        if self.config.sample_prompts:
            write_samples(folder, step, self.writer.rows())

    def score_rows(self) -> dict[str, dict[str, Any]]:
        """Score of samples at the start and now, as cells of report rows; empty without a judge."""
        found = {"start": self.writer.start_score, "model": self.writer.score()}
        return {name: {"score": score.json()} for name, score in found.items() if score is not None}

    def notes(self) -> list[str]:
        """What was done to the data, and where samples are cut."""
        most, wanted = self.writer.policy.max_new_tokens, self.config.max_new_tokens
        cut = f"Samples end after {most} tokens, not {wanted}: with the longest prompt the model reads no more."
        return [*self.encoder.notes(), *([cut] if most < wanted else [])]

    def export_parts(self) -> tuple[Any, HFTokenizer]:
        """The language model, adapters merged, and the tokenizer, for `trillium export`."""
        tokenizer = self.tokenizer
        model = self._transformer(self.writer.policy.model)
        if self.config.lora_rank:
            model = copy.deepcopy(model).float()
            merge_lora(model)
        return model, tokenizer
