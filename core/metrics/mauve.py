"""MAUVE of two sets of features, by the package `mauve-text`.

Shape suffixes: N, M = items of either set, F = features.
"""

import contextlib
import io

from torch import Tensor

from core.errors import UserError


class MissingMauve(UserError, ImportError):
    """The package is not installed."""


def mauve_score(one_NF: Tensor, other_MF: Tensor, *, seed: int = 0) -> float:
    """Area under the divergence curve of two texts, between 0 and 1 (alike).

    Published figures use the hidden states of GPT-2 large: with another encoder they cannot be compared.

    Args:
        one_NF: features of generated sentences.
        other_MF: of real ones, by the same encoder.
        seed: of the clustering.

    Raises:
        MissingMauve: `mauve-text` is not installed.

    References:
        Pillutla et al. 2021, "MAUVE: Measuring the Gap Between Neural Text and Human Text", arXiv:2102.01454.
    """
    try:
        import mauve
    except ImportError as error:
        raise MissingMauve("mauve needs two packages: pip install 'trillium-lm[mauve]'") from error
    with contextlib.redirect_stdout(io.StringIO()):
        found = mauve.compute_mauve(
            p_features=other_MF.double().numpy(), q_features=one_NF.double().numpy(), seed=seed, verbose=False
        )
    return float(found.mauve)
