"""A trained discriminator as a judge of single sentences, and as a `RewardFn` for other models.

Shape suffixes: B = sentences.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adversarial.estimators.game import sentence_logits
from adversarial.generator import Generator, Sentences, evaluating, token_losses
from core.interfaces import Samples

_AT_ONCE = 256


@torch.no_grad()
def log_density_ratio(judge: nn.Module, generator: Generator, sentences: Sentences, bos_id: int) -> Tensor:
    """logit_B, about log p_real(x) - log p_generated(x): how much likelier a sentence is in real text.

    That is what the best discriminator of the BCE loss says; those of other losses say it on a scale of their own. A
    mediator is a language model, whose ratio is its own likelihood over the generator's.

    Args:
        judge: a discriminator or a mediator.
        generator: the one that it was trained against.
        sentences: to be judged; at any number, in parts.
        bos_id: token before the first one.

    References:
        Goodfellow et al. 2014, arXiv:1406.2661, proposition 1; Deng et al. 2020, "Residual Energy-Based Models for Text
        Generation", arXiv:2004.11714.
    """
    network: Any = judge
    found = []
    with evaluating(judge, generator):
        for start in range(0, len(sentences), _AT_ONCE):
            some = sentences.part(start, start + _AT_ONCE)
            if hasattr(network, "per_token"):
                logits, _ = network(network.embed(some.tokens_BT), some.mask_BT)
                found.append(sentence_logits(logits, some, per_token=network.per_token))
            else:
                sums_BT = token_losses(generator, some, bos_id) - token_losses(network, some, bos_id)
                found.append((sums_BT * some.mask_BT).sum(1))
    return torch.cat(found).float()


class DiscriminatorReward:
    """A `RewardFn`: how real a GAN run's discriminator finds what another model wrote.

    The other model may have another vocabulary: its samples are decoded, and encoded again for the discriminator. Words
    that the GAN's text did not have are its unknown word. A sentence longer than the run's `max_tokens` is cut there.

    >>> from core.commands.training import load_run
    >>> reward = load_run("runs/gan").reward(tokenizer.decode)  # doctest: +SKIP

    Args:
        judge: the discriminator.
        generator: the one that it was trained against.
        tokenizer: of the GAN's text.
        decode: from the other model's ids to text.
        max_tokens: longest sentence, end-of-sequence counted.
        probability: give sigmoid(logit), between 0 and 1, instead of the logit.
    """

    def __init__(
        self,
        judge: nn.Module,
        generator: Generator,
        tokenizer: Any,
        decode: Callable[[list[int]], str],
        *,
        max_tokens: int,
        probability: bool = False,
    ) -> None:
        self.judge, self.generator, self.tokenizer = judge, generator, tokenizer
        self.decode, self.max_tokens, self.probability = decode, max_tokens, probability

    def __call__(self, samples: Samples, contexts: Any = None) -> Tensor:
        """reward_B of each sample; the contexts are not looked at."""
        return self.score([self.decode(row) for row in samples.lists()])

    def score(self, texts: Sequence[str]) -> Tensor:
        """reward_B of texts."""
        device = next(self.generator.parameters()).device
        rows = self.tokenizer.encode_batch(list(texts), add_eos=self.tokenizer.eos_id is not None)
        sentences = Sentences.from_lists([row[: self.max_tokens] for row in rows], device)
        logit_B = log_density_ratio(self.judge, self.generator, sentences, self.tokenizer.bos_id)
        return torch.sigmoid(logit_B) if self.probability else logit_B
