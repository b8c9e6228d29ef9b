"""The generator: a language model, and how a gradient passes through the tokens that it samples.

Shape suffixes: B = sequences, T = positions, V = vocabulary, D = model width, Z = width of the latent noise.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adversarial.config import GANConfig
from adversarial.relational import RelationalMemory
from core.generate import Embed, generate
from core.interfaces import Samples
from core.losses import linear_cross_entropy
from core.nn.networks import LanguageNetwork, build_network
from core.nn.transformer import Transformer
from core.sampling import Sampling

Generator = LanguageNetwork | RelationalMemory


@dataclass(frozen=True)
class Sentences:
    """A batch of sentences without begin-of-sequence, padded on the right."""

    tokens_BT: Tensor
    """int64; 0 where the mask is False."""
    mask_BT: Tensor
    """bool; True for every token, end-of-sequence included."""
    latent_BZ: Tensor | None = None
    """The noise that a generator with latent noise drew each sentence with; of real sentences nobody knows it."""

    def __len__(self) -> int:
        return len(self.tokens_BT)

    def padded(self, length: int) -> "Sentences":
        """The same with `length` positions."""
        more = length - self.tokens_BT.shape[1]
        return Sentences(F.pad(self.tokens_BT, (0, more)), F.pad(self.mask_BT, (0, more)), self.latent_BZ)

    def rows(self, chosen: Tensor) -> "Sentences":
        """The sentences at these indices."""
        latent_BZ = None if self.latent_BZ is None else self.latent_BZ[chosen]
        return Sentences(self.tokens_BT[chosen], self.mask_BT[chosen], latent_BZ)

    def part(self, first: int, last: int) -> "Sentences":
        """Some of the sentences."""
        latent_BZ = None if self.latent_BZ is None else self.latent_BZ[first:last]
        return Sentences(self.tokens_BT[first:last], self.mask_BT[first:last], latent_BZ)

    @classmethod
    def of(cls, samples: Samples, latent_BZ: Tensor | None = None) -> "Sentences":
        """What a policy drew, and the noise that it did so with."""
        longest = int(samples.mask_BT.sum(1).max())
        mask_BT = samples.mask_BT[:, :longest]
        return cls(samples.tokens_BT[:, :longest].masked_fill(~mask_BT, 0), mask_BT, latent_BZ)

    @classmethod
    def join(cls, *batches: "Sentences") -> "Sentences":
        """All sentences of several batches, padded to the longest; without noise where one of them has none."""
        length = max(batch.tokens_BT.shape[1] for batch in batches)
        padded = [batch.padded(length) for batch in batches]
        latents = [b.latent_BZ for b in batches if b.latent_BZ is not None]
        latent_BZ = torch.cat(latents) if len(latents) == len(batches) else None
        return cls(torch.cat([b.tokens_BT for b in padded]), torch.cat([b.mask_BT for b in padded]), latent_BZ)

    @classmethod
    def from_lists(cls, rows: list[list[int]], device: torch.device) -> "Sentences":
        """From token ids of different lengths."""
        length = max(map(len, rows))
        tokens_BT = torch.tensor([row + [0] * (length - len(row)) for row in rows], device=device)
        lengths_B1 = torch.tensor([[len(row)] for row in rows], device=device)
        return cls(tokens_BT, torch.arange(length, device=device) < lengths_B1)


def build_generator(config: GANConfig, vocab_size: int) -> Generator:
    """A fresh generator of the configured shape.

    With `latent` > 0 each sentence is drawn with a vector z of normal noise, which `noise`, a linear layer, adds to the
    embedding of the begin token.
    """
    model: Generator
    if config.network == "relational":
        model = RelationalMemory(vocab_size, config.model.width)
    else:
        model = build_network(config.network, replace(config.model, vocab_size=vocab_size))
    if config.latent:
        noise = nn.Linear(config.latent, embedding_table(model).shape[1], bias=False)
        # As large as the embeddings, whatever the width of z.
        nn.init.normal_(noise.weight, std=float(embedding_table(model).detach().std()) / config.latent**0.5)
        model.add_module("noise", noise)
    return model


def build_language_model(config: GANConfig, vocab_size: int) -> Generator:
    """The same without latent noise, for a discriminator's body or a mediator."""
    return build_generator(replace(config, latent=0), vocab_size)


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Within the block the modules are in evaluation mode; afterwards each is in the mode it was in."""
    modes = [module.training for module in modules]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for module, mode in zip(modules, modes):
            module.train(mode)


def draw_latent(model: Generator, count: int, generator: torch.Generator | None = None) -> Tensor | None:
    """z_BZ ~ N(0, 1), where the generator has latent noise."""
    noise: nn.Linear | None = getattr(model, "noise", None)
    if noise is None:
        return None
    return torch.randn(count, noise.in_features, generator=generator, device=noise.weight.device)


def begin_with(model: Generator, tokens_BT: Tensor, latent_BZ: Tensor) -> Tensor:
    """embeddings_BTD of tokens, with the noise added to the first one."""
    embedded_BTD = model.embed(tokens_BT)
    noise: Any = model.noise
    return torch.cat((embedded_BTD[:, :1] + noise(latent_BZ)[:, None], embedded_BTD[:, 1:]), 1)


def draw_samples(
    model: Generator,
    count: int,
    *,
    max_tokens: int,
    bos_id: int,
    eos_id: int | None,
    sampling: Sampling | None = None,
    generator: torch.Generator | None = None,
    begin: Sequence[int] = (),
    latent_BZ: Tensor | None = None,
) -> Samples:
    """Draw sentences, without gradient, with the cache; at temperature 1 unless `sampling` says otherwise.

    Args:
        model: the generator.
        count: how many.
        max_tokens: longest sentence, end-of-sequence counted.
        bos_id: token before the first one.
        eos_id: token that ends a sentence.
        sampling: temperature and truncation.
        generator: source of randomness.
        begin: tokens that every sentence begins with; what follows them is returned.
        latent_BZ: from `draw_latent`; drawn here where it is not given.
    """
    if latent_BZ is None:
        latent_BZ = draw_latent(model, count, generator)
    # One prompt serves all samples, unless each has its own noise.
    alike = latent_BZ is None
    return generate(
        model, [[bos_id, *begin]] * (1 if alike else count), max_new_tokens=max_tokens,
        num_samples=count if alike else 1, eos_id=eos_id, sampling=sampling, generator=generator,
        embed=prompt_embedding(model, latent_BZ),
    )  # fmt: skip


def prompt_embedding(model: Generator, latent_BZ: Tensor | None) -> Embed | None:
    """How prompts, one for each z, are embedded: as the model does it where there is no noise."""
    return None if latent_BZ is None else partial(begin_with, model, latent_BZ=latent_BZ)


def hidden_states(model: Generator, sentences: Sentences, bos_id: int) -> Tensor:
    """hidden_BTD that predict each token of the sentences from those before it, with gradient: one pass.

    A generator with latent noise reads sentences whose noise is not known with noise drawn here.
    """
    begin_B1 = torch.full_like(sentences.tokens_BT[:, :1], bos_id)
    # Padding follows the sentence, so causal attention keeps it from every position that is read.
    read_BT = torch.cat((begin_B1, sentences.tokens_BT[:, :-1]), dim=1)
    latent_BZ = draw_latent(model, len(sentences)) if sentences.latent_BZ is None else sentences.latent_BZ
    if latent_BZ is None or not hasattr(model, "noise"):
        return model(read_BT)
    return model(embeddings_BTD=begin_with(model, read_BT, latent_BZ))


def next_token_logits(model: Generator, sentences: Sentences, bos_id: int) -> Tensor:
    """logits_BTV of every token of the sentences given those before it, with gradient."""
    return model.logits(hidden_states(model, sentences, bos_id))


def token_losses(model: Generator, sentences: Sentences, bos_id: int) -> Tensor:
    """losses_BT, -log p of every token given those before it, without gradient and without holding all logits."""
    with torch.no_grad():
        _, losses_N = weighted_nll(model, sentences, None, bos_id)
    return losses_N.view_as(sentences.tokens_BT)


def weighted_nll(
    model: Generator, sentences: Sentences, weights_BT: Tensor | None, bos_id: int
) -> tuple[Tensor, Tensor]:
    """Sum of -weight_bt log p(token_bt), with gradient, and losses_N of every position, without.

    With a mask as weights it is the likelihood loss, with advantages the policy gradient's.
    """
    hidden_BTD = hidden_states(model, sentences, bos_id)
    weights_N = None if weights_BT is None else weights_BT.flatten()
    return linear_cross_entropy(hidden_BTD.flatten(0, 1), model.lm_head, sentences.tokens_BT.flatten(), weights_N)


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


def embedding_table(model: Generator) -> Tensor:
    """The table_VD of token embeddings, with gradient."""
    return model.model.embed_tokens.weight if isinstance(model, Transformer) else model.embed_tokens.weight
