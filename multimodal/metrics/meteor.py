"""METEOR of English captions without Java: exact and stem matches, and what that leaves out.

Shape suffixes: N = captions (or resamples of them), F = sufficient statistics of a caption.

The formula, the alignment and the weights are those of METEOR 1.5 for English (alpha 0.85, beta 0.2, gamma 0.6, delta
0.75; 1.0 for an exact match, 0.6 for a match of stems). It differs from the Java program in five ways:

    - No synonyms (WordNet) and no paraphrases (a table), which the program uses by default. So these scores are lower
      wherever a caption says the same in other words; call them "METEOR, exact and stem".
    - The function words, which count a third of a content word, are a list of our own, `FUNCTION_WORDS`.
    - Words are what `candidates` and `references` hold: the program also lower-cases, and splits off punctuation.
    - Where a word could be joined to several words of equal stem, the program gives half a point to a match of stems
      but adds it up in integers, so that it mostly leaves such words alone; here they are joined, as it was meant.
    - The stemmer is Snowball's English one in its present version; a few rare words had other stems in 2014.

Given the program's function words, captions without the case of the fourth point score as with
`java -jar meteor-1.5.jar … -m "exact stem" -w "1.0 0.6"`, corpus and caption alike; a test compares them. (Of 1,000
made-up captions full of repeated words 2 scored higher here: the program's search had missed the fewest chunks.)

References:
    Denkowski and Lavie 2014, "Meteor Universal: Language Specific Translation Evaluation for Any Target Language", WMT.
    Banerjee and Lavie 2005, "METEOR: An Automatic Metric for MT Evaluation with Improved Correlation with Human
    Judgments", ACL workshop.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import snowballstemmer
from numpy.typing import NDArray

from core.metrics.bootstrap import Interval, bootstrap_sums

_REVISION = 1
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_STEM_WEIGHT = 0.6
_BEAM = 40
_NOWHERE = -2

_ARTICLES = "a an the"
_PREPOSITIONS = "of in to for on with at by from as into"
_CONJUNCTIONS = "and or but that if than"
_AUXILIARIES = "am is are was were be been being has have had do does did will would can could may not 's n't"
_PRONOUNS = "i you he she it we they him her them my your his its our their this these those which who there"
_PUNCTUATION = ". , : ; ! ? ' \" ` `` '' ( ) [ ] - -- ... /"

FUNCTION_WORDS: frozenset[str] = frozenset(
    " ".join([_ARTICLES, _PREPOSITIONS, _CONJUNCTIONS, _AUXILIARIES, _PRONOUNS, _PUNCTUATION]).split()
)
"""Words that carry grammar more than content, written for this suite: English articles, auxiliaries, pronouns, the
commonest prepositions and conjunctions, punctuation. Prepositions that place things ("above", "behind", "near") are
left out on purpose: a caption that gets them wrong is wrong."""


@dataclass(frozen=True)
class MeteorScore:
    """METEOR (exact and stem matches) of a list of captions."""

    value: float
    """Of the corpus: the statistics of all captions added up, as the Java program does; not the mean of the items."""
    per_item_N: NDArray[np.float64]
    """Of each caption alone, against the reference that scores highest."""
    statistics_NF: NDArray[np.float64]
    """What the score depends on, of each caption and that reference; may be added up."""
    signature: str
    """All choices that change the number."""

    def interval(self, *, level: float = 0.95, num_resamples: int = 1000, seed: int = 0) -> Interval:
        """Bootstrap confidence interval of the corpus score: captions are drawn, their statistics added up."""
        return bootstrap_sums(self.statistics_NF, _score, level=level, num_resamples=num_resamples, seed=seed)


class Match(NamedTuple):
    """Two words that an alignment joins."""

    candidate: int
    """Place of the word in the candidate."""
    reference: int
    """Place of the word in the reference."""


def meteor_exact_stem(
    candidates: Sequence[Sequence[str]],
    references: Sequence[Sequence[Sequence[str]]],
    *,
    function_words: Set[str] = FUNCTION_WORDS,
) -> MeteorScore:
    """METEOR with exact and stem matches.

    With m the matches, each weighted by its matcher (1.0 or 0.6) and by its word (delta for content, 1 - delta for
    function words), P = m / candidate length and R = m / reference length with lengths weighted by word alike:

        METEOR = P R / (alpha P + (1 - alpha) R) * (1 - gamma (chunks / matched words)^beta)

    A chunk is a run of matches that is contiguous in both; where one chunk covers both completely there is no penalty.

    Args:
        candidates: N tokenised captions, lower-cased if case is not to matter.
        references: for each candidate one or more tokenised references.
        function_words: counted a third of the others.

    Raises:
        ValueError: for no candidates, a number of references that differs, or a candidate without one.
    """
    if not candidates:
        raise ValueError("METEOR of no candidates was asked for")
    if len(candidates) != len(references):
        raise ValueError(f"{len(candidates)} candidates but references for {len(references)}")
    for index, own in enumerate(references):
        if isinstance(own, str) or not own:
            raise ValueError(f"candidate {index} needs a list of one or more tokenised references, got {own!r}")
    stems = _stems([*candidates, *(reference for own in references for reference in own)])
    rows, owners = [], []
    for index, (candidate, own) in enumerate(zip(candidates, references)):
        rows += [_statistics(candidate, reference, stems, function_words) for reference in own]
        owners += [index] * len(own)
    statistics_MF = np.array(rows, dtype=np.float64)
    scores_M = _score(statistics_MF)
    # Of equal scores the first reference, as in the program: it decides what the corpus score adds up.
    best = [0] * len(candidates)
    highest = [-1.0] * len(candidates)
    for row, (owner, score) in enumerate(zip(owners, scores_M.tolist())):
        if score > highest[owner]:
            best[owner], highest[owner] = row, score
    statistics_NF = statistics_MF[best]
    words = "own" if function_words is FUNCTION_WORDS else "given"
    return MeteorScore(
        value=float(_score(statistics_NF.sum(0, keepdims=True))[0]),
        per_item_N=scores_M[best],
        statistics_NF=statistics_NF,
        signature=(
            f"METEOR-1.5|match:exact+stem, no synonyms, no paraphrases|function words:{words}"
            f"|a {_ALPHA} b {_BETA} g {_GAMMA} d {_DELTA}|rev:{_REVISION}"
        ),
    )


def align(candidate: Sequence[str], reference: Sequence[str], stems: Mapping[str, str]) -> list[Match]:
    """The alignment that METEOR scores: each word joined to at most one equal word, or word of equal stem.

    Of all alignments one with, in this order: most words covered (exact matches count 1, stems half), fewest chunks,
    smallest sum of distances between joined places. Exact unless the words of a caption repeat so often that more than
    40 unfinished alignments compete, of which the best 40 are kept, as in the program.

    Args:
        candidate: tokens of the caption.
        reference: tokens of the reference.
        stems: of every token of both.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for place, token in enumerate(reference):
        places[stems[token]].append(place)
    kinds = [stems[token] for token in candidate]
    # As many words of a kind are joined as the sentence that has fewer allows: no order of preference asks for less. So
    # coverage is highest where fewest matches are of stems, and only surplus words of the candidate stay alone.
    seen = dict.fromkeys(kinds, 0)
    masks = {kind: sum(1 << place for place in places[kind]) for kind in seen if kind in places}
    surplus = {kind: kinds.count(kind) - len(places[kind]) for kind in masks}
    paths = [_Path((0, 0, 0), 0, _NOWHERE, None)]
    for index, (token, kind) in enumerate(zip(candidate, kinds)):
        if kind not in masks:
            paths = [path._replace(last=_NOWHERE) for path in paths]
            continue
        best: dict[tuple[int, int], _Path] = {}
        for path in paths:
            (stem_matches, chunks, distance), taken, last, matches = path
            options = [
                _Path(
                    (
                        stem_matches + (reference[place] != token),
                        chunks + (place != last + 1),
                        distance + abs(place - index),
                    ),
                    taken | 1 << place,
                    place,
                    (matches, Match(index, place)),
                )
                for place in places[kind]
                if not taken >> place & 1
            ]
            if seen[kind] - (taken & masks[kind]).bit_count() < surplus[kind]:
                options.append(path._replace(last=_NOWHERE))
            for option in options:
                key = option.taken, option.last
                if key not in best or option.cost < best[key].cost:
                    best[key] = option
        seen[kind] += 1
        paths = sorted(best.values(), key=_cost)[:_BEAM]
    alignment = []
    linked = min(paths, key=_cost).matches
    while linked is not None:
        linked, match = linked
        alignment.append(match)
    return alignment[::-1]


