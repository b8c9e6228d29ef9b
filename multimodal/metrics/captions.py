"""Caption scores without Java: BLEU-1..4, METEOR, ROUGE-L, CIDEr-D and exact match, of a corpus and of every caption.

Equal to pycocoevalcap on the same tokens, save METEOR, which has exact and stem matches only: see
`multimodal.metrics.meteor`. Shape suffix: N = captions.

References:
    Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", ACL workshop Text Summarization Branches Out.
    Vedantam, Zitnick and Parikh 2015, "CIDEr: Consensus-based Image Description Evaluation", arXiv:1411.5726.
    Chen et al. 2015, "Microsoft COCO Captions: Data Collection and Evaluation Server", arXiv:1504.00325.
    Liu et al. 2017, "Improved Image Captioning via Policy Gradient Optimization of SPIDEr", arXiv:1612.00370.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.metrics.bleu import corpus_bleu, corpus_bleu_interval
from core.metrics.bootstrap import BootstrapSettings, bootstrap_mean
from core.metrics.ngrams import Tokens, count_ngrams, ngrams
from core.text.treebank import word_tokenize
from multimodal.metrics.meteor import meteor_exact_stem
from multimodal.metrics.scores import Scores

_REVISION = 2
_ROUGE_BETA = 1.2
_CIDER_ORDERS = 4
_CIDER_SIGMA = 6.0
_PUNCTUATION = frozenset((".", ",", "!", "?", ":", ";", "--", "-", "...", "''", "``", "'", "`"))

Ngram = tuple[Hashable, ...]


class CaptionScores(Scores):
    """Scores of a list of captions; the keys are bleu_1 … bleu_4, meteor, rouge_l, cider_d and exact_match.

    CIDEr-D goes from 0 to 10, the others from 0 to 1. BLEU and METEOR of the corpus are not the means of those of its
    captions, the others are. In the intervals the document frequencies of CIDEr-D stay those of the whole corpus.
    """


def caption_words(text: str) -> list[str]:
    """Lower-case words by Treebank's rules, without punctuation: how published figures of captions are made.

    As in the COCO evaluation, brackets stay. Its Java tokenizer differs in rare cases only, such as abbreviations.
    """
    return [word for word in word_tokenize(text.lower()) if word not in _PUNCTUATION]


def caption_scores(
    candidates: Sequence[str],
    references: Sequence[Sequence[str] | str],
    *,
    tokenise: Callable[[str], Sequence[str]] = str.split,
    cider: "CiderD | None" = None,
    level: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> CaptionScores:
    """Score one caption per picture.

    Args:
        candidates: N captions.
        references: for each picture its reference, or a list of one or more.
        tokenise: from a text to its words. Lower-casing and punctuation are up to it; the default splits at spaces.
        cider: where document frequencies come from; by default these references.
        level: of the confidence intervals.
        num_resamples: bootstrap resamples.
        seed: of the bootstrap.
    """
    lists = [[own] if isinstance(own, str) else list(own) for own in references]
    tokens = [list(tokenise(candidate)) for candidate in candidates]
    tokens_of_references = [[list(tokenise(reference)) for reference in own] for own in lists]
    bleu = corpus_bleu(tokens, tokens_of_references)
    cider = cider or CiderD(tokens_of_references)
    per_item = {f"bleu_{order}": bleu.per_item_NK[:, order - 1] for order in (1, 2, 3, 4)}
    meteor = meteor_exact_stem(tokens, tokens_of_references)
    per_item["meteor"] = meteor.per_item_N
    per_item["rouge_l"] = np.array([rouge_l(*pair) for pair in zip(tokens, tokens_of_references)])
    per_item["cider_d"] = cider.scores(tokens, tokens_of_references)
    per_item["exact_match"] = np.array([float(own in refs) for own, refs in zip(tokens, tokens_of_references)])
    settings: BootstrapSettings = {"level": level, "num_resamples": num_resamples, "seed": seed}
    intervals = {f"bleu_{order}": corpus_bleu_interval(bleu, order, **settings) for order in (1, 2, 3, 4)}
    intervals["meteor"] = meteor.interval(**settings)
    for name in ("rouge_l", "cider_d", "exact_match"):
        intervals[name] = bootstrap_mean(per_item[name], **settings)
    return CaptionScores(
        per_item=per_item,
        intervals=intervals,
        signature=(
            f"{bleu.signature}|{meteor.signature}|rouge:L beta {_ROUGE_BETA}"
            f"|cider:D sigma {_CIDER_SIGMA:g} x10 {cider.signature}"
            f"|tok:{getattr(tokenise, '__qualname__', repr(tokenise))}|rev:{_REVISION}"
        ),
    )


def spider(cider_d_N: ArrayLike, spice_N: ArrayLike | None) -> NDArray[np.float64]:
    """SPIDEr of each caption: the mean of its CIDEr-D and its SPICE, the common score of audio captioning.

    SPICE is not computed here: it parses captions with Stanford CoreNLP, a Java program that is not shipped. Run it
    yourself (pycocoevalcap, aac-metrics) and give its numbers.

    Args:
        cider_d_N: `CaptionScores.per_item["cider_d"]`, from 0 to 10: audio captioning papers use that scale.
        spice_N: of the same captions in the same order, from 0 to 1.

    Returns:
        spider_N; its mean is the score of the corpus.

    Raises:
        ValueError: without SPICE values, or where their number differs.
    """
    if spice_N is None:
        raise ValueError(
            "SPIDEr needs the SPICE value of every caption, which takes Stanford CoreNLP and is not computed here: "
            "run SPICE elsewhere, as with pycocoevalcap, and pass its numbers"
        )
    cider_d_N, spice_N = np.asarray(cider_d_N, dtype=np.float64), np.asarray(spice_N, dtype=np.float64)
    if cider_d_N.ndim != 1 or cider_d_N.shape != spice_N.shape:
        raise ValueError(
            f"SPIDEr needs one CIDEr-D and one SPICE value per caption, got {cider_d_N.shape} and {spice_N.shape}"
        )
    return (cider_d_N + spice_N) / 2


def rouge_l(candidate: Tokens, references: Sequence[Tokens], *, beta: float = _ROUGE_BETA) -> float:
    """ROUGE-L: F-measure of the longest common subsequence, in [0, 1].

    Precision and recall are the best ones over the references, not necessarily of the same reference, as in the COCO
    evaluation. An empty candidate scores 0.
    """
    if not references:
        raise ValueError("ROUGE-L needs at least one reference")
    if not candidate:
        return 0.0
    common = [longest_common_subsequence(candidate, reference) for reference in references]
    precision = max(common) / len(candidate)
    recall = max(length / len(reference) if reference else 0.0 for length, reference in zip(common, references))
    if precision == 0 or recall == 0:
        return 0.0
    return (1 + beta**2) * precision * recall / (recall + beta**2 * precision)


def longest_common_subsequence(first: Tokens, second: Tokens) -> int:
    """Length of the longest common subsequence, with the columns of the table as bits of one integer.

    References:
        Hyyrö 2004, "Bit-Parallel LCS-length Computation Revisited", AWOCA.
    """
    places: dict[Hashable, int] = {}
    for place, token in enumerate(first):
        places[token] = places.get(token, 0) | 1 << place
    # A zero at bit i says that the subsequence grows by one when the i-th token of `first` becomes available.
    row = full = (1 << len(first)) - 1
    for token in second:
        matched = row & places.get(token, 0)
        row = ((row + matched) | (row - matched)) & full
    return len(first) - row.bit_count()


@dataclass(frozen=True)
class _Vector:
    """A caption as TF-IDF weights of its n-grams."""

    weights: dict[Ngram, float]
    norms: list[float]
    """One per order."""
    length: int
    """Bigrams of the caption: what the published code takes as its length."""


class CiderD:
    """CIDEr-D: cosine similarity of TF-IDF n-gram vectors, clipped, with a penalty on the length; 0 to 10.

    Score a caption as often as you like against document frequencies taken once, for example those of the training
    captions when it serves as a reward.

    CIDEr-D = 10/4 * sum over n of the mean over references of
        exp(-(l_c - l_r)^2 / (2 sigma^2)) * sum_w min(g_c(w), g_r(w)) * g_r(w) / (|g_c| |g_r|)
    with g(w) = count(w) * (log pictures - log max(1, pictures with w)). With a single picture every weight is 0.
    """

    def __init__(self, corpus: Sequence[Sequence[Tokens]], *, sigma: float = _CIDER_SIGMA) -> None:
        """
        Args:
            corpus: for each picture its tokenised references; an n-gram's document frequency is the number of pictures
                that have it in any reference.
            sigma: width of the length penalty, in words.
        """
        if not corpus:
            raise ValueError("CIDEr-D needs a corpus for its document frequencies")
        self.sigma = sigma
        self.num_documents = len(corpus)
        frequencies: Counter[Ngram] = Counter()
        for references in corpus:
            seen: set[Ngram] = set()
            for reference in references:
                for order in range(1, _CIDER_ORDERS + 1):
                    seen.update(ngrams(reference, order))
            frequencies.update(seen)
        logarithm = math.log(len(corpus))
        self._unseen = logarithm
        # An n-gram of one picture weighs as much as one of none: most are left out, which makes look-ups much faster.
        self._idf = {ngram: logarithm - math.log(number) for ngram, number in frequencies.items() if number > 1}

    @property
    def signature(self) -> str:
        """Where the document frequencies come from."""
        return f"df:{self.num_documents} pictures"

    def scores(self, candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> NDArray[np.float64]:
        """CIDEr-D of each candidate against its references: scores_N in [0, 10]."""
        if len(candidates) != len(references):
            raise ValueError(f"{len(candidates)} candidates but references for {len(references)}")
        return np.array([self.score(*pair) for pair in zip(candidates, references)], dtype=np.float64)

    def score(self, candidate: Tokens, references: Sequence[Tokens]) -> float:
        """CIDEr-D of one candidate."""
        if not references:
            raise ValueError("CIDEr-D needs at least one reference")
        vector = self._vector(candidate)
        total = sum(self._similarity(vector, self._vector(reference)) for reference in references)
        return 10 * total / (_CIDER_ORDERS * len(references))

    def _vector(self, tokens: Tokens) -> _Vector:
        weights = {}
        squares = [0.0] * _CIDER_ORDERS
        idf, unseen = self._idf, self._unseen
        for ngram, number in count_ngrams(tokens, _CIDER_ORDERS).items():
            weights[ngram] = weight = number * idf.get(ngram, unseen)
            squares[len(ngram) - 1] += weight * weight
        return _Vector(weights, [math.sqrt(square) for square in squares], max(0, len(tokens) - 1))

    def _similarity(self, candidate: _Vector, reference: _Vector) -> float:
        """The sum over the orders."""
        products = [0.0] * _CIDER_ORDERS
        for ngram, weight in candidate.weights.items():
            other = reference.weights.get(ngram)
            if other is not None:
                products[len(ngram) - 1] += min(weight, other) * other
        total = 0.0
        for product, norm, other_norm in zip(products, candidate.norms, reference.norms):
            if norm != 0 and other_norm != 0:
                total += product / (norm * other_norm)
        return total * math.exp(-((candidate.length - reference.length) ** 2) / (2 * self.sigma**2))
