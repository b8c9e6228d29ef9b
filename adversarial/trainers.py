"""The public trainer of text GANs."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from adversarial.augmentation import AugmentationGain, new_lines
from adversarial.config import GANConfig
from adversarial.corpus import Corpus, load_corpus
from adversarial.discriminators.build import build_discriminator
from adversarial.evaluation import SAMPLING_SEED, TextEvaluation, as_row, change_in_nll
from adversarial.frontier import Frontier, Point, rejection_points, temperature_points, text_points
from adversarial.generator import Generator, Sentences, build_generator
from adversarial.labels import LabelledTokens, UnknownLabel, split_label
from adversarial.repair import Repairer, Verdict
from adversarial.repair_evaluation import repair_rows
from adversarial.reward import DiscriminatorReward, log_density_ratio
from adversarial.task import GanTask
from core.errors import RunError
from core.interfaces import BatchSource, Task
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
        if self.corpus.grammar is None:
            return [_as_item(line) for line in texts]
        return [{**_as_item(line), "ok": self.evaluation.accepts(line)} for line in texts]

    def report_sections(self) -> Mapping[str, Any]:
        """The generator before and after adversarial training, scored alike; real and shuffled text to compare with."""
        task, evaluation = self._task, self.evaluation
        with torch.random.fork_rng(devices=[]):
            untrained = build_generator(self.config, self.corpus.tokenizer.vocab_size).to(self.runtime.device)
            rows = [as_row("untrained", evaluation.score_model(untrained))]
            notes = [*self.corpus.notes]
            if (start := self.mle_start()) is not None:
                rows.append(as_row("MLE start", evaluation.score_model(start)))
                change = change_in_nll(evaluation.likelihoods(start), evaluation.likelihoods(task.model))
                interval = f"{change.value:+.4f} [{change.low:+.4f}, {change.high:+.4f}]"
                notes.append(
                    f"`model` is `MLE start` after {task.step - task.mle_steps} adversarial steps; on the same "
                    f"held-out lines its nll changed by {interval} nats a token"
                )
            scores = evaluation.score_model(task.model)
        rows += [as_row("model", scores), *evaluation.text_rows()]
        if self.corpus.labels:
            gain = AugmentationGain(self.corpus)
            models = {} if start is None else {"sentences of the MLE start": start}
            models["sentences of the model"] = task.model
            notes += gain.notes({name: gain.correct(evaluation.generate(m, gain.count)) for name, m in models.items()})
        real = next((row["unique"] for row in rows if row["name"].startswith("training text")), 1.0)
        if float(str(scores["unique"])) < COLLAPSED * real:
            notes.append(
                f"the generator has collapsed: only {scores['unique']:.0%} of its sentences differ ({real:.0%} of real "
                "ones); raise mle_weight or penalty, or lower optim.lr"
            )
        notes.append(
            f"{evaluation.count:,} sentences a row, sampled at temperature 1, against {len(self.corpus.held_out):,} "
            "held-out lines; intervals are 95 % over sentences"
        )
        if self.corpus.oracle is None:
            notes[-1] += f"; BLEU with NLTK's method1; vectors for distances: {evaluation.encoder.name}"
        return {"rows": rows, "notes": notes}

    def augment(self, count: int, *, labels: Sequence[str] = (), seed: int = 0) -> list[dict[str, str]]:
        """New sentences, no two alike and none a training line: `{"label": …, "text": …}`.

        Args:
            count: for each label, or in all where the run has none.
            labels: classes to write for; by default all of the run.
            seed: of the sampling.

        Raises:
            UnknownLabel: a label that the run does not have.
            TooFewNew: the generator hardly writes anything new.
        """
        tokenizer, source = self.corpus.tokenizer, torch.Generator(self.runtime.device).manual_seed(seed)
        found: list[dict[str, str]] = []
        for label in labels or self.corpus.labels or ("",):
            if label and not isinstance(tokenizer, LabelledTokens):
                raise UnknownLabel(f"{self.config.out} was trained without labels: leave label {label!r} out")
            begin = (tokenizer.label_id(label),) if isinstance(tokenizer, LabelledTokens) else ()

            def draw(many: int, begin: Sequence[int] = begin) -> list[str]:
                drawn = self._task.sample(many, generator=source, begin=begin)
                return [tokenizer.decode([*begin, *row]) for row in drawn.lists()]

            found += [_as_item(line) for line in new_lines(draw, self.corpus.train, count)]
        return found

    def frontier(self, *, samples: int | None = None) -> Frontier:
        """The curves over temperatures of the generator and of its MLE start; see `adversarial.frontier`.

        Args:
            samples: generated for each point; by default as many as the run's scores take.
        """
        corpus, evaluation, task = self.corpus, self.evaluation, self._task
        valid = self.config.text is None and self.config.source == "babyai"
        if self.config.latent and (corpus.oracle is not None or valid):
            raise RunError(f"{self.config.out} has latent noise, with which no likelihood is exact: it has no curve")
        samples = samples or evaluation.count
        models = {"model": task.model}
        if (start := self.mle_start()) is not None:
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
            axes = ("coverage", "valid") if valid else ("self_bleu_5", "bleu_5")
            source = f"BabyAI {self.config.level}|coverage: expected" if valid else "BLEU-5 method1"
            source += f"|held-out:{held_out}"
            for name, model in models.items():

                def measure(factor: float, texts: Sequence[str], model: Generator = model) -> tuple[float, float]:
                    if not valid:
                        return evaluation.overlap(texts)
                    return evaluation.expected_coverage(model, len(texts), factor), evaluation.validity(texts)

                curves[name] = text_points(self._texts_at(model, samples), measure)
        signature = f"{source}|samples:{samples} a point|one setting for both axes|seed:{self.config.seed}"
        return Frontier(axes, curves, signature)

    def _texts_at(self, model: Generator, count: int) -> Callable[[float], list[str]]:
        return lambda factor: self.evaluation.generate(model, count, Sampling(temperature=1 / factor))

    def repairer(self, *, judged: bool = True, width: int = 64) -> Repairer:
        """Fills gaps and mends wrong words with this run's generator; see `adversarial.repair`.

        Args:
            judged: let the discriminator put the candidates in order.
            width: candidates kept.
        """
        return Repairer(
            self.corpus.tokenizer, self._task.model, verdict=self._verdict() if judged else None, width=width
        )

    def repair_rows(
        self, *, sentences: int = 200, gaps: int = 1, noise: float = 0.0, width: int = 64, seed: int = 0
    ) -> list[dict[str, Any]]:
        """Damage held-out sentences and repair them: scores of generator, MLE start and floor; see `repair_row`.

        Args:
            sentences: how many.
            gaps: words taken out of each.
            noise: share of the words that are replaced.
            width: candidates kept; with one gap and no noise, as many as there are words gives exact likelihoods.
            seed: of the damage.
        """
        start = self.mle_start()
        return repair_rows(
            self.corpus, self.repairer(width=width), start, sentences=sentences, gaps=gaps, noise=noise, seed=seed
        )

    def reward(self, decode: Callable[[list[int]], str], *, probability: bool = False) -> DiscriminatorReward:
        """The discriminator as a reward for another model; see `DiscriminatorReward`."""
        task, corpus = self._task, self.corpus
        return DiscriminatorReward(
            task.discriminator.module, task.model, corpus.tokenizer, decode, max_tokens=corpus.max_tokens,
            probability=probability,
        )  # fmt: skip

    def _verdict(self) -> Verdict:
        task, bos_id = self._task, self.text.bos_id
        return lambda sentences: log_density_ratio(task.discriminator.module, task.model, sentences, bos_id)

    def mle_start(self) -> Generator | None:
        """The generator as it was when the adversarial phase began; `None` before that."""
        if self._task.mle_start is None:
            return None
        with torch.random.fork_rng(devices=[]):
            start = build_generator(self.config, self.corpus.tokenizer.vocab_size).to(self.runtime.device)
        start.load_state_dict(self._task.mle_start)
        return start

    def export_parts(self) -> tuple[Any, Tokenizer]:
        """The generator and its tokenizer, for `trillium export`."""
        model = self._transformer(self._task.model)
        if self.config.latent or self.corpus.labels:
            raise RunError(f"{self.config.out} has latent noise or labels, which no exported folder can hold")
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


def _as_item(line: str) -> dict[str, str]:
    """A line as a sample, its label apart."""
    label, text = split_label(line)
    return {"label": label, "text": text} if label else {"text": text}
