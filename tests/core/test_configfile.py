import dataclasses
import json
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from core.config import ModelConfig, OptimConfig, RunConfig
from core.training import configfile


@dataclass(frozen=True, kw_only=True)
class Left:
    size: int = 1


@dataclass(frozen=True, kw_only=True)
class Right:
    size: int = 1
    depth: float = 0.5


@dataclass(frozen=True, kw_only=True)
class RichConfig(RunConfig):
    trainer: ClassVar[str] = "nowhere:Trainer"
    model: ModelConfig = field(default_factory=ModelConfig)
    side: Left | Right = field(default_factory=Left)
    data: Path | None = None
    pair: tuple[int, float] = (1, 2.0)
    names: tuple[str, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    table: dict[str, Left] = field(default_factory=dict)
    parts: list[int] = field(default_factory=list)
    choice: Literal["a", "b", 3] = "a"
    loose: int | str | None = None


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """`config.json` names the class by its module, and pytest's import mode hides this one."""
    module: Any = types.ModuleType("richconfig")
    module.RichConfig = RichConfig
    monkeypatch.setitem(sys.modules, "richconfig", module)
    monkeypatch.setattr(RichConfig, "__module__", "richconfig")
    for name in ("Left", "Right", "ModelConfig", "Path", "Mapping", "Literal", "ClassVar"):
        setattr(module, name, globals()[name])


CONFIGS = [
    RichConfig(),
    RichConfig(
        out=Path("runs/花"),
        time_budget_s=60,
        allow_config_change=("steps", "optim.lr"),
        optim=OptimConfig(betas=(0.8, 0.9), optimizer="muon"),
        model=ModelConfig(width=64, num_kv_heads=2),
        side=Right(depth=1),
        data=Path("x"),
        pair=(3, 4),
        names=("a", "b"),
        weights={"x": 1},
        table={"t": Left(size=3)},
        parts=[1, 2],
        choice=3,
        loose="text",
    ),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_round_trip(tmp_path: Path, config: RichConfig) -> None:
    path = tmp_path / "config.json"
    configfile.write(path, config, "core:recipe")
    assert configfile.read(path) == config
    content = json.loads(path.read_text())
    assert (content["config_class"], content["recipe"]) == ("richconfig:RichConfig", "core:recipe")
    assert content["versions"]["torch"]
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("steps", "many", "config.steps: 'many' is not"),
        ("steps", True, "config.steps: True is not"),
        ("steps", -1, "steps must be >= 0, got -1"),
        ("precision", "fp8", "config.precision: 'fp8'"),
        ("pair", [1], r"config.pair: \[1\]"),
        ("side", {"size": 1, "depth": 2.0, "x": 0}, "config.side: .* fits none of"),
        ("optim", {"lrr": 1.0}, "config.optim: OptimConfig has no field lrr"),
        ("stepz", 3, "RichConfig has no field stepz"),
    ],
)
def test_bad_values_name_their_field(tmp_path: Path, name: str, value: Any, message: str) -> None:
    path = tmp_path / "config.json"
    configfile.write(path, RichConfig())
    content = json.loads(path.read_text())
    content["config"][name] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        configfile.read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot read"),
        ('{"config_class": "no_such_module:X", "config": {}}', "No module named 'no_such_module'"),
        ('{"config_class": "os:getcwd", "config": {}}', "os:getcwd is not a run config"),
        ('{"config_class": "pathlib:Path", "config": {}}', "pathlib:Path is not a run config"),
        ('{"config": {}}', "cannot read"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        configfile.read(tmp_path / "config.json")


def test_values_that_json_cannot_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="a config cannot hold set"):
        configfile.encode(dataclasses.replace(RichConfig(), loose={1}))  # type: ignore[arg-type]
