"""Turning logits into next tokens: masks, penalties, truncation and one draw per row.

Shape suffixes: B = rows, T = tokens so far, V = vocabulary, P = pieces of the vocabulary, S = tokens of a piece,
D = model width, R = rows taken at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.losses import CACHED
from core.nn.attention import compute_dtype

_PIECE = 64
"""Tokens that are summed up together when one is drawn."""
_HARMLESS = 60.0
"""Logits of at most this size have exponentials, and sums of these, that float32 holds with full precision."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen. The defaults sample from the model's own distribution."""

    temperature: float = 1.0
    """Divides the logits; 0 takes the most likely token."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the fewest most likely tokens whose probabilities add up to at least this."""
    min_p: float = 0.0
    """Keep tokens at least this fraction as likely as the most likely one."""
    repetition_penalty: float = 1.0
    """Divide positive and multiply negative logits of tokens that occurred already, prompt included."""

    @property
    def plain(self) -> bool:
        """Whether tokens are drawn from the whole distribution, at whatever temperature."""
        return (
            self.temperature > 0 and (self.top_k, self.top_p, self.min_p) == (0, 1, 0) and self.repetition_penalty == 1
        )

    def __post_init__(self) -> None:
        checks = {
            "temperature": self.temperature >= 0,
            "top_k": self.top_k >= 0,
            "top_p": 0 < self.top_p <= 1,
            "min_p": 0 <= self.min_p < 1,
            "repetition_penalty": self.repetition_penalty > 0,
        }
        for name, good in checks.items():
            if not good:
                raise ValueError(f"{name} is out of range: {getattr(self, name)}")


def choice_logits(
    logits_BV: Tensor, sampling: Sampling, *, allowed: Tensor | None = None, seen_BV: Tensor | None = None
) -> Tensor:
    """float32 logits of the distribution that a token is drawn from: -inf where it can't be drawn.

    The order is mask, repetition penalty, temperature, top-k, top-p, min-p. With temperature 0 it stops before the
    temperature, so that the log-probabilities of greedy tokens are the model's own under the mask.

    Args:
        logits_BV: the model's logits.
        sampling: what to apply.
        allowed: bool, V or BV; False forbids a token, and the rest is renormalised.
        seen_BV: bool; True for tokens that the penalty applies to.

    References:
        Fan et al. 2018 (top-k), arXiv:1805.04833; Holtzman et al. 2020 (top-p), arXiv:1904.09751; Nguyen et al. 2024
        (min-p), arXiv:2407.01082; Keskar et al. 2019 (repetition penalty), arXiv:1909.05858.
    """
    logits_BV = logits_BV.float()
    if allowed is not None:
        if not bool(allowed.any(-1).all()):
            raise ValueError("token_mask forbids every token of a row: it must allow at least one")
        logits_BV = logits_BV.masked_fill(~allowed, float("-inf"))
    if seen_BV is not None and sampling.repetition_penalty != 1:
        penalty = sampling.repetition_penalty
        penalised = torch.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
        logits_BV = torch.where(seen_BV, penalised, logits_BV)
    if sampling.temperature == 0:
        return logits_BV
    if sampling.temperature != 1:
        logits_BV = logits_BV / sampling.temperature
    if 0 < sampling.top_k < logits_BV.shape[-1]:
        threshold = logits_BV.topk(sampling.top_k, dim=-1).values[..., -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < threshold, float("-inf"))
    if sampling.top_p < 1:
        ordered, order = logits_BV.sort(dim=-1, descending=True)
        probabilities = ordered.softmax(-1)
        # A token stays when the ones before it do not yet reach top_p: so at least one always stays.
        dropped = probabilities.cumsum(-1) - probabilities >= sampling.top_p
        logits_BV = logits_BV.masked_fill(torch.zeros_like(dropped).scatter(-1, order, dropped), float("-inf"))
    if sampling.min_p > 0:
        probabilities = logits_BV.softmax(-1)
        floor = sampling.min_p * probabilities.amax(-1, keepdim=True)
        logits_BV = logits_BV.masked_fill(probabilities < floor, float("-inf"))
    return logits_BV


