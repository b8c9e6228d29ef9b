import json
from pathlib import Path

import pytest

from core.cli import main
from core.demo import PARTS, NothingRan, Part, run_demo
from core.errors import RecipeError

MODULE = """
import json
from dataclasses import dataclass
from typing import ClassVar
from core.config import RunConfig
from core.pretrained.sources import MissingData


@dataclass(frozen=True, kw_only=True)
class DemoConfig(RunConfig):
    trainer: ClassVar[str] = "{name}:DemoTrainer"
    data: str = "here"


class DemoTrainer:
    def __init__(self, config, *, recipe):
        self.config, self.recipe = config, recipe

    def train(self):
        if self.config.data == "absent":
            raise MissingData("pictures are not on this machine: get them with `trillium data get pictures`")
        self.config.out.mkdir(parents=True)
        content = {{"config_class": "x:Y", "recipe": self.recipe, "config": {{"steps": self.config.steps}}}}
        (self.config.out / "config.json").write_text(json.dumps(content))
        return {{"accuracy": 0.75, "steps": self.config.steps}}


def small() -> DemoConfig:
    return DemoConfig(steps=100)


def absent() -> DemoConfig:
    return DemoConfig(data="absent")
"""


@pytest.fixture
def demo_module(tmp_path, monkeypatch, request):
    name = f"demo_{abs(hash(request.node.nodeid))}"
    (tmp_path / f"{name}.py").write_text(MODULE.format(name=name))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_every_part_runs_and_one_report_shows_them_all(demo_module, tmp_path):
    parts = (
        Part(f"{demo_module}:small", "one", {"steps": 7}),
        Part(f"{demo_module}:absent", "two", {"data": "here"}),
    )
    said: list[str] = []
    outcome = run_demo(tmp_path / "demo", say=said.append, parts=parts)
    assert [row[:3] for row in outcome.rows] == [
        [f"{demo_module}:small", "accuracy", "0.75"],
        ["", "steps", "7"],
        [f"{demo_module}:absent", "accuracy", "0.75"],
        ["", "steps", "1,000"],
    ]
    assert outcome.missing == []
    assert outcome.report == tmp_path / "demo" / "report.html"
    assert f"{demo_module}:absent" in outcome.report.read_text()
    assert len(said) == 2


def test_quick_takes_a_few_steps_in_folders_of_their_own(demo_module, tmp_path):
    run_demo(tmp_path / "demo", say=str, quick=True, parts=[Part(f"{demo_module}:small", "one")])
    stored = json.loads((tmp_path / "demo" / f"{demo_module}-small-quick" / "config.json").read_text())
    assert stored["config"]["steps"] == 4


def test_missing_data_leaves_a_part_out_and_says_how_to_get_it(demo_module, monkeypatch, capsys):
    parts = (Part(f"{demo_module}:absent", "one"), Part(f"{demo_module}:small", "two"))
    monkeypatch.setattr("core.demo.run_demo.__kwdefaults__", {**run_demo.__kwdefaults__, "parts": parts})
    assert main(["demo", "--out", "demo"]) == 1
    out = capsys.readouterr().out
    assert out.count("trillium data get pictures") == 2  # when it happens, and at the end
    assert f"{Path('demo/report.html').resolve()}" in out
    with pytest.raises(NothingRan, match="trillium data get pictures"):
        run_demo(Path("other"), say=str, parts=parts[:1])
    assert not Path("other").exists()


def test_a_wrong_recipe_stops_the_demo_before_its_first_part(demo_module):
    parts = [Part(f"{demo_module}:small", "one"), Part(f"{demo_module}:no_such", "two")]
    with pytest.raises(RecipeError, match="no_such"):
        run_demo(Path("demo"), say=str, parts=parts)
    assert not Path("demo").exists()


def test_the_demo_shows_all_three_petals():
    assert {part.recipe.partition(":")[0] for part in PARTS} == {"multimodal", "adversarial", "rl"}
