"""Optional packages: imported when an environment is made, and named in one sentence when they are missing."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from core.errors import UserError


class MissingPackage(UserError, ImportError):
    """A package that an environment needs is not installed."""


@contextmanager
def optional(package: str) -> Iterator[None]:
    """A block that imports a package of the extra `games`.

    Args:
        package: its name.

    Raises:
        MissingPackage: it cannot be imported.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # these packages warn about their own syntax when they are compiled
            yield
    except ImportError as error:
        raise MissingPackage(f"{package} is not installed ({error}): pip install 'trillium-lm[games]'") from error
