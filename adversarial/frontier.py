"""Quality against diversity over temperatures: the curve on which generators are compared, not at one point of it.

With an oracle the axes are NLL_oracle, of generated sequences under the oracle (quality), and NLL_test, of held-out
sequences under the generator (diversity: it rises when anything real is forgotten). Both are always of the same
generator at the same setting; a lower temperature buys the first with the second. Without an oracle they are
self-BLEU-5 of the generated sentences and their BLEU-5 against all held-out ones.

Shape suffixes: N = sequences, L = tokens, V = vocabulary, A = temperatures.

References:
    Caccia et al. 2020, "Language GANs Falling Short", arXiv:1811.02549.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adversarial.generator import Generator, Sentences, draw_samples, evaluating, next_token_logits, token_losses
from adversarial.oracle import START, Oracle
from core.sampling import Sampling

INVERSE_TEMPERATURES = (0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0, 2.1, 2.2, 2.3, 2.4, 2.6, 2.8)
"""Factors of the logits."""
EXPONENTS = (0.05, 0.1, 0.15, 0.2, 0.25)
"""Of the sequence's probability in rejection."""
Texts = Sequence[str]
_AT_ONCE = 1000


@dataclass(frozen=True)
class Point:
    """A generator at one setting."""

    setting: str
    x: float
    """NLL_oracle, self-BLEU-5 or coverage."""
    y: float
    """NLL_test, BLEU-5 or the share of valid sentences."""


@dataclass(frozen=True)
class Frontier:
    """Curves of several generators over the same axes, and all that fixes the numbers."""

    axes: tuple[str, str]
    curves: Mapping[str, Sequence[Point]]
    signature: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@torch.no_grad()
def temperature_points(
    model: Generator,
    oracle: Oracle,
    held_out_NL: Tensor,
    *,
    factors: Sequence[float] = INVERSE_TEMPERATURES,
    samples: int = 10_000,
    seed: int = 0,
) -> list[Point]:
    """A point for each factor of the logits; all draw with the same random numbers.

    Args:
        model: the generator.
        oracle: scores what it generates.
        held_out_NL: sequences of the oracle that the generator has not seen.
        factors: of the logits, 1 / temperature.
        samples: sequences generated for each.
        seed: of the random numbers.
    """
    tests_A = held_out_nll(model, held_out_NL, factors)
    points = []
    for factor, test in zip(factors, tests_A.tolist()):
        drawn_NL, _ = draw_sequences(model, samples, oracle.length, factor=factor, seed=seed)
        points.append(Point(f"temperature 1/{factor:g}", float(oracle.nll(drawn_NL).mean()), test))
    return points


def text_points(
    generate: Callable[[float], Texts],
    measure: Callable[[float, Texts], tuple[float, float]],
    *,
    factors: Sequence[float] = INVERSE_TEMPERATURES,
) -> list[Point]:
    """A point for each factor of the logits, where no oracle is.

    Args:
        generate: from a factor to generated sentences.
        measure: from a factor and what was generated with it to x and y.
        factors: of the logits, 1 / temperature.
    """
    return [Point(f"temperature 1/{factor:g}", *measure(factor, generate(factor))) for factor in factors]


