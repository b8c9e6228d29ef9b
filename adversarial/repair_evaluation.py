"""How well sentences are repaired, beside what nobody can do better and what needs no model."""

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from adversarial.corpus import Corpus
from adversarial.evaluation import as_row
from adversarial.generator import Generator
from adversarial.oracle import Oracle
from adversarial.repair import GAP, Candidate, Channel, Repairer
from core.metrics.bootstrap import bootstrap_mean, bootstrap_sums
from core.metrics.edits import edit_distance


@dataclass(frozen=True)
class Damaged:
    """Sentences before and after damage."""

    meant: list[list[int]]
    observed: list[list[int]]
    channel: Channel

    @classmethod
    def of(cls, sentences: Sequence[list[int]], channel: Channel, *, gaps: int, seed: int) -> "Damaged":
        """Damage each sentence; those that came out whole are left out."""
        rng = random.Random(seed)
        pairs = [(meant, channel.damage(meant, rng, gaps=gaps)) for meant in sentences]
        hurt = [(meant, seen) for meant, seen in pairs if meant != seen]
        if not hurt:
            raise ValueError("no sentence was damaged: give more gaps, more noise or more sentences")
        return cls([meant for meant, _ in hurt], [seen for _, seen in hurt], channel)


def repair_rows(
    corpus: Corpus,
    judged: Repairer,
    start: Generator | None,
    *,
    sentences: int,
    gaps: int,
    noise: float,
    seed: int,
) -> list[dict[str, Any]]:
    """Damage held-out sentences, and score how they are repaired with and without the discriminator and by others.

    Args:
        corpus: the run's text, and its oracle if it has one.
        judged: generator and discriminator.
        start: the generator after MLE.
        sentences: how many.
        gaps: words taken out of each.
        noise: probability of every other word to be replaced.
        seed: of the damage.
    """
    plain = replace(judged, verdict=None)
    damaged = Damaged.of(corpus.encode(corpus.held_out[:sentences]), Channel(judged.words, noise), gaps=gaps, seed=seed)
    everything = gaps == 1 and not noise and judged.width >= len(judged.words)
    truth = None
    if corpus.oracle is not None:
        truth = Truth(corpus.oracle, repaired_by(replace(plain, model=corpus.oracle.network), damaged))
    found = {"generator and discriminator": repaired_by(judged, damaged), "generator": repaired_by(plain, damaged)}
    if start is not None:
        found["MLE start"] = repaired_by(replace(plain, model=start), damaged)
    rows = [repair_row(name, damaged, some, everything=everything, truth=truth) for name, some in found.items()]
    if truth is not None:
        rows.append(repair_row("oracle (ceiling)", damaged, truth.found, everything=everything, truth=truth))
    floor = commonest_word(damaged, corpus.encode(corpus.train))
    return [*rows, repair_row("commonest word (floor)", damaged, floor, everything=False, truth=truth)]


def repaired_by(repairer: Repairer, damaged: Damaged) -> list[list[Candidate]]:
    """The candidates for each damaged sentence."""
    return [repairer.repair(seen, damaged.channel) for seen in damaged.observed]


def commonest_word(damaged: Damaged, training: Sequence[list[int]]) -> list[list[Candidate]]:
    """The floor: every gap is filled with the commonest word, and wrong words are left."""
    words = set(damaged.channel.words)
    counts = Counter(token for row in training for token in row if token in words)
    common = counts.most_common(1)[0][0]
    return [[Candidate([common if token == GAP else token for token in seen], 0.0)] for seen in damaged.observed]


@dataclass(frozen=True)
class Truth:
    """What the oracle makes of damaged sentences."""

    oracle: Oracle
    found: Sequence[Sequence[Candidate]]

    def logprobs(self, answers: Sequence[list[int]], damaged: Damaged) -> list[float]:
        """log p(x) + log p(y | x) of answers x, in nats."""
        text_N = -self.oracle.nll(torch.tensor(answers)) * self.oracle.length
        size, cpu = self.oracle.vocab_size, torch.device("cpu")
        return [
            float(text)
            + sum(float(damaged.channel.logprobs(shown, size, cpu)[own]) for own, shown in zip(answer, seen))
            for text, answer, seen in zip(text_N, answers, damaged.observed)
        ]


def repair_row(
    name: str,
    damaged: Damaged,
    found: Sequence[Sequence[Candidate]],
    *,
    everything: bool,
    truth: Truth | None,
) -> dict[str, Any]:
    """Scores of repaired sentences, with 95 % intervals over sentences.

    | score | of | better |
    |---|---|---|
    | exact | sentences that are entirely as they were meant | 1 |
    | restored | damaged words that were put right | 1 |
    | harmed | words that were right and were changed | 0 |
    | edits | edits from the repaired sentence to the one that was meant, words, mean | 0 |
    | nll | -log p of the right words given the others, nats a damaged word (one gap, every word tried) | low |
    | nll_gap | of that above the true posterior's (with an oracle) | 0 |
    | regret | how much likelier the oracle's own answer is than this one, nats a sentence (with an oracle) | 0 |

    Args:
        name: of the row.
        damaged: what was repaired.
        found: candidates for each sentence, best first.
        everything: whether the candidates are all there are, so that they add up to the whole posterior.
        truth: what the oracle would do.
    """
    exact, edits, words_N4 = [], [], []
    for meant, seen, candidates in zip(damaged.meant, damaged.observed, found):
        best = candidates[0].tokens
        exact.append(float(best == meant))
        edits.append(float(edit_distance(best, meant)))
        hurt = [right != shown for right, shown in zip(meant, seen)]
        right = [own == wanted for own, wanted in zip(best, meant)]
        words_N4.append(
            [
                float(sum(ok for ok, was in zip(right, hurt) if was)), float(sum(hurt)),
                float(sum(not ok for ok, was in zip(right, hurt) if not was)), float(len(hurt) - sum(hurt)),
            ]
        )  # fmt: skip
    scores: dict[str, Any] = {
        "exact": bootstrap_mean(exact),
        "restored": bootstrap_sums(words_N4, lambda sums_R4: sums_R4[:, 0] / sums_R4[:, 1]),
        "edits": bootstrap_mean(edits),
    }
    if damaged.channel.noise:
        scores["harmed"] = bootstrap_sums(words_N4, lambda sums_R4: sums_R4[:, 2] / sums_R4[:, 3].clip(1))
    if everything:
        nlls = [-share_of(candidates, meant) for candidates, meant in zip(found, damaged.meant)]
        scores["nll"] = bootstrap_mean(nlls)
        if truth is not None:
            least = [-share_of(candidates, meant) for candidates, meant in zip(truth.found, damaged.meant)]
            scores["nll_gap"] = bootstrap_mean([nll - lowest for nll, lowest in zip(nlls, least)])
    if truth is not None:
        most, ours = (
            truth.logprobs([candidates[0].tokens for candidates in some], damaged) for some in (truth.found, found)
        )
        scores["regret"] = bootstrap_mean([high - own for high, own in zip(most, ours)])
    return as_row(name, scores)


def share_of(candidates: Sequence[Candidate], meant: list[int]) -> float:
    """log of the share that one sentence has of all candidates' probability; -inf where it is none of them."""
    most = max(candidate.logprob for candidate in candidates)
    total = most + math.log(sum(math.exp(candidate.logprob - most) for candidate in candidates))
    own = [candidate.logprob for candidate in candidates if candidate.tokens == meant]
    return own[0] - total if own else -math.inf
