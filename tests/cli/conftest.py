"""A user's own recipe in the current directory, with a trainer that needs no torch."""

import signal
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

MODULE = '''
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal
import core.config


@dataclass(frozen=True, kw_only=True)
class MyConfig(core.config.RunConfig):
    """A run of mine."""

    trainer: ClassVar[str] = "{name}:MyTrainer"

    flavour: Literal["sweet", "sour"] = "sweet"
    """Which taste."""
    pair: tuple[float, float] = (0.5, 1.5)
    """Two numbers."""
    model: core.config.ModelConfig = field(default_factory=core.config.ModelConfig)
    """The model."""


class MyTrainer:
    def __init__(self, config, *, recipe=None):
        self.config, self.recipe = config, recipe

    def train(self):
        self.config.out.mkdir(parents=True)
        (self.config.out / "recipe.txt").write_text(self.recipe)
        if self.config.flavour == "sour":
            raise ValueError("the lemon is not ripe:\\nwait a week")
        return {{"accuracy": 0.5, "steps": self.config.steps}}


def good(steps: int = 5, **changes: object) -> MyConfig:
    """A run of five steps.

    Command: trillium train {name}:good
    Runtime: no time at
      all
    Expected: accuracy 0.5
    """
    return MyConfig(out=Path("out"), steps=steps, **changes)


def needs_more(what: str) -> MyConfig:
    return MyConfig(out=Path(what))


def returns_number():
    return 3


def raises():
    raise KeyError("gone")


def no_trainer():
    return core.config.RunConfig()
'''


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Name of a module of recipes in the current directory; another one for every test."""
    name = f"mine_{abs(hash(request.node.nodeid))}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(MODULE.format(name=name)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


@pytest.fixture(autouse=True)
def handlers_restored() -> Iterator[None]:
    """`main` installs signal handlers, which belong to its process and not to the tests'."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