@torch.no_grad()
def rejection_points(
    model: Generator,
    oracle: Oracle,
    held_out_NL: Tensor,
    *,
    exponents: Sequence[float] = EXPONENTS,
    samples: int = 10_000,
    proposals: int | None = None,
    seed: int = 0,
) -> list[Point]:
    """The same for rejection by the generator's own likelihood, the other way to trade diversity for quality.

    A sequence is kept with probability a(x) = min(1, (p(x) / c)^b), with c the 99.9th percentile of p(x) among the
    proposals. What is kept has exactly the density p(x) a(x) / Z, with Z the mean of a, so that NLL_test is as exact
    as for a temperature. Rejection below a threshold would give held-out sequences probability 0.

    Args:
        model, oracle, held_out_NL, samples, seed: as in `temperature_points`.
        exponents: b; 0 keeps everything.
        proposals: sequences generated at temperature 1, by default 4 * `samples`. An exponent that keeps fewer than
            `samples` / 10 of them is left out: its Z would be too uncertain.
    """
    proposals = proposals or 4 * samples
    drawn_NL, own_N = draw_sequences(model, proposals, oracle.length, seed=seed)
    own_N = own_N.double()
    ceiling = float(own_N.quantile(0.999))
    judged_N = oracle.nll(drawn_NL).double()
    test_N = -sequence_logprobs(model, held_out_NL).double()
    points = []
    for exponent in exponents:
        keep_N = (exponent * (own_N - ceiling)).clamp(max=0).exp()
        total = float(keep_N.sum())
        if total < samples / 10:
            continue
        # Weighting the proposals by a(x) has the expectation of the sequences that a draw would keep, and less noise.
        quality = float((keep_N * judged_N).sum() / total)
        accepted_N = (exponent * (-test_N - ceiling)).clamp(max=0)
        test = float((test_N - accepted_N).mean() + math.log(total / proposals)) / oracle.length
        points.append(Point(f"rejection {exponent:g}", quality, test))
    return points


@torch.no_grad()
def draw_sequences(
    model: Generator, count: int, length: int, *, factor: float = 1.0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Sequences of an oracle's form and their log-probabilities: (tokens_NL, logprob_N in nats, summed over tokens)."""
    device = next(iter(model.parameters())).device
    tokens, logprobs = [], []
    for start in range(0, count, _AT_ONCE):
        source = torch.Generator(device).manual_seed(seed * 1_000_003 + start)
        drawn = draw_samples(
            model, min(_AT_ONCE, count - start), max_tokens=length, bos_id=START, eos_id=None,
            sampling=Sampling(temperature=1 / factor), generator=source,
        )  # fmt: skip
        tokens.append(drawn.tokens_BT.cpu())
        logprobs.append(drawn.logprobs_BT.sum(1).cpu())
    return torch.cat(tokens), torch.cat(logprobs)


@torch.no_grad()
def held_out_nll(model: Generator, held_out_NL: Tensor, factors: Sequence[float] = (1.0,)) -> Tensor:
    """nll_A in nats a token: of the held-out sequences under the generator with its logits times each factor."""
    sums_A = torch.zeros(len(factors), dtype=torch.float64)
    for batch in _batches(model, held_out_NL):
        part_NL, logits_NLV = batch.tokens_BT, next_token_logits(model, batch, START).float()
        chosen_NL = logits_NLV.gather(-1, part_NL[..., None]).squeeze(-1)
        for index, factor in enumerate(factors):
            sums_A[index] += float((torch.logsumexp(logits_NLV * factor, -1) - factor * chosen_NL).sum())
    return sums_A / held_out_NL.numel()


@torch.no_grad()
def sequence_logprobs(model: Generator, tokens_NL: Tensor) -> Tensor:
    """logprob_N of sequences under the generator, summed over tokens."""
    return torch.cat([-token_losses(model, batch, START).sum(1).cpu() for batch in _batches(model, tokens_NL)])


def _batches(model: Generator, tokens_NL: Tensor) -> Iterator[Sentences]:
    """The sequences in parts on the model's device, with the model in evaluation mode meanwhile."""
    with evaluating(model):
        device = next(iter(model.parameters())).device
        for part_NL in tokens_NL.split(100):
            part_NL = part_NL.to(device)
            yield Sentences(part_NL, torch.ones_like(part_NL, dtype=torch.bool))


def interpolate(points: Sequence[Point], at: Sequence[float]) -> NDArray[np.float64]:
    """y of a curve at these x, linear between points; NaN beyond its ends."""
    order = sorted(points, key=lambda point: point.x)
    return np.interp(at, [p.x for p in order], [p.y for p in order], left=np.nan, right=np.nan)


def lowest(curves: Sequence[Sequence[Point]], at: Sequence[float]) -> NDArray[np.float64]:
    """The lowest y of several curves at these x, the better of temperature and rejection; NaN where none reaches."""
    stacked = np.stack([interpolate(curve, at) for curve in curves if curve])
    least = np.where(np.isnan(stacked), np.inf, stacked).min(0)
    return np.where(np.isinf(least), np.nan, least)
