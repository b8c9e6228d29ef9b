"""Data sets by name, with options: what `--data` takes."""

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.recipes import import_by_name
from multimodal.examples import Examples

NAMES = (
    *("twemoji", "twemoji_vqa", "moving_shapes", "fluent", "babyai", "fsdd", "speech", "sonicbank", "tuxpaint"),
    *("coco", "flickr8k", "audiocaps", "clotho", "msrvtt", "webdataset", "huggingface"),
)
"""Each is a module of this package with a function `examples`."""
_LITERALS = {"true": True, "false": False}


class DataError(UserError, ValueError):
    """A data set that is not known, or options that it does not take."""


def load_examples(data: str, *, test_fraction: float = 0.1) -> Examples:
    """The examples that a config's `data` names.

    Args:
        data: `NAME` or `NAME:option=value,…` of `NAMES`; the path of a manifest; or `module:function` of your own,
            which returns `Examples`.
        test_fraction: of a manifest.

    Raises:
        DataError: none of these, or a wrong option.
        MissingData: a package of the data set is not on this machine.
        ManifestError: the manifest cannot be used.
    """
    name, _, options = data.partition(":")
    if name in NAMES:
        return _call(importlib.import_module(f"multimodal.datasets.{name}").examples, name, options)
    if options and not Path(options).suffix and name.replace(".", "").isidentifier():
        function = getattr(import_by_name(name, f"data {data}"), options, None)
        if not callable(function):
            raise DataError(f"data {data!r}: the module {name} has no function {options}")
        made = function()
        if not isinstance(made, Examples):
            raise DataError(f"{data} must return multimodal.examples.Examples, not {type(made).__name__}")
        return made
    from multimodal.datasets.manifest import examples

    if not Path(data).is_file():
        raise DataError(
            f"data {data!r} is neither a manifest on this machine nor one of {', '.join(NAMES)}: "
            "give a .jsonl or .csv file, or one of these names"
        )
    return examples(Path(data), test_fraction=test_fraction)


def _call(function: Callable[..., Examples], name: str, options: str) -> Examples:
    """Call with `option=value,…` turned into the types that the function declares."""
    parameters = inspect.signature(function).parameters
    given: dict[str, Any] = {}
    for part in filter(None, options.split(",")):
        option, separator, text = part.partition("=")
        if option not in parameters or not separator:
            raise DataError(f"{name} has no option {part!r}; its options: {', '.join(parameters) or 'none'}")
        given[option] = _value(text, parameters[option].annotation, f"{name}:{option}")
    try:
        return function(**given)
    except TypeError as error:
        missing = [
            option for option, parameter in parameters.items()
            if parameter.default is inspect.Parameter.empty and option not in given
        ]  # fmt: skip
        if not missing:
            raise
        raise DataError(f"{name} needs {', '.join(missing)}: give --data {name}:{missing[0]}=…") from error


def _value(text: str, kind: Any, where: str) -> Any:
    if kind is bool:
        if text.lower() not in _LITERALS:
            raise DataError(f"{where} must be true or false, got {text!r}")
        return _LITERALS[text.lower()]
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise DataError(f"{where} must be a number, got {text!r}") from None
    return text