class _Path(NamedTuple):
    """An alignment of the first words of a candidate."""

    cost: tuple[int, int, int]
    """Stem matches, chunks, distance."""
    taken: int
    """Places of the reference already joined, as bits."""
    last: int
    """Where in the reference the previous word was joined, `_NOWHERE` if it stays alone."""
    matches: tuple | None
    """A linked list: what came before, and the newest `Match`."""


def _cost(path: _Path) -> tuple[int, int, int]:
    return path.cost


def _stems(sentences: Sequence[Sequence[str]]) -> dict[str, str]:
    words = sorted({word for sentence in sentences for word in sentence})
    return dict(zip(words, snowballstemmer.stemmer("english").stemWords(words)))


def _statistics(
    candidate: Sequence[str], reference: Sequence[str], stems: Mapping[str, str], function_words: Set[str]
) -> list[float]:
    """The F = 6 numbers of which `_score` is a function, after they are added up."""
    own = [1 - _DELTA if word in function_words else _DELTA for word in candidate]
    other = [1 - _DELTA if word in function_words else _DELTA for word in reference]
    alignment = align(candidate, reference, stems)
    matched_own = matched_other = 0.0
    chunks, last = 0, Match(-2, -2)
    for match in alignment:
        weight = 1.0 if candidate[match.candidate] == reference[match.reference] else _STEM_WEIGHT
        matched_own += weight * own[match.candidate]
        matched_other += weight * other[match.reference]
        chunks += match != (last.candidate + 1, last.reference + 1)
        last = match
    if chunks == 1 and len(alignment) == len(candidate) == len(reference):
        # The program neither punishes a caption matched throughout nor counts its chunk in the corpus.
        chunks = 0
    return [matched_own, sum(own), matched_other, sum(other), len(alignment), chunks]


def _score(sums_NF: NDArray[np.float64]) -> NDArray[np.float64]:
    """METEOR of each row of summed statistics: scores_N."""
    matched_own, own, matched_other, other, matches, chunks = sums_NF.T
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = matched_own / own, matched_other / other
        mean = 1 / ((1 - _ALPHA) / precision + _ALPHA / recall)
        return np.nan_to_num(mean * (1 - _GAMMA * (chunks / matches) ** _BETA), nan=0.0)
