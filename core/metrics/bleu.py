"""BLEU of a corpus and of single sentences, from one kind of counts; references may be many and shared.

Shape suffixes: N = hypotheses (or resamples of them), K = n-gram orders 1..K.

Three smoothings give the numbers of three programs:
    coco    pycocoevalcap: matches + 1e-15 over totals + 1e-9, no logarithm of zero.
    method1 NLTK's `SmoothingFunction.method1`: an order without match counts 0.1 matches. Text-GAN papers use it.
    exp     sacrebleu's default: the k-th order without match counts 1 / 2^k matches.
    none    an order without match makes the score 0.

References:
    Papineni et al. 2002, "BLEU: a Method for Automatic Evaluation of Machine Translation", ACL.
    Chen and Cherry 2014, "A Systematic Comparison of Smoothing Techniques for Sentence-Level BLEU", WMT.
    Zhu et al. 2018, "Texygen: A Benchmarking Platform for Text Generation Models", arXiv:1802.01886 (self-BLEU).
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from core.metrics.bootstrap import Interval, bootstrap_sums
from core.metrics.ngrams import Tokens, count_ngrams

Smoothing = Literal["coco", "method1", "exp", "none"]

_REVISION = 1
"""Raised whenever a number could change; part of every signature."""


@dataclass(frozen=True)
class BleuCounts:
    """All that BLEU needs to know of each hypothesis. Rows of a corpus may be added up."""

    matches_NK: NDArray[np.int64]
    """n-grams that occur in a reference, each counted at most as often as in the reference that has it most often."""
    totals_NK: NDArray[np.int64]
    """n-grams of the hypothesis."""
    lengths_N: NDArray[np.int64]
    """Tokens of the hypothesis."""
    reference_lengths_N: NDArray[np.int64]
    """Tokens of the reference whose length is closest; of two, the shorter."""

    def __len__(self) -> int:
        return len(self.lengths_N)

    def rows(self) -> NDArray[np.int64]:
        """The counts of each hypothesis as one row of 2K + 2 numbers."""
        lengths = np.stack([self.lengths_N, self.reference_lengths_N], 1)
        return np.concatenate([self.matches_NK, self.totals_NK, lengths], 1)

    @classmethod
    def from_rows(cls, rows: NDArray[np.int64]) -> "BleuCounts":
        """The inverse of `rows`."""
        orders = rows.shape[1] // 2 - 1
        return cls(rows[:, :orders], rows[:, orders : 2 * orders], rows[:, -2], rows[:, -1])

    def sum(self) -> "BleuCounts":
        """The counts of the whole corpus, as one row."""
        return self.from_rows(self.rows().sum(0, keepdims=True))


@dataclass(frozen=True)
class BleuScore:
    """BLEU-1 to BLEU-K of a set of hypotheses."""

    values: tuple[float, ...]
    """BLEU-1, BLEU-2, … in [0, 1]."""
    per_item_NK: NDArray[np.float64]
    """The same for every hypothesis alone."""
    counts: BleuCounts
    smoothing: Smoothing
    signature: str
    """All choices that change the number."""

    def __getitem__(self, order: int) -> float:
        """`score[4]` is BLEU-4."""
        if not 1 <= order <= len(self.values):
            raise IndexError(f"this score has BLEU-1 to BLEU-{len(self.values)}, not BLEU-{order}")
        return self.values[order - 1]

    def as_dict(self, prefix: str = "bleu_") -> dict[str, float]:
        """`{"bleu_1": …, "bleu_2": …}`."""
        return {f"{prefix}{order}": value for order, value in enumerate(self.values, 1)}


def bleu(counts: BleuCounts, smoothing: Smoothing) -> NDArray[np.float64]:
    """BLEU-1 to BLEU-K of each row of counts.

    BLEU-k = BP * (p_1 * … * p_k)^(1/k) with p the (smoothed) precisions and BP = min(1, exp(1 - reference / length)).

    Returns:
        bleu_NK in [0, 1].
    """
    matches_NK = counts.matches_NK.astype(np.float64)
    totals_NK = counts.totals_NK.astype(np.float64)
    lengths_N1 = counts.lengths_N[:, None].astype(np.float64)
    reference_lengths_N1 = counts.reference_lengths_N[:, None].astype(np.float64)
    orders_K = np.arange(1, matches_NK.shape[1] + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        if smoothing == "coco":
            precisions_NK = (matches_NK + 1e-15) / (totals_NK + 1e-9)
            ratio_N1 = (lengths_N1 + 1e-15) / (reference_lengths_N1 + 1e-9)
            penalty_N1 = np.where(ratio_N1 < 1, np.exp(1 - 1 / ratio_N1), 1.0)
        else:
            precisions_NK = _precisions(matches_NK, totals_NK, smoothing)
            penalty_N1 = np.where(lengths_N1 > 0, np.exp(np.minimum(0, 1 - reference_lengths_N1 / lengths_N1)), 0.0)
        return penalty_N1 * np.exp(np.log(precisions_NK).cumsum(1) / orders_K)


def _precisions(
    matches_NK: NDArray[np.float64], totals_NK: NDArray[np.float64], smoothing: Smoothing
) -> NDArray[np.float64]:
    missed_NK = matches_NK == 0
    if smoothing == "method1":
        # NLTK divides by at least 1, and gives up when not even a word matches.
        precisions_NK = np.where(missed_NK, 0.1, matches_NK) / np.maximum(totals_NK, 1)
    elif smoothing == "exp":
        precisions_NK = np.where(missed_NK, 0.5 ** missed_NK.cumsum(1), matches_NK) / totals_NK
        precisions_NK[totals_NK == 0] = 0.0
    elif smoothing == "none":
        precisions_NK = np.where(missed_NK, 0.0, matches_NK / totals_NK)
    else:
        raise ValueError(f"smoothing must be coco, method1, exp or none, got {smoothing!r}")
    precisions_NK[missed_NK[:, 0]] = 0.0
    return precisions_NK


def count(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]], *, max_order: int = 4) -> BleuCounts:
    """The counts of candidates that each have their own references.

    Args:
        candidates: N tokenised sentences.
        references: for each candidate one or more tokenised references.
    """
    _check_pairs(candidates, references)
    rows = []
    for candidate, own in zip(candidates, references):
        most: dict[tuple[Hashable, ...], int] = {}
        for reference in own:
            for ngram, number in count_ngrams(reference, max_order).items():
                if number > most.get(ngram, 0):
                    most[ngram] = number
        row = _match(count_ngrams(candidate, max_order), most, max_order)
        closest = min((len(reference) for reference in own), key=lambda n: (abs(n - len(candidate)), n))
        rows.append([*row, *_totals(len(candidate), max_order), len(candidate), closest])
    return BleuCounts.from_rows(np.array(rows, dtype=np.int64).reshape(len(rows), 2 * max_order + 2))


def corpus_bleu(
    candidates: Sequence[Tokens],
    references: Sequence[Sequence[Tokens]],
    *,
    max_order: int = 4,
    smoothing: Smoothing = "coco",
) -> BleuScore:
    """Corpus BLEU: the counts of all candidates are added up before the precisions are taken.

    With `coco` equal to pycocoevalcap, with `exp` to sacrebleu (divided by 100) on the same tokens.
    """
    counts = count(candidates, references, max_order=max_order)
    if not len(counts):
        raise ValueError("BLEU of no candidates was asked for")
    sizes = sorted({len(own) for own in references})
    refs = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]}-{sizes[-1]}"
    signature = f"BLEU-{max_order}|level:corpus|refs:{refs}|length:closest|smooth:{smoothing}|rev:{_REVISION}"
    values = bleu(counts.sum(), smoothing)[0]
    return BleuScore(tuple(values.tolist()), bleu(counts, smoothing), counts, smoothing, signature)


def corpus_bleu_interval(
    score: BleuScore, order: int, *, level: float = 0.95, num_resamples: int = 1000, seed: int = 0
) -> Interval:
    """Bootstrap confidence interval of a corpus BLEU: candidates are drawn with replacement, their counts added up."""
    return bootstrap_sums(
        score.counts.rows(),
        lambda sums: bleu(BleuCounts.from_rows(sums), score.smoothing)[:, order - 1],
        level=level,
        num_resamples=num_resamples,
        seed=seed,
    )


class ReferenceIndex:
    """Many references that every hypothesis shares, reduced to what BLEU looks up. Exact, whatever their number.

    For each n-gram it keeps the two highest counts in one reference and how many references have the highest, so that
    one reference can also be left out (self-BLEU).
    """

    def __init__(self, references: Sequence[Tokens], *, max_order: int = 5) -> None:
        if not references:
            raise ValueError("BLEU needs at least one reference")
        self.max_order = max_order
        self.num_references = len(references)
        self._most: dict[tuple[Hashable, ...], int] = {}
        # How many references have the highest count, and the next lower count (0 if none).
        self._holders: dict[tuple[Hashable, ...], int] = {}
        self._second: dict[tuple[Hashable, ...], int] = {}
        for reference in references:
            for ngram, number in count_ngrams(reference, max_order).items():
                most = self._most.get(ngram, 0)
                if number > most:
                    self._second[ngram] = most
                    self._most[ngram] = number
                    self._holders[ngram] = 1
                elif number == most:
                    self._holders[ngram] += 1
                elif number > self._second[ngram]:
                    self._second[ngram] = number
        self._lengths = Counter(len(reference) for reference in references)

    def count(self, hypotheses: Sequence[Tokens], *, leave_one_out: bool = False) -> BleuCounts:
        """Counts of the hypotheses against all references.

        Args:
            leave_one_out: the hypotheses are the references; each is compared with all others, not with itself.
        """
        if leave_one_out and len(hypotheses) != self.num_references:
            raise ValueError("leave_one_out needs the references themselves as hypotheses")
        if leave_one_out and self.num_references < 2:
            raise ValueError("self-BLEU needs at least two sentences")
        lengths = sorted(self._lengths)
        rows = []
        for hypothesis in hypotheses:
            counts = count_ngrams(hypothesis, self.max_order)
            most = self._most
            if leave_one_out:
                most = {
                    ngram: self._most[ngram]
                    if number < self._most[ngram] or self._holders[ngram] > 1
                    else self._second[ngram]
                    for ngram, number in counts.items()
                }
            length = len(hypothesis)
            # With only one sentence of its own length, a left-out sentence has to look at the next lengths.
            alone = leave_one_out and self._lengths[length] == 1
            closest = _closest([n for n in lengths if n != length] if alone else lengths, length)
            row = _match(counts, most, self.max_order)
            rows.append([*row, *_totals(length, self.max_order), length, closest])
        return BleuCounts.from_rows(np.array(rows, dtype=np.int64).reshape(len(rows), 2 * self.max_order + 2))


def mean_sentence_bleu(
    hypotheses: Sequence[Tokens],
    references: Sequence[Tokens] | ReferenceIndex,
    *,
    max_order: int = 5,
    smoothing: Smoothing = "method1",
) -> BleuScore:
    """Mean BLEU of the hypotheses, each against all references: the quality axis of text-GAN papers.

    Equal to NLTK's `sentence_bleu` with `SmoothingFunction().method1`, averaged; in seconds instead of hours.
    """
    index = references if isinstance(references, ReferenceIndex) else ReferenceIndex(references, max_order=max_order)
    counts = index.count(hypotheses)
    return _mean_score(counts, smoothing, f"refs:{index.num_references} shared")


def self_bleu(sentences: Sequence[Tokens], *, max_order: int = 5, smoothing: Smoothing = "method1") -> BleuScore:
    """Mean BLEU of each sentence against all others: 1 where all are alike. The diversity axis of text-GAN papers."""
    counts = ReferenceIndex(sentences, max_order=max_order).count(sentences, leave_one_out=True)
    return _mean_score(counts, smoothing, f"refs:{len(sentences) - 1} others")


def _mean_score(counts: BleuCounts, smoothing: Smoothing, references: str) -> BleuScore:
    if not len(counts):
        raise ValueError("BLEU of no hypotheses was asked for")
    per_item_NK = bleu(counts, smoothing)
    orders = per_item_NK.shape[1]
    signature = (
        f"BLEU-{orders}|level:mean of {len(counts)} sentences|{references}|length:closest|smooth:{smoothing}"
        f"|rev:{_REVISION}"
    )
    return BleuScore(tuple(per_item_NK.mean(0).tolist()), per_item_NK, counts, smoothing, signature)


def _match(counts: dict[tuple[Hashable, ...], int], most: dict[tuple[Hashable, ...], int], max_order: int) -> list[int]:
    matches = [0] * max_order
    for ngram, number in counts.items():
        limit = most.get(ngram, 0)
        matches[len(ngram) - 1] += number if number < limit else limit
    return matches


def _totals(length: int, max_order: int) -> list[int]:
    return [max(0, length - order) for order in range(max_order)]


def _closest(lengths: Sequence[int], length: int) -> int:
    """The nearest of sorted lengths; of two, the shorter."""
    place = bisect_left(lengths, length)
    near = lengths[max(0, place - 1) : place + 1]
    return min(near, key=lambda n: (abs(n - length), n))


def _check_pairs(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> None:
    if len(candidates) != len(references):
        raise ValueError(f"{len(candidates)} candidates but references for {len(references)}")
    for index, own in enumerate(references):
        if isinstance(own, str) or not own:
            raise ValueError(f"candidate {index} needs a list of one or more tokenised references, got {own!r}")
