"""Repair: from a sentence with gaps or wrong words to the sentence that was meant.

The sentence x that was meant is likely as text, and it is likely that the damage made of it what was observed:
p(x | y) is in proportion to p(x) p(y | x). The generator gives p(x), the discriminator corrects it by its density
ratio, and the channel p(y | x) says what damage does: a gap fits every word, and where words may be wrong each one was
replaced by any other with probability `noise`. With an oracle as p(x) the posterior is the true one.

Shape suffixes: B = sentences, W = candidates, T = positions, V = vocabulary.

References:
    Shannon 1948, "A Mathematical Theory of Communication" (the channel); Deng et al. 2020, arXiv:2004.11714 (a
    generator corrected by a discriminator).
"""

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from adversarial.generator import Generator, Sentences
from adversarial.labels import split_label
from core.generate import decoding

GAP = -1
"""Stands in an observed sentence where a token is missing."""
NO_LABEL = -2
"""The same for the label of a sentence, in a run that has labels."""
BLANK = "___"
"""The same in a text."""
Verdict = Callable[[Sentences], Tensor]
"""From sentences to logit_B, how much likelier each is in real text than the generator thinks."""


@dataclass(frozen=True)
class Candidate:
    """A sentence that may have been meant."""

    tokens: list[int]
    logprob: float
    """log p(x) + log p(y | x) in nats, with the discriminator's logit where there is one."""


class Channel:
    """What can have happened to a sentence.

    Args:
        words: ids that a gap or a wrong word can stand for: all of the vocabulary but the special ones.
        noise: probability that a word was replaced by one of `words`, drawn at random; 0: words that are there are
            right.
        labels: ids that a missing label can stand for.
    """

    def __init__(self, words: Iterable[int], noise: float = 0.0, *, labels: Sequence[int] = ()) -> None:
        if not 0 <= noise < 1:
            raise ValueError(f"noise must be at least 0 and below 1, got {noise}")
        self.words, self.noise, self.labels = sorted(words), noise, labels
        self._words = frozenset(self.words)

    def damage(self, tokens: Sequence[int], rng: random.Random, *, gaps: int = 0) -> list[int]:
        """A sentence with so many words missing, and others replaced by chance.

        Args:
            tokens: the sentence; tokens that are no `words`, such as end-of-sequence, stay.
            rng: the chance.
            gaps: words taken out; all where there are fewer.
        """
        places = [place for place, token in enumerate(tokens) if token in self._words]
        missing = set(rng.sample(places, min(gaps, len(places))))
        seen = list(tokens)
        for place in places:
            if place in missing:
                seen[place] = GAP
            elif rng.random() < self.noise:
                seen[place] = rng.choice(self.words)
        return seen

    def certain(self, observed: int) -> bool:
        """Whether nothing else can have been meant than what was observed."""
        return observed not in (GAP, NO_LABEL) and (not self.noise or observed not in self._words)

    def logprobs(self, observed: int, vocab_size: int, device: torch.device) -> Tensor:
        """logprob_V = log p(y_t | x_t) of what was observed, for every token x_t that may have been meant."""
        logprob_V = torch.full((vocab_size,), -math.inf, device=device)
        if self.certain(observed):
            logprob_V[observed] = 0.0
            return logprob_V
        if observed in (GAP, NO_LABEL):
            logprob_V[torch.as_tensor(self.words if observed == GAP else self.labels, device=device)] = 0.0
            return logprob_V
        chance = self.noise / len(self.words)
        logprob_V[torch.as_tensor(self.words, device=device)] = math.log(chance)
        logprob_V[observed] = math.log(1 - self.noise + chance)
        return logprob_V


