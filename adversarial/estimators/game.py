"""What every estimator needs of a round: both players and how to draw from the generator."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from adversarial.config import GANConfig
from adversarial.generator import Generator, Sentences


@dataclass(frozen=True)
class Game:
    """Both players, the rules and the progress of the adversarial phase."""

    generator: Generator
    judge: Any
    """A discriminator; its parameters get no gradient from the generator's step."""
    baseline: Callable[[Tensor, Tensor, Tensor], Tensor]
    """From hidden_BTD, rewards_BT and mask_BT to the reward_BT that was to be expected, without gradient."""
    config: GANConfig
    bos_id: int
    eos_id: int | None
    max_tokens: int
    sample: Callable[[int], Sentences]
    """Draw so many sentences from the present generator."""
    progress: float
    """Share of the adversarial phase that is done, 0 to 1."""
    kept: dict[str, Any]
    """What an estimator keeps from one of the round's generator steps to the next; empty at the first."""

    def score(self, sentences: Sentences) -> tuple[Tensor, Tensor]:
        """(logits, features) of the discriminator for sentences of tokens."""
        return self.judge(self.judge.embed(sentences.tokens_BT), sentences.mask_BT)


def sentence_logits(logits: Tensor, sentences: Sentences, *, per_token: bool) -> Tensor:
    """logit_B: the mean over representations, or over the tokens of each sentence, where there are several."""
    if logits.dim() == 1:
        return logits
    if not per_token:
        return logits.mean(1)
    return (logits * sentences.mask_BT).sum(1) / sentences.mask_BT.sum(1)
