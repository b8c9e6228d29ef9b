"""The example script with the environment that docs/policy.md shows."""

import re
import runpy
import sys
import warnings
from pathlib import Path

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

ROOT = Path(__file__).parents[2]


def test_the_example_trains_in_the_environment_of_the_docs(tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "policy.md").read_text(encoding="utf-8")
    module = next(block for block in re.findall(r"^```python\n(.*?)^```", page, re.S | re.M) if "gymnasium" in block)
    (tmp_path / "my_module.py").write_text(module, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    example = ROOT / "examples" / "finetune_policy.py"
    assert len(example.read_text(encoding="utf-8").splitlines()) < 60
    monkeypatch.setattr(sys, "argv", [str(example), "my_module:my/Twice-v0", "run", "--steps", "30"])
    try:
        runpy.run_path(str(example), run_name="__main__")
        assert "report: run/report.html" in capsys.readouterr().out
        assert (tmp_path / "run" / "report.html").is_file()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_env(gymnasium.make("my/Twice-v0").unwrapped, skip_render_check=True)
    finally:
        gymnasium.registry.pop("my/Twice-v0", None)
        sys.modules.pop("my_module", None)


def test_the_example_says_what_it_wants(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["finetune_policy.py"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / "examples" / "finetune_policy.py"), run_name="__main__")
    assert stopped.value.code == 2
    assert "env" in capsys.readouterr().err
