"""Scores of generated sentences: likelihood of held-out text, overlap with it, variety, validity under a grammar."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from adversarial.augmentation import fit_classifier
from adversarial.classifier import BagClassifier
from adversarial.config import GANConfig
from adversarial.corpus import Corpus
from adversarial.generator import (
    Generator,
    Sentences,
    draw_latent,
    draw_samples,
    evaluating,
    next_token_logits,
    token_losses,
)
from adversarial.labels import join_label, split_label
from adversarial.reverse import fitted_model
from core.losses import token_logprobs
from core.metrics.bleu import ReferenceIndex, mean_sentence_bleu, self_bleu
from core.metrics.bootstrap import Interval, bootstrap_mean, bootstrap_sums
from core.metrics.copies import CopyFinder
from core.metrics.frechet import frechet_distance
from core.metrics.lsa import LatentSemantics
from core.metrics.mauve import mauve_score
from core.metrics.ngrams import distinct_n, unique_fraction
from core.sampling import Sampling

Scores = dict[str, Interval | float]
Words = Sequence[str]
BATCH = 256
AT_ONCE = 1000
_FIRST = ("valid", "coverage", "right_label", "nll_oracle")
"""Scores shown before the likelihood, where there are such."""
LATENT_DRAWS = 16
"""Of the noise, for the likelihood of a generator that has it."""
SAMPLING_SEED = 1_000_003
"""All generators of a run are sampled with the same random numbers, apart from those of training."""


class TextEvaluation:
    """Scores generators and texts by one protocol: the same held-out lines, the same number of sentences.

    | score | of | better |
    |---|---|---|
    | valid | generated sentences that the grammar accepts (with a grammar only) | 1 |
    | coverage | held-out sentences that are no training sentence, and were generated (with a grammar only) | high |
    | nll_oracle | generated sequences under the oracle, nats a token (with an oracle only) | low |
    | nll | held-out text under the model, nats a token, end-of-sequence counted, padding not | low |
    | bleu_2 … bleu_5 | mean sentence BLEU, all held-out lines as references, NLTK's method1 | high |
    | self_bleu_2 … | the same of each sentence against all others | near real text's |
    | frechet | Fréchet distance to the held-out text, of LSA vectors | low |
    | mauve | MAUVE against the held-out text, of LSA vectors (with `mauve`) | 1 |
    | reverse_nll | held-out text under an LSTM that has seen these sentences alone (with `reverse_steps`) | low |
    | right_label | generated sentences that have the label which a classifier of held-out lines gives them | high |
    | unique, distinct_2 | different sentences, different bigrams, each over all | near real text's |
    | new | generated sentences that are no training line | near that of fresh real text |
    | longest_copy | mean number of words of the longest run that a training line has too | near held-out text's |
    | length | mean number of words | near real text's |

    All samples are drawn at temperature 1: a lower one raises valid and BLEU at the price of variety.

    Args:
        corpus: training and held-out lines.
        config: sizes.
        device: of the models that will be scored.
    """

    def __init__(self, corpus: Corpus, config: GANConfig, device: torch.device) -> None:
        self.corpus = corpus
        self.config = config
        self.device = device
        tokenizer = corpus.tokenizer
        assert tokenizer.bos_id is not None
        self.bos_id, self.eos_id = tokenizer.bos_id, tokenizer.eos_id
        # As many from every source, since variety falls with the number of sentences.
        self.count = max(2, min(config.eval_samples, len(corpus.train)))
        self._training = set(corpus.train)
        self._unseen = set(corpus.held_out) - self._training

    @cached_property
    def _held_out_words(self) -> list[list[str]]:
        return [self.corpus.tokenizer.split(line) for line in self.corpus.held_out]

    @cached_property
    def references(self) -> ReferenceIndex:
        """The held-out lines, ready for BLEU."""
        return ReferenceIndex(self._held_out_words)

    def coverage(self, texts: Sequence[str]) -> float:
        """Share of the different held-out lines that are no training lines which are among the texts; NaN without any.

        It grows with the number of texts: compare equal numbers only.
        """
        return len(self._unseen.intersection(texts)) / len(self._unseen) if self._unseen else math.nan

    def overlap(self, texts: Sequence[str]) -> tuple[float, float]:
        """(self-BLEU-5, BLEU-5)."""
        words = [self.corpus.tokenizer.split(text) for text in texts]
        return self_bleu(words)[5], mean_sentence_bleu(words, self.references)[5]

    def validity(self, texts: Sequence[str]) -> float:
        """Share of valid sentences, with a grammar."""
        return sum(map(self.accepts, texts)) / len(texts)

    @torch.no_grad()
    def expected_coverage(self, model: Generator, count: int, factor: float) -> float:
        """What `coverage` is on average for `count` sentences drawn with the logits times `factor`: no chance in it.

        The mean of 1 - (1 - p(x))^count over the held-out lines x that are no training lines.
        """
        lines = sorted(self._unseen)
        missed = 0.0
        with evaluating(model):
            for start in range(0, len(lines), BATCH):
                batch = Sentences.from_lists(self.corpus.encode(lines[start : start + BATCH]), self.device)
                logits_BTV = next_token_logits(model, batch, self.bos_id).float() * factor
                logprob_B = (token_logprobs(logits_BTV, batch.tokens_BT) * batch.mask_BT).sum(1).double()
                missed += float((count * torch.log1p(-logprob_B.exp())).exp().sum())
        return 1 - missed / len(lines) if lines else math.nan

    def accepts(self, line: str) -> bool:
        """Whether the grammar accepts a line's sentence."""
        assert self.corpus.grammar is not None
        return self.corpus.grammar.accepts(split_label(line)[1])

    @cached_property
    def encoder(self) -> LatentSemantics:
        """From sentences to vectors, for the Fréchet distance. Fitted to held-out lines, so to the text of no row."""
        return LatentSemantics(self._held_out_words)

    @cached_property
    def _encoded(self) -> Tensor:
        return self.encoder.encode(self._held_out_words)

    @cached_property
    def _label_judge(self) -> BagClassifier:
        return fit_classifier(self.corpus, self.corpus.held_out)

    @cached_property
    def copies(self) -> CopyFinder:
        """Finds what was copied from the training lines."""
        return CopyFinder([self.corpus.tokenizer.split(line) for line in self.corpus.train])

    def score(self, model: Generator) -> dict[str, float]:
        """Scores of a generator as plain numbers."""
        return {name: _number(value) for name, value in self.score_model(model).items()}

    def score_model(self, model: Generator) -> Scores:
        """Scores of a generator, with 95 % intervals where a score is a mean over sentences."""
        nll_N2 = self.likelihoods(model)
        nll = bootstrap_sums(nll_N2.numpy(), lambda sums_R2: sums_R2[:, 0] / sums_R2[:, 1])
        scores = self.score_texts(self.generate(model, self.count))
        first: Scores = {name: scores.pop(name) for name in _FIRST if name in scores}
        return {**first, "nll": nll, **scores}

    def generate(self, model: Generator, count: int, sampling: Sampling | None = None) -> list[str]:
        """Sentences of a generator, the same ones each time for the same weights; at temperature 1 unless said."""
        source = torch.Generator(self.device).manual_seed(self.config.seed + SAMPLING_SEED)
        texts: list[str] = []
        for start in range(0, count, AT_ONCE):
            drawn = draw_samples(
                model, min(AT_ONCE, count - start), max_tokens=self.corpus.max_tokens, bos_id=self.bos_id,
                eos_id=self.eos_id, sampling=sampling, generator=source,
            )  # fmt: skip
            texts += [self.corpus.tokenizer.decode(row) for row in drawn.lists()]
        return texts

    def score_texts(self, texts: Sequence[str]) -> Scores:
        """Scores of sentences, whoever wrote them."""
        words = [self.corpus.tokenizer.split(text) for text in texts]
        scores: Scores = {}
        if self.corpus.grammar is not None:
            scores["valid"] = bootstrap_mean([float(self.accepts(text)) for text in texts])
            if not math.isnan(covered := self.coverage(texts)):
                scores["coverage"] = covered
        oracle = self.corpus.oracle
        if oracle is not None:
            tokens_NL = torch.tensor([self.corpus.tokenizer.encode(text) for text in texts])
            scores["nll_oracle"] = bootstrap_mean(oracle.nll(tokens_NL).tolist())
        else:
            quality, variety = mean_sentence_bleu(words, self.references), self_bleu(words)
            for order in (4, 2, 3, 5):  # the usual one first
                scores[f"bleu_{order}"] = bootstrap_mean(quality.per_item_NK[:, order - 1])
                scores[f"self_bleu_{order}"] = variety[order]
            encoded = self.encoder.encode(words)
            scores["frechet"] = frechet_distance(encoded, self._encoded)
            if self.config.mauve:
                scores["mauve"] = mauve_score(encoded, self._encoded)
        if self.corpus.labels:
            own = zip(self._label_judge.predict(words), texts)
            scores["right_label"] = bootstrap_mean([float(label == split_label(text)[0]) for label, text in own])
        if self.config.reverse_steps:
            rows, size = self.corpus.encode(texts), self.corpus.tokenizer.vocab_size
            model = fitted_model(rows, size, self.bos_id, self.config.reverse_steps, self.device)
            nll, tokens = self.likelihoods(model).sum(0).tolist()
            scores["reverse_nll"] = nll / tokens
        scores["unique"] = unique_fraction(words)
        scores["distinct_2"] = distinct_n(words, 2)
        if oracle is None:
            scores["new"] = sum(text not in self._training for text in texts) / len(texts)
            scores["longest_copy"] = bootstrap_mean([float(run) for run in self.copies.longest(words)])
            scores["length"] = sum(map(len, words)) / len(words)
        return scores

    def likelihoods(self, model: Generator) -> Tensor:
        """likelihoods_N2 of the held-out lines: summed negative log-likelihood in nats, and number of tokens."""
        return self.likelihoods_of(model, self.corpus.held_out)

    def likelihoods_of(self, model: Generator, lines: Sequence[str]) -> Tensor:
        """The same of other lines. See `Corpus.unscored_id`; with latent noise see `GANConfig.latent`."""
        rows = self.corpus.encode(lines)
        found = []
        source = torch.Generator(self.device).manual_seed(SAMPLING_SEED)
        draws = LATENT_DRAWS if hasattr(model, "noise") else 1
        with torch.no_grad(), evaluating(model):
            for start in range(0, len(rows), BATCH):
                batch = Sentences.from_lists(rows[start : start + BATCH], self.device)
                scored_BT = batch.mask_BT & (batch.tokens_BT != self.corpus.unscored_id)
                sums = []
                for _ in range(draws):
                    drawn = replace(batch, latent_BZ=draw_latent(model, len(batch), source))
                    losses_BT = token_losses(model, drawn, self.bos_id)
                    sums.append(torch.where(scored_BT, losses_BT, 0.0).sum(1).double())
                nll_B = sums[0] if draws == 1 else math.log(draws) - torch.logsumexp(-torch.stack(sums), 0)
                found.append(torch.stack([nll_B, scored_BT.sum(1).double()], 1))
        return torch.cat(found).cpu()

    def text_rows(self) -> list[dict[str, Any]]:
        """Rows for real text and for the same words in random order: between them a generator should lie."""
        rng = random.Random(self.config.seed)
        real = rng.sample(self.corpus.train, min(self.count, len(self.corpus.train)))
        if len(real) < 2:
            return []
        shuffled = []
        for line in real:
            words = self.corpus.tokenizer.split(line)
            rng.shuffle(words)
            shuffled.append(join_label(split_label(line)[0], " ".join(words)))
        rows = [
            as_row("training text (ceiling)", self.score_texts(real)),
            as_row("shuffled words (floor)", self.score_texts(shuffled)),
        ]
        if self.corpus.oracle is not None:
            rows[0]["nll"] = rows[0]["nll_oracle"]
        if self.corpus.entropy is not None:
            rows[0]["nll"] = self.corpus.entropy
        for row in rows:
            for name in ("new", "longest_copy", "coverage"):  # they were drawn from the training lines
                row.pop(name, None)
        if self.corpus.oracle is None:
            held_out = self.corpus.held_out
            split = self._held_out_words
            scores: Scores = {
                "unique": unique_fraction(split),
                "new": sum(line not in self._training for line in held_out) / len(held_out),
                "longest_copy": bootstrap_mean([float(run) for run in self.copies.longest(split)]),
                "length": sum(map(len, split)) / len(split),
            }
            rows.append(as_row("held-out text", scores))
        return rows


def as_row(name: str, scores: Mapping[str, Interval | float]) -> dict[str, Any]:
    """A row of `eval.json`."""
    return {
        "name": name,
        **{
            metric: {"value": score.value, "low": score.low, "high": score.high}
            if isinstance(score, Interval)
            else score
            for metric, score in scores.items()
        },
    }


def change_in_nll(before_N2: Tensor, after_N2: Tensor) -> Interval:
    """Held-out nll after minus before, in nats a token, with the interval over the lines that both were scored on."""
    statistics = torch.stack([after_N2[:, 0] - before_N2[:, 0], after_N2[:, 1]], 1).numpy()
    return bootstrap_sums(statistics, lambda sums_R2: sums_R2[:, 0] / sums_R2[:, 1])


def _number(score: Interval | float) -> float:
    return score.value if isinstance(score, Interval) else score
