"""Wrong options never start a run: for every field of every config, generated from the dataclasses."""

import dataclasses
import os
import typing
from pathlib import Path

import pytest

from core.cli import main
from core.commands.training import parse_config
from core.config import ModelConfig, OptimConfig, RunConfig
from core.recipes import build_config, list_recipes

RECIPES = [recipe.name for recipe in list_recipes()]


def fields_of(config: object, prefix: str = "--") -> list[tuple[str, object, object]]:
    """(option, type, value) of all fields, those of nested configs included."""
    hints = typing.get_type_hints(type(config))
    found: list[tuple[str, object, object]] = []
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        name = f"{prefix}{field.name.replace('_', '-')}"
        found += fields_of(value, f"{name}.") if dataclasses.is_dataclass(value) else [(name, hints[field.name], value)]
    return found


def bad_values(kind: object) -> list[list[str]]:
    """Arguments that no field of this type may take."""
    parts = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        if Ellipsis in parts:
            return []
        return [["1"] * (len(parts) + 1), *([[*["1"] * (len(parts) - 1), "nan"]] if float in parts else [])]
    if typing.get_origin(kind) is typing.Literal:
        return [["nonsense"]]
    if kind is bool:
        return [["False"]]
    if kind is int or (int in parts and str not in parts):
        return [["1.5"]]
    if kind is float or (float in parts and str not in parts):
        return [["abc"], ["nan"], ["-inf"]]
    return []


def refused(recipe: str, config: RunConfig, arguments: list[str], option: str) -> bool:
    """Whether the options end the program with code 2, or with an error that names the option."""
    try:
        parse_config(recipe, config, arguments, "")
    except SystemExit as stop:
        return stop.code == 2
    except ValueError as error:
        return option in str(error)
    return False


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_field_of_a_recipe_refuses_what_it_cannot_be(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = build_config(recipe)
    # What all recipes have in common is tried with the first one.
    shared = {field.name for field in dataclasses.fields(RunConfig)} if recipe != RECIPES[0] else set()
    for option, kind, _ in fields_of(config):
        if option.removeprefix("--").partition(".")[0].replace("-", "_") in shared:
            continue
        for values in bad_values(kind):
            # As one argument: argparse would take a separate -inf for an option.
            arguments = [f"{option}={values[0]}"] if len(values) == 1 else [option, *values]
            assert refused(recipe, config, arguments, option), f"{recipe} accepts {' '.join(arguments)}"
    assert "Traceback" not in capsys.readouterr().err
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("config", "free"),
    [(OptimConfig(), {"--muon-lr"}), (ModelConfig(), set()), (RunConfig(), {"--seed"})],
    ids=["optim", "model", "run"],
)
def test_counts_are_not_negative(config, free):
    for option, kind, _ in fields_of(config):
        if option in free or "." in option:
            continue
        if kind is int or int in typing.get_args(kind):
            name = option.removeprefix("--").replace("-", "_")
            value = {"model": -1} if typing.get_origin(kind) is dict else -1
            with pytest.raises(ValueError, match=name):
                dataclasses.replace(config, **{name: value})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stepz", "3"], "Perhaps you meant: --steps"),
        (["--steps", "abc"], "invalid literal for int"),
        (["--steps", "-1"], "steps must be >= 0"),
        (["--optim.lr", "nan"], "optim.lr must be finite"),
        (["--pair", "1", "nan"], "--pair must be finite, got nan"),
        (["--pair", "1"], "--pair"),
        (["--flavour", "salty"], "invalid choice 'salty'"),
        (["--resume", "False"], "Unrecognized options: False"),
        (["extra"], "Unrecognized options: extra"),
        (["--model.width", "7"], "must be a multiple of model.num_heads"),
    ],
)
def test_a_wrong_option_ends_with_code_2_one_message_and_nothing_written(mine, capsys, arguments, message):
    before = sorted(Path().iterdir())
    assert main(["train", f"{mine}:good", *arguments]) == 2
    out, err = capsys.readouterr()
    assert message in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err
    assert out == ""
    assert [path for path in sorted(Path().iterdir()) if path.name != "__pycache__"] == before
