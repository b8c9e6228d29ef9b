"""`config.json`: a run's config, the recipe it came from, the versions and the machine that ran it."""

import dataclasses
import importlib
import json
import platform
import types
import typing
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from core import machine
from core.config import RunConfig

NAME = "config.json"


def class_name(config: Any) -> str:
    """`module:Class` of a config."""
    return f"{type(config).__module__}:{type(config).__qualname__}"


def encode(value: Any) -> Any:
    """A config, or a value in one, as JSON values.

    Raises:
        TypeError: a field holds something that JSON cannot express.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"a config cannot hold {type(value).__qualname__}: use numbers, strings, paths, tuples, dataclasses"
    )


def decode(annotation: Any, value: Any, where: str) -> Any:
    """Undo `encode` for a field of the given type.

    Raises:
        ValueError: the value does not fit the type; the message names the field.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if dataclasses.is_dataclass(annotation):
        return _decode_dataclass(annotation, value, where)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(arguments, value, where)
    if origin is tuple and isinstance(value, list):
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) == len(value):
            return tuple(decode(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value)))
    elif origin is list and isinstance(value, list):
        return [decode(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    elif origin in (dict, Mapping) or origin is typing.get_origin(Mapping[str, int]):
        if isinstance(value, dict):
            return {key: decode(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    elif origin is typing.Literal and value in arguments:
        return value
    elif annotation is Path and isinstance(value, str):
        return Path(value)
    elif annotation is Any or (annotation in (None, type(None)) and value is None):
        return value
    elif annotation is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif isinstance(annotation, type) and type(value) is annotation:
        return value
    raise ValueError(f"{where}: {value!r} is not a {annotation}")


def _decode_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    for kind in kinds:
        if dataclasses.is_dataclass(kind) and isinstance(value, dict) and _fields(kind) != set(value):
            continue  # of several dataclasses, the one with exactly these fields
        try:
            return decode(kind, value, where)
        except ValueError:
            continue
    raise ValueError(f"{where}: {value!r} fits none of {kinds}")


def _fields(kind: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(kind) if field.init}


def _decode_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: {value!r} is not a {kind.__name__}")
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(value) - _fields(kind))
    if unknown:
        raise ValueError(f"{where}: {kind.__name__} has no field {', '.join(unknown)}")
    return kind(**{name: decode(hints[name], item, f"{where}.{name}") for name, item in value.items()})


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def write(path: Path, config: RunConfig, recipe: str | None = None) -> None:
    """Write a run's `config.json`, whole or not at all.

    Args:
        path: the file.
        config: the config.
        recipe: `package:recipe` it came from.
    """
    content = {
        "config_class": class_name(config),
        "recipe": recipe,
        "config": encode(config),
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in ("trillium-lm", "torch", "numpy", "safetensors")},
        },
        "machine": machine.describe(),
    }
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    part.replace(path)


def read(path: Path) -> RunConfig:
    """The config in a `config.json`.

    The class is imported by its name, so it must be importable; a file cannot bring code of its own.

    Raises:
        ValueError: no such file, or it does not hold a run's config.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        module, _, name = content["config_class"].partition(":")
        kind = getattr(importlib.import_module(module), name)
    except FileNotFoundError:
        raise ValueError(f"{path.parent} is not a run: it has no {path.name}") from None
    except (ValueError, KeyError, TypeError, ImportError, AttributeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, RunConfig)):
        raise ValueError(f"cannot read {path}: {content['config_class']} is not a run config")
    config = decode(kind, content["config"], "config")
    assert isinstance(config, RunConfig)
    return config
