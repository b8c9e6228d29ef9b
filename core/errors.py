"""The marker of expected failures: what the command line prints as one line, without a traceback."""

from typing import ClassVar


class UserError(Exception):
    """An expected failure. Its message is one sentence that says what is wrong and what to do next.

    Named exceptions (`MissingData`, `CorruptCheckpoint`, …) inherit from it, some from `ValueError` as well.
    """

    exit_code: ClassVar[int] = 2
    """Exit code of the command line: 2 when nothing was started; a subclass raised in the middle of a run sets 1."""


class RecipeError(UserError):
    """A recipe name, module or function that cannot be used."""


class RunError(UserError):
    """A folder that is not a run directory, or one that lacks what was asked for."""
