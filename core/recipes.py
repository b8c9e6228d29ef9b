"""From the name of a recipe to the config of a run.

A recipe is a function without required arguments that returns a config. Its docstring starts with one sentence and has
lines such as these, the last two of which `trillium list` shows:

    Command: trillium train multimodal:twemoji
    Runtime: 5 minutes on two CPU cores
    Expected: split C exact match 0.93, BLEU-4 0.97, CIDEr-D 9.6

`PKG:RECIPE` names the function `RECIPE` in the module that the package declares under the entry point group
`trillium.recipes`; any other importable module, for example a file in the current directory, is named by itself.
"""

import difflib
import importlib
import importlib.util
import inspect
import math
import os
import sys
import traceback
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from core.config import RunConfig
from core.errors import RecipeError

Recipe = Callable[..., RunConfig]

GROUP = "trillium.recipes"


@dataclass(frozen=True)
class RecipeInfo:
    """What a recipe's docstring says."""

    name: str
    """`PKG:RECIPE`."""
    summary: str
    runtime: str
    expected: str


def declared_modules(group: str = GROUP) -> dict[str, str]:
    """Module by package name, as the installed packages declare them under an entry point group."""
    return {point.name: point.value for point in sorted(entry_points(group=group), key=lambda point: point.name)}


def resolve(name: str) -> Recipe:
    """The recipe function of a name such as `multimodal:twemoji` or `my_module:my_recipe`.

    Raises:
        RecipeError: not of this form, no such module or function, or the module fails when it is imported.
    """
    package, separator, function_name = name.partition(":")
    if not (separator and package and function_name):
        raise RecipeError(f"a recipe is named PKG:RECIPE, not {name!r}; `trillium list` shows the recipes")
    declared = declared_modules()
    module = import_by_name(declared.get(package, package), f"the recipe {name}", list(declared))
    function = getattr(module, function_name, None)
    if not callable(function) or function_name.startswith("_"):
        known = list(_recipe_functions(module))
        raise RecipeError(f"{module.__name__} has no recipe {function_name!r}{_suggest(function_name, known)}")
    return typing.cast(Recipe, function)


def build_config(name: str, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Call a recipe.

    Args:
        name: `PKG:RECIPE`.
        overrides: keyword arguments for the recipe.

    Raises:
        RecipeError: the recipe cannot be found, fails, or does not return a run's config.
    """
    recipe = resolve(name)
    try:
        config = recipe(**(overrides or {}))
    except Exception as error:
        # Whatever a user's own recipe raises is an expected failure here; the message keeps the place.
        raise RecipeError(f"recipe {name} failed: {_describe(error)}") from error
    if not isinstance(config, RunConfig):
        raise RecipeError(f"recipe {name} must return a core.config.RunConfig, not {type(config).__name__}")
    if not config.trainer:
        raise RecipeError(f"recipe {name} returns a {type(config).__name__}, which names no trainer to run it")
    return config


def make_trainer(config: RunConfig, recipe: str | None = None) -> Any:
    """The trainer that a config names.

    Raises:
        RecipeError: there is no such class.
    """
    module_name, _, class_name = config.trainer.partition(":")
    try:
        kind = getattr(importlib.import_module(module_name), class_name)
    except AttributeError:
        raise RecipeError(f"{type(config).__name__} names the trainer {config.trainer}, which does not exist") from None
    except ModuleNotFoundError as error:
        if error.name != module_name:
            raise
        raise RecipeError(f"{type(config).__name__} names the trainer {config.trainer}, which does not exist") from None
    return kind(config, recipe=recipe)


def list_recipes() -> list[RecipeInfo]:
    """All recipes that installed packages declare, by package. A package whose recipe module is absent is left out.

    Raises:
        RecipeError: a declared module is there but fails when it is imported.
    """
    found = []
    for package, module_name in declared_modules().items():
        if not module_exists(module_name):
            continue
        module = import_by_name(module_name, f"the package {package}")
        found += [describe_recipe(f"{package}:{name}", f) for name, f in _recipe_functions(module).items()]
    return found


def describe_recipe(name: str, recipe: Recipe) -> RecipeInfo:
    """The first sentence and the `Runtime:` and `Expected:` lines of a recipe's docstring."""
    text = inspect.getdoc(recipe) or ""
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
    marked: dict[str, str] = {}
    last = ""
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip().lower() in ("command", "runtime", "expected"):
            last = key.strip().lower()
            marked[last] = value.strip()
        elif last and line.startswith(" "):
            marked[last] += " " + line.strip()
        else:
            last = ""
    return RecipeInfo(name, paragraphs[0], marked.get("runtime", ""), marked.get("expected", ""))


def require_finite(config: Any, prefix: str = "--") -> None:
    """Refuse NaN and infinities anywhere in a config.

    Raises:
        ValueError: names the option and its value.
    """
    for field in fields(config):
        value = getattr(config, field.name)
        name = f"{prefix}{field.name.replace('_', '-')}"
        if is_dataclass(value):
            require_finite(value, f"{name}.")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(f"{name} must be finite, got {number}")


def module_exists(module_name: str) -> bool:
    """Whether a module can be found. False only if the module itself or its package is absent."""
    try:
        return importlib.util.find_spec(module_name) is not None
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            return False
        raise


def import_by_name(module_name: str, wanted: str, known: Sequence[str] = ()) -> ModuleType:
    """A module that a user named; one in the current directory is found too.

    Args:
        module_name: dotted.
        wanted: what it is for, in messages.
        known: names to suggest for a wrong one.

    Raises:
        RecipeError: there is no such module, it cannot be imported, or another one bears its name.
    """
    here = os.getcwd()
    if here not in sys.path:
        # At the end, so that a file here cannot take the place of a module that the program itself imports.
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise RecipeError(
                f"no package or module {module_name!r} for {wanted}{_suggest(module_name, known)}"
            ) from None
        raise RecipeError(f"{module_name} cannot be imported: {_describe(error)}") from error
    except Exception as error:
        raise RecipeError(f"{module_name} cannot be imported: {_describe(error)}") from error
    local = Path(here, *module_name.split(".")).with_suffix(".py")
    origin = getattr(module, "__file__", None)
    if local.is_file() and not (origin and Path(origin).resolve() == local.resolve()):
        raise RecipeError(f"{module_name} means {origin or 'a built-in module'}, not {local}: rename your file")
    return module


def _recipe_functions(module: ModuleType) -> dict[str, Recipe]:
    """Public functions defined in a module whose annotation says that they return a run's config."""
    found: dict[str, Recipe] = {}
    for name, function in vars(module).items():
        if inspect.isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_"):
            kind = typing.get_type_hints(function).get("return")
            optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
            parameters = inspect.signature(function).parameters.values()
            required = [p for p in parameters if p.default is p.empty and p.kind not in optional]
            if isinstance(kind, type) and issubclass(kind, RunConfig) and not required:
                found[name] = function
    return found


def _suggest(wrong: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(wrong, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there are: {', '.join(known)}" if known else ""


def _describe(error: BaseException) -> str:
    """An exception in one line, with the place where it came from."""
    if isinstance(error, SyntaxError):
        return f"{error.msg} ({error.filename}, line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"