@torch.no_grad()
def repair(
    model: Generator,
    observed: Sequence[int],
    channel: Channel,
    *,
    bos_id: int,
    width: int = 64,
    verdict: Verdict | None = None,
) -> list[Candidate]:
    """The sentences that were most probably meant, best first.

    A beam search from left to right. With one gap and `width` >= V every word is tried, so that the candidates are the
    whole posterior, exactly; otherwise what comes later may speak for a word that the beam has already dropped.

    Args:
        model: p(x): a generator, or an oracle's network.
        observed: token ids, `GAP` where one is missing; end-of-sequence included where sentences have one.
        channel: what can have happened.
        bos_id: token before the first one.
        width: W, candidates kept.
        verdict: of a discriminator; the candidates that the beam found are put in order with it.
    """
    if not observed:
        return [Candidate([], 0.0)]
    device = next(iter(model.parameters())).device
    with decoding(model):
        cache = model.new_cache(1, len(observed))
        tokens_WT = torch.full((1, 1), bos_id, device=device)
        logprob_W = torch.zeros(1, device=device)
        for seen in observed:
            logits_WV = model.logits(model(tokens_WT[:, -1:], cache=cache)[:, -1]).float()
            logprob_W = logprob_W - logits_WV.logsumexp(1)
            if channel.certain(seen):
                logprob_W = logprob_W + logits_WV[:, seen]
                next_W = torch.full_like(tokens_WT[:, 0], seen)
            else:
                vocab_size = logits_WV.shape[1]
                channel_V = channel.logprobs(seen, vocab_size, device)
                joint_WV = logprob_W[:, None] + logits_WV + channel_V
                possible = len(logits_WV) * int(channel_V.isfinite().sum())
                logprob_W, index_W = joint_WV.flatten().topk(min(width, possible))
                row_W, next_W = index_W // vocab_size, index_W % vocab_size
                cache.select(row_W)
                tokens_WT = tokens_WT[row_W]
            tokens_WT = torch.cat((tokens_WT, next_W[:, None]), 1)
    tokens_WT = tokens_WT[:, 1:].clone()
    if verdict is not None:
        logprob_W = logprob_W + verdict(Sentences(tokens_WT, torch.ones_like(tokens_WT, dtype=torch.bool)))
    logprob_W, order_W = logprob_W.sort(descending=True)
    tokens_WT = tokens_WT[order_W]
    return [Candidate(*pair) for pair in zip(tokens_WT.tolist(), logprob_W.tolist())]


@dataclass(frozen=True)
class Repairer:
    """Repairs texts with what a run has learned."""

    tokenizer: Any
    """Of the run's text."""
    model: Generator
    """The generator, or an oracle's network."""
    verdict: Verdict | None = None
    """Of the discriminator."""
    width: int = 64
    """See `repair`."""

    @cached_property
    def words(self) -> list[int]:
        """Ids that can be missing or wrong: all but special ones and labels. An oracle begins with an ordinary word."""
        tokenizer = self.tokenizer
        special = {tokenizer.pad_id, tokenizer.eos_id, tokenizer.unk_id, *self.labels}
        if tokenizer.eos_id is not None:
            special.add(tokenizer.bos_id)
        return [token for token in range(tokenizer.vocab_size) if token not in special]

    @cached_property
    def labels(self) -> list[int]:
        """Ids of labels; none without any."""
        return [self.tokenizer.label_id(label) for label in getattr(self.tokenizer, "labels", ())]

    def repair(self, observed: Sequence[int], channel: Channel) -> list[Candidate]:
        """See the function `repair`."""
        return repair(
            self.model, observed, channel, bos_id=self.tokenizer.bos_id, width=self.width, verdict=self.verdict
        )

    def candidates(self, text: str, *, noise: float = 0.0) -> list[tuple[str, float]]:
        """The texts that were most probably meant, best first, each with its share of all candidates' probability.

        Args:
            text: with `___` where a word is missing. In a run with labels `label<TAB>text`, or the text alone, whose
                label is then found too.
            noise: probability that a word is wrong. Words that the run's text does not have are then gaps too.
        """
        observed = self.observed(text, unknown_is_gap=noise > 0)
        found = self.repair(observed, Channel(self.words, noise, labels=self.labels))
        shares = torch.softmax(torch.tensor([candidate.logprob for candidate in found]), 0).tolist()
        return [(self.tokenizer.decode(candidate.tokens), share) for candidate, share in zip(found, shares)]

    def observed(self, text: str, *, unknown_is_gap: bool) -> list[int]:
        """Token ids of a text, with `GAP` where one is missing.

        Raises:
            ValueError: a text without words, or a label that the run does not have.
        """
        tokenizer = self.tokenizer
        label, text = split_label(text)
        pieces = [part for piece in text.split(BLANK) for part in (BLANK, *tokenizer.split(piece))][1:]
        if not pieces:
            raise ValueError("there is nothing to repair: give a text with words")
        missing = GAP if unknown_is_gap or tokenizer.unk_id is None else tokenizer.unk_id
        found = [GAP if piece == BLANK else tokenizer.token_to_id(piece) for piece in pieces]
        tokens = [missing if token is None else token for token in found]
        begin = [tokenizer.label_id(label) if label else NO_LABEL] if self.labels else []
        return [*begin, *tokens, *([] if tokenizer.eos_id is None else [tokenizer.eos_id])]
