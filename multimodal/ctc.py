"""CTC on a sound's positions: what their hidden states spell, through the captioner's own output projection.

Attention alone takes long to find out what is heard where, and on voices that it does not know it loses its place and
says words twice. CTC spells in order, and cannot.

Shape suffixes: B = rows, T = positions of a row, E = examples (one a row), P = positions of a row's sounds, M = those
of all rows, L = target tokens, V = vocabulary, D = model width.

References:
    Graves et al. 2006, "Connectionist Temporal Classification".
    Kim, Hori and Watanabe 2016, "Joint CTC-Attention based End-to-End Speech Recognition", arXiv:1609.06773: theirs has
    a projection of its own behind the encoder, and scores partial answers in the beam; here whole answers are scored.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from core.losses import token_logprobs
from multimodal.batch import CaptionBatch, Contexts, caption_batch
from multimodal.captioner import Captioner


def sound_logprobs(captioner: Captioner, hidden_BTD: Tensor, batch: CaptionBatch) -> tuple[Tensor, Tensor]:
    """float32 logprobs_PEV of tokens at the positions of each row's sounds, and how many there are, lengths_E."""
    places_M = batch.places["audio"]
    owners_M = places_M // hidden_BTD.shape[1]
    lengths_E = torch.bincount(owners_M, minlength=len(hidden_BTD))
    steps_M = torch.arange(len(owners_M), device=owners_M.device)
    steps_M = steps_M - (lengths_E.cumsum(0) - lengths_E)[owners_M]
    logprobs_MV = torch.log_softmax(captioner.logits(hidden_BTD.flatten(0, 1)[places_M]).float(), dim=-1)
    logprobs_PEV = logprobs_MV.new_zeros(int(lengths_E.max()), len(lengths_E), logprobs_MV.shape[1])
    return logprobs_PEV.index_put((steps_M, owners_M), logprobs_MV), lengths_E


def ctc_losses(
    captioner: Captioner, logprobs_PEV: Tensor, lengths_E: Tensor, batch: CaptionBatch, *, zero_infinity: bool = False
) -> Tensor:
    """losses_E, -log p of each target without its end-of-sequence; infinite (or 0) where longer than the sounds."""
    return F.ctc_loss(
        logprobs_PEV,
        batch.targets_EL,
        lengths_E,
        batch.mask_EL.sum(1) - 1,
        blank=captioner.blank_id,
        reduction="none",
        zero_infinity=zero_infinity,
    )


def spelt(captioner: Captioner, logprobs_PEV: Tensor, lengths_E: Tensor) -> list[list[int]]:
    """The likeliest token of each position, repetitions and blanks left out."""
    answers = []
    for best, length in zip(logprobs_PEV.argmax(-1).T.tolist(), lengths_E.tolist()):
        heard = best[:length]
        changes = [token for before, token in zip([captioner.blank_id, *heard], heard) if token != before]
        answers.append([token for token in changes if token != captioner.blank_id])
    return answers


def agreed(captioner: Captioner, contexts: Contexts, said: Sequence[Sequence[int]]) -> list[list[int]]:
    """Of what attention wrote and what the sounds spell, for each prompt the one that both together find likelier.

    Args:
        captioner: trained with a `ctc_weight`, by which the two log-probabilities are weighted here too.
        contexts: the prompts; those without a sound keep what was said.
        said: ids that attention wrote.
    """
    if "audio" not in contexts.media:
        return [list(ids) for ids in said]
    with captioner.evaluating():
        return _agreed(captioner, contexts, said)


def _agreed(captioner: Captioner, contexts: Contexts, said: Sequence[Sequence[int]]) -> list[list[int]]:
    end, longest = captioner.eos_id, captioner.max_new_tokens - 1
    written = [[token for token in ids if token != end] for ids in said]
    batch = _batch(captioner, contexts, [[*ids[:longest], end] for ids in written])
    hidden_BTD = captioner.read(batch)
    logprobs_PEV, lengths_E = sound_logprobs(captioner, hidden_BTD, batch)
    spelling = [ids[:longest] for ids in spelt(captioner, logprobs_PEV, lengths_E)]
    other = _batch(captioner, contexts, [[*ids, end] for ids in spelling])

    def scores_E(batch: CaptionBatch, hidden_ELD: Tensor) -> Tensor:
        attention_EL = token_logprobs(captioner.logits(hidden_ELD).float(), batch.targets_EL)
        attention_E = (attention_EL * batch.mask_EL).sum(1)
        ctc_E = ctc_losses(captioner, logprobs_PEV, lengths_E, batch)
        return (1 - captioner.ctc_weight) * attention_E - captioner.ctc_weight * ctc_E

    better_E = scores_E(other, captioner(other)) > scores_E(batch, hidden_BTD.flatten(0, 1)[batch.reads_EL])
    better_E &= lengths_E > 0
    return [theirs if better else ours for ours, theirs, better in zip(written, spelling, better_E.tolist())]


def _batch(captioner: Captioner, contexts: Contexts, answers: Sequence[Sequence[int]]) -> CaptionBatch:
    batch = caption_batch(contexts.prompts, answers, contexts.media, bidirectional=captioner.bidirectional)
    return batch.to(next(captioner.parameters()).device)
