"""The generator: a language model, and how a gradient passes through the tokens that it samples.

Shape suffixes: B = sequences, T = positions, V = vocabulary, D = model width.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from adversarial.config import GANConfig
from core.generate import generate
from core.nn.lstm import LSTM
from core.nn.networks import build_network
from core.nn.transformer import Transformer

Generator = Transformer | LSTM


@dataclass(frozen=True)
class Sentences:
    """A batch of sentences without begin-of-sequence, padded on the right."""

    tokens_BT: Tensor
    """int64; 0 where the mask is False."""
    mask_BT: Tensor
    """bool; True for every token, end-of-sequence included."""

    def __len__(self) -> int:
        return len(self.tokens_BT)

    def padded(self, length: int) -> "Sentences":
        """The same with `length` positions."""
        more = length - self.tokens_BT.shape[1]
        return Sentences(F.pad(self.tokens_BT, (0, more)), F.pad(self.mask_BT, (0, more)))

    def part(self, first: int, last: int) -> "Sentences":
        """Some of the sentences."""
        return Sentences(self.tokens_BT[first:last], self.mask_BT[first:last])

    @classmethod
    def join(cls, *batches: "Sentences") -> "Sentences":
        """All sentences of several batches, padded to the longest."""
        length = max(batch.tokens_BT.shape[1] for batch in batches)
        padded = [batch.padded(length) for batch in batches]
        return cls(torch.cat([b.tokens_BT for b in padded]), torch.cat([b.mask_BT for b in padded]))

    @classmethod
    def from_lists(cls, rows: list[list[int]], device: torch.device) -> "Sentences":
        """From token ids of different lengths."""
        length = max(map(len, rows))
        tokens_BT = torch.tensor([row + [0] * (length - len(row)) for row in rows], device=device)
        lengths_B1 = torch.tensor([[len(row)] for row in rows], device=device)
        return cls(tokens_BT, torch.arange(length, device=device) < lengths_B1)


def build_generator(config: GANConfig, vocab_size: int) -> Generator:
    """A fresh generator of the configured shape."""
    return build_network(config.network, replace(config.model, vocab_size=vocab_size))


def sample_sentences(
    model: Generator,
    count: int,
    *,
    max_tokens: int,
    bos_id: int,
    eos_id: int,
    generator: torch.Generator | None = None,
) -> Sentences:
    """Draw sentences at temperature 1, without gradient, with the key-value cache."""
    drawn = generate(
        model, [[bos_id]], max_new_tokens=max_tokens, num_samples=count, eos_id=eos_id, generator=generator
    )
    longest = int(drawn.mask_BT.sum(1).max())
    mask_BT = drawn.mask_BT[:, :longest]
    return Sentences(drawn.tokens_BT[:, :longest].masked_fill(~mask_BT, 0), mask_BT)


def next_token_logits(model: Generator, sentences: Sentences, bos_id: int) -> Tensor:
    """logits_BTV of every token of the sentences given those before it, with gradient: one pass."""
    begin_B1 = torch.full_like(sentences.tokens_BT[:, :1], bos_id)
    # Padding follows the sentence, so causal attention keeps it from every position that is read.
    return model.logits(model(torch.cat((begin_B1, sentences.tokens_BT[:, :-1]), dim=1)))


def straight_through(logits_BTV: Tensor, tokens_BT: Tensor, temperature: float = 1.0) -> Tensor:
    """One-hot vectors of sampled tokens, whose gradient is that of the softmax they were drawn from.

    y = onehot(token) + p - stopgrad(p), with p = softmax(logits / temperature).

    The tokens are sampled first, without gradient and with a cache; their logits then come from one pass over the
    finished sentences. So the forward value is an exact sample and the cost does not grow with the number of positions.
    What is left out: a token's influence on the distributions of the tokens after it. Differentiating through the
    sampling itself would include it, but through T steps of a biased estimator: tried here without the MLE term, that
    took 1.35 times the CPU time for forward and backward pass (batch 64, 18 positions), and after 50 steps the held-out
    nll had risen from 1.95 to 3.43, against 2.73 this way. For a discriminator whose logit is linear in y_t given the
    tokens before, as ours is in its direct term, sum_v p_v * d logit / d y_tv has exactly the gradient of the expected
    term, so Gumbel noise in the backward pass, which relaxes the same expectation, would only add variance.

    Args:
        logits_BTV: of each token given those before it, with gradient.
        tokens_BT: what was sampled.
        temperature: below 1 the gradient concentrates on the likely tokens.

    Returns:
        onehot_BTV.

    References:
        Bengio et al. 2013, "Estimating or Propagating Gradients Through Stochastic Neurons", arXiv:1308.3432; Jang et
        al. 2017, "Categorical Reparameterization with Gumbel-Softmax", arXiv:1611.01144 (the straight-through variant,
        with noise).
    """
    soft_BTV = torch.softmax(logits_BTV.float() / temperature, dim=-1)
    hard_BTV = F.one_hot(tokens_BT, logits_BTV.shape[-1]).to(soft_BTV.dtype)
    # Grouped so that the forward value is 0 or 1 to the bit.
    return hard_BTV + (soft_BTV - soft_BTV.detach())
