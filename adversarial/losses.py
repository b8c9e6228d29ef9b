"""Losses of a text GAN, as pure functions.

Shape suffixes: B = sequences, T = positions, D = embedding width, F = discriminator features.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.backends import cudnn
from torch.nn.attention import SDPBackend, sdpa_kernel

from adversarial.config import LogitLoss


def discriminator_loss(kind: LogitLoss, real: Tensor, fake: Tensor) -> Tensor:
    """What the discriminator minimises, averaged over logits.

    | kind | formula, r real and f fake | where r = f = 0 |
    |---|---|---|
    | bce | softplus(-r) + softplus(f) | 2 ln 2 |
    | hinge | max(0, 1 - r) + max(0, 1 + f) | 2 |
    | least_squares | ((r - 1)^2 + f^2) / 2 | 1/2 |
    | wasserstein | f - r | 0 |
    | relativistic | softplus(-(r - f)), r and f in pairs | ln 2 |
    | relativistic_average | softplus(-(r - mean f)) + softplus(f - mean r) | 2 ln 2 |

    Args:
        kind: see above.
        real: logits of real sentences, of any shape.
        fake: logits of generated ones; for `relativistic` in the same shape.

    Returns:
        Scalar loss.

    Raises:
        ValueError: `relativistic` with logits that do not pair.

    References:
        bce: Goodfellow et al. 2014, arXiv:1406.2661. hinge: Lim and Ye 2017, arXiv:1705.02894. least_squares: Mao et
        al. 2017, arXiv:1611.04076. wasserstein: Arjovsky et al. 2017, arXiv:1701.07875. relativistic (RSGAN, and RpGAN
        with R1 and R2) and its average (RaGAN): Jolicoeur-Martineau 2019, arXiv:1807.00734; Huang et al. 2024, "The GAN
        is dead; long live the GAN!", arXiv:2501.05441.
    """
    if kind == "bce":
        return F.softplus(-real).mean() + F.softplus(fake).mean()
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    if kind == "least_squares":
        return ((real - 1).square().mean() + fake.square().mean()) / 2
    if kind == "wasserstein":
        return fake.mean() - real.mean()
    if kind == "relativistic":
        return F.softplus(-_paired(real, fake)).mean()
    if kind == "relativistic_average":
        return F.softplus(-(real - fake.mean())).mean() + F.softplus(fake - real.mean()).mean()
    raise ValueError(f"unknown loss {kind!r}")


def generator_loss(kind: LogitLoss, real: Tensor, fake: Tensor) -> Tensor:
    """What the generator minimises; for `bce` the non-saturating loss, whose gradient stays large where D is sure.

    | kind | formula | where r = f = 0 |
    |---|---|---|
    | bce | softplus(-f) | ln 2 |
    | hinge, wasserstein | -f | 0 |
    | least_squares | (f - 1)^2 / 2 | 1/2 |
    | relativistic | softplus(-(f - r)) | ln 2 |
    | relativistic_average | softplus(-(f - mean r)) + softplus(r - mean f) | 2 ln 2 |

    Args and references as in `discriminator_loss`; `fake` has a gradient to the generator, and `real` is read by the
    relativistic losses alone.
    """
    if kind == "bce":
        return F.softplus(-fake).mean()
    if kind in ("hinge", "wasserstein"):
        return -fake.mean()
    if kind == "least_squares":
        return (fake - 1).square().mean() / 2
    if kind == "relativistic":
        return F.softplus(_paired(real.detach(), fake)).mean()
    if kind == "relativistic_average":
        real = real.detach()
        return F.softplus(-(fake - real.mean())).mean() + F.softplus(real - fake.mean()).mean()
    raise ValueError(f"unknown loss {kind!r}")


def _paired(real: Tensor, fake: Tensor) -> Tensor:
    if real.shape != fake.shape:
        raise ValueError(
            f"the relativistic loss compares real and fake in pairs, got {tuple(real.shape)} and {tuple(fake.shape)}: "
            "give as many of each, or use relativistic_average"
        )
    return real - fake


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


def mean_discrepancy(real_BF: Tensor, fake_BF: Tensor, widths: Sequence[float] = (2.0, 5.0, 10.0)) -> Tensor:
    """Squared maximum mean discrepancy with Gaussian kernels: feature matching of all moments, not of the mean alone.

    MMD^2 = mean_ij k(r_i, r_j) - 2 mean_ij k(r_i, f_j) + mean_ij k(f_i, f_j), with k(x, y) = sum_w exp(-|x - y|^2 /
    (2 w)); the means take the pairs i = j too, so that it cannot be negative.

    Args:
        real_BF: discriminator features of real sequences; no gradient flows into them.
        fake_BF: the same for generated sequences, with gradient to the generator.
        widths: w, in squared units of the features.

    References:
        Gretton et al. 2012, "A Kernel Two-Sample Test"; Zhang et al. 2017, "Adversarial Feature Matching for Text
        Generation", arXiv:1706.03850.
    """

    def kernel(one_BF: Tensor, other_BF: Tensor) -> Tensor:
        squares = (one_BF[:, None] - other_BF[None]).square().sum(-1)
        return sum(((-squares / (2 * width)).exp() for width in widths), squares.new_zeros(())).mean()

    real_BF = real_BF.detach()
    return kernel(real_BF, real_BF) - 2 * kernel(real_BF, fake_BF) + kernel(fake_BF, fake_BF)


def interpolated_penalty(logit_B: Tensor, inputs_BTD: Tensor) -> Tensor:
    """WGAN's gradient penalty: mean_b (|d logit_b / d input_b| - 1)^2, differentiable a second time.

    Args:
        logit_B: logits of points between real and generated sequences, computed so that they can be differentiated
            twice.
        inputs_BTD: those points, with gradient.

    References:
        Gulrajani et al. 2017, "Improved Training of Wasserstein GANs", arXiv:1704.00028.
    """
    (slope_BTD,) = torch.autograd.grad(logit_B.sum(), inputs_BTD, create_graph=True)
    # The root has no derivative at 0, where all of a fresh discriminator's slopes may lie.
    return ((slope_BTD.square().sum((1, 2)) + 1e-12).sqrt() - 1).square().mean()


def gradient_penalty(logit_B: Tensor, inputs_BTD: Tensor) -> Tensor:
    """Zero-centred gradient penalty: mean_b sum_td (d logit_b / d input_btd)^2, differentiable a second time.

    On real sequences it is R1, on generated ones R2: the discriminator has no slope where they are, so it cannot keep
    pushing a generator that has arrived. Multiply by gamma / 2.

    Args:
        logit_B: the discriminator's logits, computed within `twice_differentiable`.
        inputs_BTD: the embedded sequences that they were computed from, with gradient: of a leaf, or of an embedding
            table, which the penalty then moves too.

    Returns:
        Scalar, with gradient to the discriminator's parameters.

    References:
        Mescheder et al. 2018, "Which Training Methods for GANs do actually Converge?", arXiv:1801.04406 (R1); Roth
        et al. 2017, "Stabilizing Training of GANs through Regularization", arXiv:1705.09367.
    """
    # The logit of a row depends on that row alone, so one backward pass gives the slope of each.
    (slope_BTD,) = torch.autograd.grad(logit_B.sum(), inputs_BTD, create_graph=True)
    return slope_BTD.square().sum((1, 2)).mean()


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Within the block attention and LSTMs run by kernels that can be differentiated twice; fused ones cannot."""
    with sdpa_kernel(SDPBackend.MATH), cudnn.flags(enabled=False):
        yield
