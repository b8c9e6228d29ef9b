"""Losses of a text GAN, as pure functions.

Shape suffixes: B = sequences, T = positions, D = embedding width, F = discriminator features.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.backends import cudnn
from torch.nn.attention import SDPBackend, sdpa_kernel


def discriminator_loss(real_B: Tensor, fake_B: Tensor) -> Tensor:
    """Binary cross-entropy of telling real from generated sequences.

    L_D = mean(-log sigmoid(real)) + mean(-log(1 - sigmoid(fake))) = mean(softplus(-real)) + mean(softplus(fake)),
    which is 2 ln 2 = 1.386 for a discriminator that cannot tell them apart.

    Args:
        real_B: logits of real sequences.
        fake_B: logits of generated sequences; their number may differ.

    Returns:
        Scalar loss.

    References:
        Goodfellow et al. 2014, "Generative Adversarial Networks", arXiv:1406.2661, with logits for stability.
    """
    return F.softplus(-real_B).mean() + F.softplus(fake_B).mean()


def generator_loss(fake_B: Tensor) -> Tensor:
    """The non-saturating loss: -log sigmoid(fake), averaged; ln 2 = 0.693 at logit 0.

    Its gradient stays large where the discriminator is sure, unlike that of log(1 - sigmoid(fake)).

    Args:
        fake_B: logits of generated sequences, with gradient to the generator.

    References:
        Goodfellow et al. 2014, arXiv:1406.2661, section 3.
    """
    return F.softplus(-fake_B).mean()


def feature_matching(real_BF: Tensor, fake_BF: Tensor) -> Tensor:
    """Squared distance between the mean features of real and generated sequences, averaged over the features.

    L = (1 / F) * sum_f (mean_b real_bf - mean_b fake_bf)^2

    Args:
        real_BF: discriminator features of real sequences; no gradient flows into them.
        fake_BF: the same for generated sequences, with gradient to the generator.

    References:
        Salimans et al. 2016, "Improved Techniques for Training GANs", arXiv:1606.03498. The paper sums over the
        features; we average, so that the weight does not depend on the discriminator's width.
    """
    return (real_BF.detach().mean(0) - fake_BF.mean(0)).square().mean()


def gradient_penalty(logit_B: Tensor, inputs_BTD: Tensor) -> Tensor:
    """Zero-centred gradient penalty: mean_b sum_td (d logit_b / d input_btd)^2, differentiable a second time.

    On real sequences it is R1: the discriminator has no slope where the data are, so it cannot keep pushing a
    generator that has arrived. Multiply by gamma / 2.

    Args:
        logit_B: the discriminator's logits, computed within `twice_differentiable`.
        inputs_BTD: the embedded sequences that they were computed from, with gradient: of a leaf, or of an embedding
            table, which the penalty then moves too.

    Returns:
        Scalar, with gradient to the discriminator's parameters.

    References:
        Mescheder et al. 2018, "Which Training Methods for GANs do actually Converge?", arXiv:1801.04406 (R1).
    """
    # The logit of a row depends on that row alone, so one backward pass gives the slope of each.
    (slope_BTD,) = torch.autograd.grad(logit_B.sum(), inputs_BTD, create_graph=True)
    return slope_BTD.square().sum((1, 2)).mean()


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Within the block attention and LSTMs run by kernels that can be differentiated twice; fused ones cannot."""
    with sdpa_kernel(SDPBackend.MATH), cudnn.flags(enabled=False):
        yield