def draw(logits_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """One token per row by inverting the cumulative distribution at `uniform_B` (float64 in [0, 1)).

    One random number a row, instead of one per token of the vocabulary; a token of probability 0 is never drawn. The
    distribution is summed up piece by piece, and only within the piece that is hit token by token.
    """
    weights_BV = logits_BV.softmax(-1, dtype=torch.float32)
    return _invert(F.pad(weights_BV, (0, -weights_BV.shape[-1] % _PIECE)).unflatten(-1, (-1, _PIECE)), uniform_B)[0]


@torch.no_grad()
def draw_projected(
    hidden_BD: Tensor, head: nn.Linear, uniform_B: Tensor, *, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The same from hidden states: of the logits no more exist at a time than the processor's cache holds.

    Three to four times as fast as `draw(head(hidden_BD))` for a thousand rows and 5,000 tokens.

    Args:
        hidden_BD: hidden states.
        head: from hidden states to logits.
        uniform_B: float64 in [0, 1).
        temperature: divides the logits.

    Returns:
        (tokens_B, logprobs_B): float32 log-probabilities under the distribution that was drawn from.
    """
    num_rows, vocab_size = len(hidden_BD), head.out_features
    # Of narrow states a bf16 product saves less time than its conversions cost.
    dtype = compute_dtype(hidden_BD) if head.in_features >= 256 else torch.float32
    hidden_BD, weight_DV = hidden_BD.to(dtype), head.weight.t().to(dtype)
    # At least 64, or a large projection would be read from memory too often.
    rows = max(64, CACHED // vocab_size) if hidden_BD.device.type == "cpu" else max(1, num_rows)
    weights_RV = hidden_BD.new_zeros(min(rows, num_rows), -(-vocab_size // _PIECE) * _PIECE, dtype=torch.float32)
    # Logits that cannot be large need no maximum taken off before the exponential: two passes over them less. A GPU
    # would have to be waited for.
    on_cpu = hidden_BD.device.type == "cpu" and num_rows > 0
    small = on_cpu and float(_largest_logit(hidden_BD, head) / temperature) < _HARMLESS
    tokens, logprobs = [], []
    for start in range(0, num_rows, rows):
        part_RD = hidden_BD[start : start + rows]
        logits_RV = weights_RV[: len(part_RD), :vocab_size]
        _project(part_RD, weight_DV, head.bias, logits_RV)
        if temperature != 1:
            logits_RV.div_(temperature)
        if not small:
            logits_RV.sub_(logits_RV.amax(-1, keepdim=True))
        logits_RV.exp_()
        pieces_RPS = weights_RV[: len(part_RD)].unflatten(-1, (-1, _PIECE))
        token_R, logprob_R = _invert(pieces_RPS, uniform_B[start : start + rows])
        tokens.append(token_R)
        logprobs.append(logprob_R)
    return torch.cat(tokens), torch.cat(logprobs)


def _largest_logit(hidden_BD: Tensor, head: nn.Linear) -> Tensor:
    """A bound of the logits' size, by Cauchy and Schwarz."""
    bound = hidden_BD.float().square().sum(-1).amax().sqrt() * head.weight.float().square().sum(-1).amax().sqrt()
    return bound if head.bias is None else bound + head.bias.float().abs().amax()


def _project(hidden_RD: Tensor, weight_DV: Tensor, bias_V: Tensor | None, logits_RV: Tensor) -> None:
    """Write float32 logits into `logits_RV`."""
    with torch.autocast(hidden_RD.device.type, enabled=False):
        if hidden_RD.dtype != torch.float32 or bias_V is None:
            logits_RV.copy_(hidden_RD @ weight_DV)
            if bias_V is not None:
                logits_RV.add_(bias_V)
        else:
            torch.addmm(bias_V, hidden_RD, weight_DV, out=logits_RV)


def _invert(weights_BPS: Tensor, uniform_B: Tensor) -> tuple[Tensor, Tensor]:
    """The token of each row at `uniform_B` of its weights' sum, and the logarithm of its share."""
    sums_BP = weights_BPS.sum(-1).double()
    upto_BP = sums_BP.cumsum(-1)
    total_B1 = upto_BP[:, -1:]
    point_B1 = uniform_B[:, None] * total_B1
    piece_B1 = torch.searchsorted(upto_BP, point_B1, right=True)
    # Rounding can put the point just beyond the end, of all pieces or of its own: the likeliest is then a legal answer.
    piece_B1 = torch.where(piece_B1 < upto_BP.shape[1], piece_B1, sums_BP.argmax(-1, keepdim=True))
    hit_BS = weights_BPS.gather(1, piece_B1[..., None].expand(-1, 1, _PIECE)).squeeze(1)
    rest_B1 = (point_B1 - (upto_BP - sums_BP).gather(1, piece_B1)).clamp(min=0)
    place_B1 = torch.searchsorted(hit_BS.double().cumsum(-1), rest_B1, right=True)
    place_B1 = torch.where(place_B1 < _PIECE, place_B1, hit_BS.argmax(-1, keepdim=True))
    share_B1 = hit_BS.gather(1, place_B1).double() / total_B1
    return (piece_B1 * _PIECE + place_B1).squeeze(-1), share_B1.log().float().squeeze(-1)


def uniforms(
    generator: torch.Generator | Sequence[torch.Generator] | None, rows: Tensor, device: torch.device
) -> Tensor:
    """float64 uniform_B for the rows still active.

    Args:
        generator: one for the batch, or one for every original row: then a row's draws do not depend on the others.
        rows: int64 original index of each active row.
        device: where the result is wanted.
    """
    if generator is None or isinstance(generator, torch.Generator):
        where = generator.device if generator is not None else device
        return torch.rand(len(rows), generator=generator, dtype=torch.float64, device=where).to(device)
    return torch.cat(
        [
            torch.rand(1, generator=generator[row], dtype=torch.float64, device=generator[row].device)
            for row in rows.tolist()
        ]
    ).to(device)
