"""`trillium train`, `eval` and `sample`."""

import dataclasses
import inspect
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.commands.mappings import added_to, mapping_options
from core.commands.options import Parser, positive, print_table
from core.config import RunConfig
from core.errors import RunError
from core.recipes import build_config, make_trainer, require_finite, resolve


def train(arguments: list[str]) -> int:
    """Train a recipe; the options are the fields of its config."""
    if not arguments or arguments[0].startswith("-"):
        parser = Parser("train", "Train a recipe, or go on with it where an earlier run stopped.")
        parser.add_argument("recipe", metavar="PKG:RECIPE", help="see `trillium list`, or my_module:my_recipe")
        parser.epilog = "The options are the fields of the recipe's config: `trillium train PKG:RECIPE --help`."
        parser.parse_args(arguments)
        return 2
    name = arguments[0]
    config = parse_config(name, build_config(name), arguments[1:], inspect.getdoc(resolve(name)) or "")
    scores = make_trainer(config, name).train()
    if os.environ.get("RANK", "0") == "0":
        print_scores(scores)
        print(f"run directory: {config.out}")
    return 0


def evaluate(arguments: list[str]) -> int:
    """Score a run's newest checkpoint."""
    parser = Parser("eval", "Score the weights of a run's newest checkpoint and print the scores.")
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("--device", default="auto", help="`auto` or a torch device such as cpu or cuda:1")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args(arguments)
    trainer = load_run(options.run, options.device)
    scores = trainer.evaluate()
    if options.json:
        print(json.dumps({name: value if value == value else "nan" for name, value in scores.items()}))
    else:
        print_scores(scores)
    return 0


def sample(arguments: list[str]) -> int:
    """Print samples of a run's model."""
    parser = Parser("sample", "Print samples of the model in a run's newest checkpoint.")
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("-n", "--num-samples", type=positive, default=8, help="how many (default 8)")
    parser.add_argument("--prompt", help="text that a language model goes on from")
    parser.add_argument("--max-new-tokens", type=positive, help="most tokens that a language model adds (default 200)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling (default 0)")
    parser.add_argument("--device", default="auto", help="`auto` or a torch device such as cpu or cuda:1")
    parser.add_argument("--json", action="store_true", help="print one JSON value a line")
    options = parser.parse_args(arguments)
    trainer = load_run(options.run, options.device)
    wanted = {"prompt": options.prompt, "max_new_tokens": options.max_new_tokens}
    given = {name: value for name, value in wanted.items() if value is not None}
    unknown = sorted(given.keys() - inspect.signature(trainer.sample).parameters.keys())
    if unknown:
        raise RunError(f"--{unknown[0].replace('_', '-')} is for language models: {options.run} draws its own contexts")
    from core.training.state import seed_everything

    trainer.task  # noqa: B018 - building the task draws random numbers, so it comes before the seed
    seed_everything(options.seed)
    for item in trainer.sample(options.num_samples, **given):
        print(json.dumps(item, ensure_ascii=False) if options.json else _readable(item))
    return 0


def parse_config(name: str, config: RunConfig, arguments: list[str], description: str) -> RunConfig:
    """The config with the options applied. Exits with code 2 and a message when one of them is wrong.

    Args:
        name: the recipe's name, for the help text.
        config: the recipe's config, which gives the defaults.
        arguments: options such as `--optim.lr 1e-3`.
        description: shown by `--help`.
    """
    import tyro

    def given(option: str) -> bool:
        return any(argument.split("=")[0] == option for argument in arguments)

    if given("--steps") and not given("--time-budget-s"):
        # The recipe's own time budget would override the steps that were asked for.
        config = dataclasses.replace(config, time_budget_s=None)
    parsed = tyro.cli(
        type(config),
        default=config,
        args=arguments,
        prog=f"trillium train {name}",
        # The help text keeps paragraphs, not lines, so each marked line becomes a paragraph.
        description=re.sub(r"\n(?=(Command|Runtime|Expected):)", "\n\n", description),
        config=(tyro.conf.AvoidSubcommands,),
        registry=mapping_options(),
    )
    parsed = added_to(config, parsed)
    require_finite(parsed)
    return parsed


def load_run(run: Path, device: str = "auto") -> Any:
    """The trainer of a run directory with its newest good checkpoint, or what stands for one of a model folder.

    Raises:
        RunError: not a run directory.
        ValueError: no good checkpoint.
    """
    if not run.is_dir():
        raise RunError(f"{run} is not a run directory: there is no such folder")
    if not (run / "config.json").is_file():
        raise RunError(f"{run} is not a run directory: it has no config.json")
    from core.pretrained.interchange import is_model_folder

    if is_model_folder(run):
        from core.language.pretrained import PretrainedModel

        return PretrainedModel(run, device)
    # A run of a user's own recipe names a config class in a file of theirs.
    sys.path.append(os.getcwd())
    from core.training.trainer import Trainer

    return Trainer.load(run, device=device)


def print_scores(scores: Mapping[str, float]) -> None:
    """Print scores as a table."""
    from core.report.curves import format_number

    print_table(["score", "value"], [[name, format_number(float(value))] for name, value in scores.items()])


def _readable(item: Any) -> str:
    """A sample as text: strings as they are, objects as `key: value` lines."""
    if isinstance(item, str):
        return item
    if not isinstance(item, Mapping):
        return json.dumps(item, ensure_ascii=False, default=str)
    lines = []
    for key, value in item.items():
        if isinstance(value, list):
            lines += [f"{key}:", *(f"  {_turn(turn)}" for turn in value)]
        else:
            lines.append(f"{key}: {value}")
    return "\n".join([*lines, ""])


def _turn(turn: Any) -> str:
    return f"{turn.get('role', '')}: {turn.get('text', '')}" if isinstance(turn, Mapping) else str(turn)
