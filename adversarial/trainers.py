"""The public trainer of text GANs."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from adversarial.config import GANConfig
from adversarial.corpus import Corpus, load_corpus
from adversarial.discriminators.build import build_discriminator
from adversarial.evaluation import SAMPLING_SEED, TextEvaluation, as_row, change_in_nll
from adversarial.frontier import Frontier, Point, rejection_points, temperature_points, text_points
from adversarial.generator import Generator, Sentences, build_generator
from adversarial.task import GanTask
from core.errors import RunError
from core.interfaces import BatchSource, Task
from core.nn.transformer import Transformer
from core.sampling import Sampling
from core.text.tokenizer import Tokenizer
from core.training import distributed
from core.training.batches import ShuffledBatches
from core.training.log import write_samples
from core.training.trainer import Trainer

UNSEEN = 500
"""Validation lines that the discriminator's accuracy is measured on."""
COLLAPSED = 0.5
"""A generator whose sentences repeat more than this, relative to real text, is called collapsed."""


class RunText:
    """What the task needs of the text of a run: see `adversarial.task.Text`.

    Args:
        corpus: the sentences.
        evaluation: scores generators.
        device: where batches are wanted.
    """

    def __init__(self, corpus: Corpus, evaluation: TextEvaluation, device: torch.device) -> None:
        self.bos_id, self.eos_id = evaluation.bos_id, evaluation.eos_id
        self.max_tokens = corpus.max_tokens
        self.fingerprint = corpus.tokenizer.fingerprint
        self.score = evaluation.score
        self._corpus, self._evaluation, self._device = corpus, evaluation, device
        self._train = Sentences.from_lists(corpus.encode(corpus.train), device)
        self._lengths_N = self._train.mask_BT.sum(1)

    @property
    def size(self) -> int:
        """Number of training sentences."""
        return len(self._train)

    def batch(self, chosen: Sequence[int]) -> Sentences:
        """Training sentences by their numbers."""
        return self._rows(torch.tensor(chosen, device=self._device))

    def real(self, count: int) -> Sentences:
        """Training sentences drawn at random."""
        return self._rows(torch.randint(self.size, (count,)).to(self._device))

    def _rows(self, chosen_B: torch.Tensor) -> Sentences:
        longest = int(self._lengths_N[chosen_B].max())
        return Sentences(self._train.tokens_BT[chosen_B, :longest], self._train.mask_BT[chosen_B, :longest])

    def validate(self, model: Generator) -> float:
        """nll of the validation lines."""
        nll, tokens = self._evaluation.likelihoods_of(model, self._corpus.validation).sum(0).tolist()
        return nll / tokens

    def unseen(self) -> Sentences:
        """Some validation lines."""
        return Sentences.from_lists(self._corpus.encode(self._corpus.validation[:UNSEEN]), self._device)


