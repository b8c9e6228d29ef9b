"""Word error rate, character error rate and match error rate of transcripts, equal to jiwer's.

Shape suffixes: N = transcripts, F = statistics of a transcript.

References:
    Morris, Maier and Green 2004, "From WER and RIL to MER and WIL", Interspeech.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.metrics.bootstrap import BootstrapSettings, bootstrap_mean, bootstrap_sums
from core.metrics.edits import edit_distance, word_edits
from multimodal.metrics.scores import Scores

_REVISION = 1
_APOSTROPHES = str.maketrans("’ʼ＇", "'''")
# An apostrophe counts as a letter only between two of them.
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


@dataclass(frozen=True, kw_only=True)
class WordScores(Scores):
    """Scores of a list of transcripts; the keys are wer, cer, mer (lower is better) and exact_match.

    The rates of the corpus are edits over tokens of all transcripts together, not means of the rates of each.
    """

    edits: Mapping[str, NDArray[np.int64]]
    """hits, substitutions, deletions and insertions of words: arrays of N."""


def word_scores(
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    normalise: Callable[[str], str] | None = None,
    level: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> WordScores:
    """Score one transcript per item.

        WER = (S + D + I) / (H + S + D)        of words
        CER = the same of characters, the spaces between words counted
        MER = (S + D + I) / (H + S + D + I)    of words

    with hits H, substitutions S, deletions D and insertions I. A reference without words adds its insertions to the
    corpus; its own rates divide by 1.

    Args:
        hypotheses: N transcripts by the model. Mind the order: jiwer takes references first.
        references: one for each.
        normalise: applied to both before anything is counted, as `normalise_words`; None counts the texts as they
            stand (case and punctuation too), as jiwer does.
        level: of the confidence intervals.
        num_resamples: bootstrap resamples of the items.
        seed: of the bootstrap.

    Raises:
        ValueError: for no items, unequal numbers, several references for an item, or references without any word.
    """
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses but {len(references)} references")
    if not hypotheses:
        raise ValueError("error rates of no transcripts were asked for")
    for index, reference in enumerate(references):
        if not isinstance(reference, str):
            raise ValueError(
                f"error rates take one reference per item: item {index} has {reference!r}, choose one text"
            )
    clean = normalise or str.strip
    pairs = [(clean(reference), clean(hypothesis)) for reference, hypothesis in zip(references, hypotheses)]
    rows = []
    for reference, hypothesis in pairs:
        words, said = reference.split(), hypothesis.split()
        rows.append([*word_edits(words, said), edit_distance(reference, hypothesis), len(reference), words == said])
    statistics_NF = np.array(rows, dtype=np.int64)
    if not statistics_NF[:, :3].sum():
        raise ValueError("error rates need references with words: all are empty, or become so when normalised")
    settings: BootstrapSettings = {"level": level, "num_resamples": num_resamples, "seed": seed}
    hits_N, substitutions_N, deletions_N, insertions_N = statistics_NF[:, :4].T
    exact_N = statistics_NF[:, 6].astype(np.float64)
    rates = {"wer": _word_error_rate, "cer": _character_error_rate, "mer": _match_error_rate}
    return WordScores(
        per_item={name: rate(statistics_NF) for name, rate in rates.items()} | {"exact_match": exact_N},
        intervals={name: bootstrap_sums(statistics_NF, rate, **settings) for name, rate in rates.items()}
        | {"exact_match": bootstrap_mean(exact_N, **settings)},
        edits={
            "hits": hits_N,
            "substitutions": substitutions_N,
            "deletions": deletions_N,
            "insertions": insertions_N,
        },
        signature=(
            f"words:split at spaces|characters:with spaces|norm:{getattr(normalise, '__qualname__', repr(normalise))}"
            f"|rev:{_REVISION}"
        ),
    )


def normalise_words(text: str) -> str:
    """Lower case, words apart by single spaces, no punctuation.

    A word is a run of letters and digits of any script, with apostrophes inside ("don't"; curly ones become straight).
    All else separates words: "Twenty-one, e.g. 3.5" becomes "twenty one e g 3 5". Numbers are not spelt out and British
    and American spellings stay apart.
    """
    return " ".join(_WORD.findall(text.translate(_APOSTROPHES).lower()))


def _word_error_rate(sums_NF: NDArray) -> NDArray[np.float64]:
    hits, substitutions, deletions, insertions = sums_NF[:, :4].T
    return (substitutions + deletions + insertions) / np.maximum(hits + substitutions + deletions, 1)


def _match_error_rate(sums_NF: NDArray) -> NDArray[np.float64]:
    hits, substitutions, deletions, insertions = sums_NF[:, :4].T
    wrong = substitutions + deletions + insertions
    return wrong / np.maximum(hits + wrong, 1)


def _character_error_rate(sums_NF: NDArray) -> NDArray[np.float64]:
    return sums_NF[:, 4] / np.maximum(sums_NF[:, 5], 1)
