"""Settings and recipes."""

import dataclasses
import json
import math
import subprocess
import sys

import pytest

from core.commands.training import parse_config
from core.config import ModelConfig, OptimConfig
from core.recipes import build_config, describe_recipe, resolve
from core.training import configfile
from rl.algorithms import ALGORITHMS
from rl.config import PolicyConfig

RECIPES = [
    f"rl:{name}"
    for name in (
        "copy", "reverse", "sort", "frozen_lake", "slippery_lake", "cliff", "taxi", "blackjack", "tictactoe",
        "guess_number", "wordle", "textgen", "arithmetic", "hanoi", "adventure", "rlhf",
    )
]  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("env", ""),
        ("max_turns", 0),
        ("epochs", 0),
        ("minibatches", 0),
        ("eval_episodes", 1),
        ("sample_episodes", -1),
        ("temperature", 0.0),
        ("temperature", math.inf),
        ("critic_lr", 0.0),
        ("gamma", 1.1),
        ("gae_lambda", -0.1),
        ("clip", -0.1),
        ("value_clip", math.nan),
        ("target_kl", -1.0),
        ("entropy_coef", -1.0),
    ],
)
def test_wrong_values_are_named(field, value):
    with pytest.raises(ValueError, match=field):
        PolicyConfig(**{field: value})


def test_settings_that_do_not_go_together():
    with pytest.raises(ValueError, match="dropout"):
        PolicyConfig(model=ModelConfig(dropout=0.1))
    with pytest.raises(ValueError, match="baseline leave_one_out"):
        PolicyConfig(batch_size=1)
    assert PolicyConfig(batch_size=1, baseline="none").batch_size == 1
    with pytest.raises(ValueError, match="cannot be split into 12"):
        PolicyConfig(algorithm="ppo", batch_size=8, minibatches=4, optim=OptimConfig(accumulate=3))
    with pytest.raises(ValueError, match="init_from needs network transformer"):
        PolicyConfig(init_from="folder", network="lstm")


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_build_and_say_what_to_expect(name, tmp_path):
    config = build_config(name)
    assert isinstance(config, PolicyConfig)
    info = describe_recipe(name, resolve(name))
    assert info.runtime
    assert info.expected
    configfile.write(tmp_path / "config.json", config, name)
    assert configfile.read(tmp_path / "config.json") == config
    assert json.loads((tmp_path / "config.json").read_text())["config"]["env"] == config.env


def test_the_algorithm_is_one_word_on_the_command_line():
    for word in ALGORITHMS:
        for name in RECIPES:
            parsed = parse_config(name, build_config(name), ["--algorithm", word], "")
            assert parsed == dataclasses.replace(build_config(name), algorithm=word)


def test_arguments_of_the_environment_on_the_command_line():
    options = ["--env-kwargs", "length", "3", "alphabet", "xy", "dense", "False"]
    parsed = parse_config("rl:copy", build_config("rl:copy"), options, "")
    assert parsed.env_kwargs == {"length": 3, "alphabet": "xy", "dense": False}
    # They are added to those of a recipe.
    parsed = parse_config("rl:taxi", build_config("rl:taxi"), ["--env-kwargs", "masked", "false", "rainy", "True"], "")
    assert parsed.env_kwargs == {"masked": False, "rainy": True}
    assert parse_config("rl:taxi", build_config("rl:taxi"), ["--seed", "1"], "").env_kwargs == {"masked": True}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--env-kwargs", "masked"], "'masked' has none"),
        (["--optim.lr-scales", "model", "fast"], "'fast' is no number"),
    ],
)
def test_a_wrong_mapping_is_said(capsys, options, message):
    with pytest.raises(SystemExit) as stop:
        parse_config("rl:taxi", build_config("rl:taxi"), options, "")
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_settings_need_no_torch():
    code = "import sys, rl.config, rl.recipes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