class GANTrainer(Trainer):
    """Trains a generator of sentences on a text file, or on a grammar.

    >>> from adversarial.config import GANConfig
    >>> GANTrainer(GANConfig(text=Path("sentences.txt"), out=Path("runs/mine"))).train()  # doctest: +SKIP
    """

    config: GANConfig
    corpus: Corpus
    evaluation: TextEvaluation
    text: RunText

    def build(self) -> tuple[GanTask, BatchSource]:
        """Read the text; make generator, discriminator and batches."""
        config, device = self.config, self.runtime.device
        if config.batch_size // distributed.world() < 2:
            raise ValueError(f"batch_size must be at least 2 a process for a GAN, got {config.batch_size}")
        self.corpus = load_corpus(config)
        self.evaluation = TextEvaluation(self.corpus, config, device)
        self.text = RunText(self.corpus, self.evaluation, device)
        vocab_size = self.corpus.tokenizer.vocab_size
        model = build_generator(config, vocab_size)
        judge = build_discriminator(config, vocab_size, self.corpus.max_tokens, self.text.bos_id)
        task = GanTask(model, judge, config, self.runtime, self.text)
        return task, ShuffledBatches(self.text.size, config.batch_size, config.seed, self.text.batch)

    def write_samples(self, task: Task, folder: Path, step: int) -> None:
        """Sentences of the present generator; with a grammar, whether each is right."""
        assert isinstance(task, GanTask)
        if self.config.sample_lines:
            write_samples(folder, step, self._described(self.evaluation.generate(task.model, self.config.sample_lines)))

    def sample(self, num_samples: int) -> list[dict[str, Any]]:
        """Sentences of the present generator; torch's generator gives the randomness."""
        drawn = self._task.sample(num_samples)
        return self._described([self.corpus.tokenizer.decode(row) for row in drawn.lists()])

    def _described(self, texts: list[str]) -> list[dict[str, Any]]:
        grammar = self.corpus.grammar
        return [{"text": text} if grammar is None else {"text": text, "ok": grammar.accepts(text)} for text in texts]

    def report_sections(self) -> Mapping[str, Any]:
        """The generator before and after adversarial training, scored alike; real and shuffled text to compare with."""
        task, evaluation = self._task, self.evaluation
        with torch.random.fork_rng(devices=[]):
            start = build_generator(self.config, self.corpus.tokenizer.vocab_size).to(self.runtime.device)
            rows = [as_row("untrained", evaluation.score_model(start))]
            notes = [*self.corpus.notes]
            if task.mle_start is not None:
                start.load_state_dict(task.mle_start)
                rows.append(as_row("MLE start", evaluation.score_model(start)))
                change = change_in_nll(evaluation.likelihoods(start), evaluation.likelihoods(task.model))
                interval = f"{change.value:+.4f} [{change.low:+.4f}, {change.high:+.4f}]"
                notes.append(
                    f"`model` is `MLE start` after {task.step - task.mle_steps} adversarial steps; on the same "
                    f"held-out lines its nll changed by {interval} nats a token"
                )
            scores = evaluation.score_model(task.model)
        rows += [as_row("model", scores), *evaluation.text_rows()]
        real = next((row["unique"] for row in rows if row["name"].startswith("training text")), 1.0)
        if float(str(scores["unique"])) < COLLAPSED * real:
            notes.append(
                f"the generator has collapsed: only {scores['unique']:.0%} of its sentences differ ({real:.0%} of real "
                "ones); raise mle_weight or penalty, or lower optim.lr"
            )
        notes.append(
            f"{evaluation.count:,} sentences a row, sampled at temperature 1, against {len(self.corpus.held_out):,} "
            "held-out lines; intervals are 95 % over sentences"
            + ("" if self.corpus.oracle else f"; BLEU with NLTK's method1; frechet by {evaluation.encoder.name}")
        )
        return {"rows": rows, "notes": notes}

    def frontier(self, *, samples: int | None = None) -> Frontier:
        """The curves over temperatures of the generator and of its MLE start; see `adversarial.frontier`.

        Args:
            samples: generated for each point; by default as many as the run's scores take.
        """
        corpus, evaluation, task = self.corpus, self.evaluation, self._task
        samples = samples or evaluation.count
        models = {"model": task.model}
        if task.mle_start is not None:
            start = build_generator(self.config, corpus.tokenizer.vocab_size).to(self.runtime.device)
            start.load_state_dict(task.mle_start)
            models["MLE start"] = start
        held_out = len(corpus.held_out)
        curves: dict[str, list[Point]] = {}
        if corpus.oracle is not None:
            axes, source = ("nll_oracle", "nll_test"), f"oracle:{corpus.oracle.name}|held-out:{held_out}|nats a token"
            held_out_NL = torch.tensor(corpus.encode(corpus.held_out))
            seed = self.config.seed + SAMPLING_SEED
            for name, model in models.items():
                how = (model, corpus.oracle, held_out_NL)
                curves[name] = temperature_points(*how, samples=samples, seed=seed)
                curves[f"{name}, rejection"] = rejection_points(*how, samples=samples, seed=seed)
        else:
            if self.config.text is None and self.config.source == "babyai":
                axes, measure, source = ("coverage", "valid"), evaluation.validity, f"BabyAI {self.config.level}"
            else:
                axes, measure, source = ("self_bleu_5", "bleu_5"), evaluation.overlap, "BLEU-5 method1"
            source += f"|held-out:{held_out}"
            for name, model in models.items():
                curves[name] = text_points(self._texts_at(model, samples), measure)
        signature = f"{source}|samples:{samples} a point|one setting for both axes|seed:{self.config.seed}"
        return Frontier(axes, curves, signature)

    def _texts_at(self, model: Generator, count: int) -> Callable[[float], list[str]]:
        return lambda factor: self.evaluation.generate(model, count, Sampling(temperature=1 / factor))

    def export_parts(self) -> tuple[Any, Tokenizer]:
        """The generator and its tokenizer, for `trillium export`."""
        model = self._task.model
        if not isinstance(model, Transformer):
            raise RunError(f"only a Transformer can be exported; {self.config.out} is an {type(model).__name__} run")
        return model, self.corpus.tokenizer

    def save(self, folder: Path | str) -> Path:
        """Write the weights, the config and the tokenizer; see `Trainer.save`."""
        folder = super().save(folder)
        for name in ("mle", "mediator_mle"):  # the MLE phase trained the same networks
            (folder / f"{name}.safetensors").unlink(missing_ok=True)
        self.corpus.tokenizer.save(folder)
        return folder

    @property
    def _task(self) -> GanTask:
        task = self.task
        assert isinstance(task, GanTask)
        return task
