"""The public trainers of supervised fine-tuning, preference learning and reward models."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from core.errors import RunError
from core.interfaces import BatchSource
from core.nn.transformer import Transformer
from core.text.readers import Record
from core.training.log import write_samples
from rl.preferences.config import PreferenceConfig, RewardModelConfig, SftConfig
from rl.preferences.examples import Labelled, Pair, labelled_from_pairs
from rl.preferences.examples_trainer import ExamplesTrainer, WriterTrainer
from rl.preferences.reward_model import RewardModel
from rl.preferences.reward_task import RewardModelTask
from rl.preferences.scores import best_accuracy, pair_accuracy
from rl.preferences.supervised import SftTask
from rl.preferences.task import PreferenceTask
from rl.preferences.words import optimal_score

SHOWN_PAIRS = 8
"""Held-out pairs whose rewards a report shows."""


class SftTrainer(WriterTrainer):
    """Trains a language model to write the completions of prompts.

    Example:
        `SftTrainer(SftConfig(data=Path("demonstrations.jsonl"), init_from=Path("model"))).train()`
    """

    config: SftConfig
    task: SftTask

    def build(self) -> tuple[SftTask, BatchSource]:
        """The model, and the demonstrations in random order."""
        model, *records = self.begin()
        train, held_out = (self.encoder.demonstrations(part) for part in records)
        writer = self.make_writer(model, [(example.text, example.completion) for example in held_out])
        task = SftTask(model, train, held_out, writer, self.config, self.runtime)
        return task, self.batches_of([len(example.completion) for example in train], len(held_out))

    def report_sections(self) -> dict[str, Any]:
        """Score of samples before and after, where there is a judge, and what was done to the data."""
        rows = [{"name": name, **cells} for name, cells in self.score_rows().items()]
        return {"rows": rows, "notes": self.notes()}


class PreferenceTrainer(WriterTrainer):
    """Trains a language model on preferences between completions: DPO, IPO, SLiC's hinge, KTO, SimPO, ORPO.

    Example:
        `PreferenceTrainer(PreferenceConfig(data=Path("pairs.jsonl"), init_from=Path("model"))).train()`
    """

    config: PreferenceConfig
    task: PreferenceTask

    def build(self) -> tuple[PreferenceTask, BatchSource]:
        """The model, and the examples in random order."""
        model, train_records, held_out_records = self.begin()
        held_out = self._examples(held_out_records)
        train = self._examples(train_records)
        if self.config.loss == "kto":
            train = labelled_from_pairs([one for one in train if isinstance(one, Pair)]) or train
        prompts = [(one.text, one.chosen if isinstance(one, Pair) else one.completion) for one in held_out]
        task = PreferenceTask(model, train, held_out, self.make_writer(model, prompts), self.config, self.runtime)
        lengths = [sum(len(completion) for completion in sides) for sides in task.sides]
        return task, self.batches_of(lengths, len(held_out))

    def _examples(self, records: Sequence[Record]) -> list[Pair] | list[Labelled]:
        if self.config.loss == "kto" and records and "label" in records[0].fields:
            return self.encoder.labelled(records)
        return self.encoder.pairs(records)

    def report_sections(self) -> dict[str, Any]:
        """Accuracy on held-out pairs between chance and what is possible; scores of samples before and after."""
        task = self.task
        cells: dict[str, dict[str, Any]] = {"chance": {}, "start": {}, "model": {}, "best possible": {}}
        pairs = [one for one in task.held_out if isinstance(one, Pair)]
        notes = self.notes()
        if pairs:
            cells["chance"]["accuracy"] = 0.5
            cells["model"]["accuracy"] = pair_accuracy(*task.held_out_scores().unbind(1)).json()
            notes.insert(0, f"{len(pairs)} held-out pairs; 95 % intervals (Wilson for shares, normal for means).")
            if (best := best_accuracy(pairs)) is not None:
                cells["best possible"]["accuracy"] = best
                notes.append("Best possible: of a judge who knows how likely each preference was.")
        for name, score in self.score_rows().items():
            cells[name] |= score
        if self.config.data is None and self.config.loss == "dpo" and not self.config.label_smoothing:
            cells["best possible"]["score"] = optimal_score(self.config.strength)
            notes.append("Best possible score: of DPO's optimum, reference times e^(score / beta), with exact tables.")
        if any(one.margin is not None for one in pairs):
            notes.append(f"The pairs' margins are not used by {self.config.loss}; reward models use them.")
        return {"rows": [{"name": name, **cell} for name, cell in cells.items() if cell], "notes": notes}


class RewardModelTrainer(ExamplesTrainer):
    """Trains a reward model on preferences between completions.

    Example:
        `RewardModelTrainer(RewardModelConfig(data=Path("pairs.jsonl"), init_from=Path("model"))).train()`
    """

    config: RewardModelConfig
    task: RewardModelTask

    def build(self) -> tuple[RewardModelTask, BatchSource]:
        """The reward model, and the pairs in random order."""
        model, *records = self.begin()
        train, held_out = (self.encoder.pairs(part) for part in records)
        assert isinstance(model, Transformer)
        reward_model = RewardModel(model, self.encoder.tokenizer)
        task = RewardModelTask(reward_model, train, held_out, self.config, self.runtime)
        return task, self.batches_of([len(pair.chosen) + len(pair.rejected) for pair in train], len(held_out))

    @property
    def reward_model(self) -> RewardModel:
        """The model; its `score` is a reward function."""
        return self.task.reward_model

    def sample(self, num_samples: int) -> list[dict[str, Any]]:
        """Completions of the first held-out pairs with their rewards, and whether the chosen one got more."""
        pairs = self.task.held_out[:num_samples]
        if not pairs:
            raise RunError(f"{self.config.out} has no pairs here to score: put {self.config.data} back")
        rewards = [
            self.reward_model.frozen_rewards([getattr(pair, side) for pair in pairs]).tolist()
            for side in ("chosen", "rejected")
        ]
        rows = []
        for pair, chosen, rejected in zip(pairs, *rewards):
            for side, reward in (("chosen", chosen), ("rejected", rejected)):
                text = self.tokenizer.decode(getattr(pair, side).tokens)
                row = {"prompt": pair.text, "text": f"{side}: {text}", "reward": round(reward, 4)}
                rows.append({**row, "ok": chosen > rejected})
        return rows

    def write_samples(self, task: Any, folder: Path, step: int) -> None:
        """Write some held-out pairs with their rewards."""
        write_samples(folder, step, self.sample(SHOWN_PAIRS))

    def report_sections(self) -> dict[str, Any]:
        """Accuracy on held-out pairs between chance and what is possible."""
        task = self.task
        rows: list[dict[str, Any]] = [
            {"name": "chance", "accuracy": 0.5},
            {"name": "model", "accuracy": pair_accuracy(*task.held_out_rewards()).json()},
        ]
        notes = [f"{len(task.held_out)} held-out pairs; 95 % intervals (Wilson).", *self.encoder.notes()]
        if (best := best_accuracy(task.held_out)) is not None:
            rows.append({"name": "best possible", "accuracy": best})
            notes.append("Best possible: of a judge who knows how likely each preference was.")
        return {"rows": rows, "notes": notes}

    def export(self, folder: Path | str, *, overwrite: bool = False) -> float:
        """Write a Hugging Face sequence classifier; see `rl.preferences.classifier.save_classifier`."""
        from rl.preferences.classifier import save_classifier

        return save_classifier(self.reward_model, folder, overwrite=overwrite)

    def export_parts(self) -> NoReturn:
        """A reward model is no language model; `export` writes it."""
        raise RunError(
            f"{self.config.out} holds a reward model, which is no language model: write it with `trillium reward "
            f"{self.config.out} --export DIR`"
        )
