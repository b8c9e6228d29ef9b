"""Settings that are mappings, as options: `--env-kwargs length 8 dense False` adds to what a recipe has.

tyro alone would give a mapping with a default one option per key, and no way to name another key.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin

if TYPE_CHECKING:
    from tyro.constructors import ConstructorRegistry

Settings = TypeVar("Settings")


def mapping_options() -> "ConstructorRegistry":
    """What tells tyro how mappings are written."""
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

    registry = ConstructorRegistry()

    @registry.primitive_rule
    def rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[dict[str, Any]] | None:
        if get_origin(info.type) is not dict:
            return None
        kind = get_args(info.type)[1]
        kinds = get_args(kind) or (kind,)
        return PrimitiveConstructorSpec(
            nargs="*",
            metavar="[KEY VALUE …]",
            instance_from_str=lambda words: _mapping(words, kinds),
            is_instance=lambda value: isinstance(value, dict),
            str_from_instance=lambda mapping: [str(word) for pair in mapping.items() for word in pair],
        )

    return registry


def added_to(defaults: Settings, given: Settings) -> Settings:
    """The given settings, in which mappings have the keys of the defaults too, as far as they are not given."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(given):  # type: ignore[arg-type]
        old, new = getattr(defaults, field.name), getattr(given, field.name)
        if isinstance(old, dict) and isinstance(new, dict):
            changes[field.name] = {**old, **new}
        elif dataclasses.is_dataclass(new) and type(old) is type(new):
            changes[field.name] = added_to(old, new)
    return dataclasses.replace(given, **changes) if changes else given  # type: ignore[type-var]


def _mapping(words: Sequence[str], kinds: Sequence[type]) -> dict[str, Any]:
    if len(words) % 2:
        raise ValueError(f"give a value for each key, as in KEY VALUE KEY VALUE; {words[-1]!r} has none")
    return {key: _value(text, kinds) for key, text in zip(words[::2], words[1::2])}


def _value(text: str, kinds: Sequence[type]) -> bool | int | float | str:
    """The text as the first of these types that it can be read as: bool, int, float, str."""
    if bool in kinds and text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        if kind in kinds:
            try:
                return kind(text)
            except ValueError:
                continue
    if str not in kinds:
        raise ValueError(f"{text!r} is no number")
    return text
