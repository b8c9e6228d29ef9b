"""From a config to its discriminator, and what all of them have in common.

Shape suffixes: B = sequences, T = positions, V = vocabulary, E = embedding width, F = features, R = representations.
"""

from dataclasses import replace
from typing import Protocol

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from adversarial.config import GANConfig
from adversarial.discriminators.attention import AttentionDiscriminator, TokenDiscriminator
from adversarial.discriminators.cnn import CLASSIC_FILTERS, ConvolutionalDiscriminator
from adversarial.discriminators.ratio import RatioDiscriminator
from adversarial.discriminators.representations import RepresentationsDiscriminator
from adversarial.generator import build_language_model


class Discriminator(Protocol):
    """What every discriminator does; each is an `nn.Module`."""

    per_token: bool
    """Whether a logit belongs to a token, padding to be left out, and not to a sentence."""

    def embed(self, tokens: Tensor) -> Tensor:
        """embeddings_BTE of int64 token ids BT, or of (soft) one-hot vectors BTV."""
        ...

    def __call__(self, embeddings_BTE: Tensor, mask_BT: Tensor, *, twice: bool = False) -> tuple[Tensor, Tensor]:
        """Judge sentences.

        Args:
            embeddings_BTE: from `embed`.
            mask_BT: bool; True for every token, end-of-sequence included; padding on the right.
            twice: whether the logits must be differentiable a second time, for a gradient penalty.

        Returns:
            (logits, features_BF) in float32; a logit above 0 means real. They are logits_B, logits_BR of several
            representations, or logits_BT where `per_token`.
        """
        ...


def build_discriminator(config: GANConfig, vocab_size: int, max_tokens: int, bos_id: int) -> nn.Module:
    """The configured discriminator with fresh weights; for cooperative training the mediator, a generator.

    Args:
        config: kind, sizes, dropout and spectral normalisation.
        vocab_size: V.
        max_tokens: longest sentence.
        bos_id: token before the first one.
    """
    # Noise from dropout in the generator's copy would be noise in its slope, so it has only what is asked for here.
    shape = replace(config.model, vocab_size=vocab_size, dropout=0.0)
    judge: nn.Module
    if config.judge in ("cnn", "light_cnn"):
        part = config.judge_filters // 5
        light = ((2, 2 * part), (3, 2 * part), (4, part))
        filters = CLASSIC_FILTERS if config.judge == "cnn" else light
        judge = ConvolutionalDiscriminator(
            vocab_size, max_tokens, width=config.judge_width, filters=filters, dropout=config.judge_dropout
        )
    elif config.judge == "representations":
        judge = RepresentationsDiscriminator(
            vocab_size, max_tokens, width=config.judge_width, representations=config.judge_width,
            dropout=config.judge_dropout,
        )  # fmt: skip
    elif config.judge == "attention":
        judge = AttentionDiscriminator(shape, dropout=config.judge_dropout)
    elif config.judge == "mediator":
        return build_language_model(config, vocab_size)
    elif config.judge == "tokens":
        body = build_language_model(replace(config, model=shape), vocab_size)
        judge = TokenDiscriminator(body, dropout=config.judge_dropout)
    else:
        judge = RatioDiscriminator(build_language_model(replace(config, model=shape), vocab_size), bos_id)
    if config.spectral_norm:
        for module in list(judge.modules()):
            if isinstance(module, nn.Linear):
                spectral_norm(module)
    return judge
