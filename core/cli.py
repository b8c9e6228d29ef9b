"""The command line: finds the command, and turns expected failures into one line and an exit code.

Exit codes: 0 done, 1 a run failed on the way or a check found a problem, 2 nothing was started because of a wrong
option, a missing file or the like, 130 and 143 stopped by SIGINT and SIGTERM (the state is saved).

Packages add commands through the entry point group `trillium.commands`: a module with
`COMMANDS: dict[str, Callable[[list[str]], int]]`, whose functions' first docstring line is the help text.
"""

import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from core.errors import UserError
from core.training import signals

Command = Callable[[list[str]], int]

GROUP = "trillium.commands"
OUR_PACKAGES = ("core", "multimodal", "adversarial", "rl")
TRACEBACK_VARIABLE = "TRILLIUM_TRACEBACK"
"""Environment variable: when it is set, expected failures show their traceback too."""


_HELP_START = (
    "usage: trillium COMMAND …",
    "",
    "Captioning, text GANs and policy optimisation on one language model",
    "",
)
_HELP_END = (
    "",
    "`trillium COMMAND --help` shows the options of a command, `trillium train PKG:RECIPE --help` those of a recipe.",
    f"With {TRACEBACK_VARIABLE}=1 in the environment, errors show where they arose.",
)


@dataclass(frozen=True)
class _Built:
    """A command of `core`: where it is, and its help, so that `--help` need not import it."""

    place: str
    usage: str
    help: str


BUILT_IN = {
    "list": _Built("core.commands.show:list_command", "", "Recipes with their runtime and the score to expect."),
    "train": _Built("core.commands.training:train", "PKG:RECIPE [--…]", "Train; goes on where an earlier run stopped."),
    "eval": _Built("core.commands.training:evaluate", "RUN", "Score a run's newest checkpoint."),
    "sample": _Built("core.commands.training:sample", "RUN", "Print samples of a run's model."),
    "chat": _Built("core.commands.chat:chat", "RUN", "Talk to a run's language model."),
    "report": _Built("core.commands.show:report", "RUN…", "Write an HTML report of one or several runs."),
    "export": _Built("core.commands.weights:export", "RUN DIR", "Write a run's model as a Hugging Face folder."),
    "import": _Built("core.commands.weights:import_folder", "DIR OUT", "Read a Hugging Face folder into our layout."),
    "data": _Built("core.commands.data:data", "list|get NAME", "Data and weights: what is here, fetch more."),
    "doctor": _Built("core.commands.show:doctor", "", "Check versions, devices, threads, data; say how to mend."),
    "demo": _Built("core.commands.demo:demo", "", "Train a captioner, a text GAN and a policy, small."),
}


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; by default those of the process.

    Returns:
        The exit code.
    """
    # Before the heavy imports: a stop signal in those seconds must end the process with its proper code too.
    with signals.installed():
        return _run(sys.argv[1:] if argv is None else list(argv))


def _run(arguments: list[str]) -> int:
    try:
        return _dispatch(arguments)
    except SystemExit as stop:
        if isinstance(stop.code, str):
            return _fail(stop.code, 1)
        return stop.code or 0
    except BrokenPipeError:
        # The reader of our output went away, as with `trillium list | head`; that is no failure.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        code = _expected_failure(error)
        if code is None or os.environ.get(TRACEBACK_VARIABLE):
            raise
        hint = "" if isinstance(error, UserError) or _raised_by_us(error) else f" ({TRACEBACK_VARIABLE}=1 shows where)"
        return _fail(f"{_message(error)}{hint}", code)


def package_commands() -> dict[str, Command]:
    """The commands that installed packages declare. A package whose command module is absent adds none.

    Raises:
        UserError: two packages declare the same command, or one declares a command of `core`.
    """
    from core.recipes import declared_modules, module_exists

    found: dict[str, Command] = {}
    for module_name in declared_modules(GROUP).values():
        if not module_exists(module_name):
            continue
        for name, command in importlib.import_module(module_name).COMMANDS.items():
            if name in found or name in BUILT_IN:
                raise UserError(f"{module_name} declares the command {name!r}, which exists already")
            found[name] = command
    return found


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if arguments else 2
    name, rest = arguments[0], arguments[1:]
    if name in ("-V", "--version"):
        from importlib.metadata import version

        print(f"trillium {version('trillium-lm')}")
        return 0
    if name in BUILT_IN:
        module, _, function = BUILT_IN[name].place.partition(":")
        command: Command = getattr(importlib.import_module(module), function)
        return command(rest)
    added = package_commands()
    if name in added:
        return added[name](rest)
    close = difflib.get_close_matches(name, [*BUILT_IN, *added], n=1)
    hint = f"did you mean `trillium {close[0]}`?" if close else "see `trillium --help`"
    return _fail(f"no command {name!r}; {hint}", 2)


def _help() -> str:
    rows = [(f"{name} {built.usage}".strip(), built.help) for name, built in BUILT_IN.items()]
    for name, command in package_commands().items():
        rows.append((f"{name} …", (command.__doc__ or "").strip().partition("\n")[0]))
    width = max(len(usage) for usage, _ in rows)
    return "\n".join([*_HELP_START, *(f"  {usage:<{width}}  {text}" for usage, text in rows), *_HELP_END])


def _expected_failure(error: Exception) -> int | None:
    """The exit code of a failure that one line explains; None for a defect, whose traceback is wanted."""
    if isinstance(error, UserError):
        return error.exit_code
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError | PermissionError):
        return 2
    if isinstance(error, OSError | MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return 1
    if isinstance(error, ValueError) and _raised_by_us(error):
        return 2
    return None


def _raised_by_us(error: Exception) -> bool:
    """Whether our own code raised it, and not the depths of a library or a user's file."""
    frames = traceback.extract_tb(error.__traceback__)
    root = Path(__file__).resolve().parent.parent
    return bool(frames) and any(root / name in Path(frames[-1].filename).resolve().parents for name in OUR_PACKAGES)


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def _fail(message: str, code: int) -> int:
    print(f"trillium: error: {' '.join(message.split())}", file=sys.stderr)
    return code
