"""The page and the example run as they stand."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

from rl.trl import from_trl

pytest.importorskip("trl")

ROOT = Path(__file__).parents[3]


def test_the_page_runs_from_top_to_bottom(tmp_path, monkeypatch):
    page = (ROOT / "docs" / "trl.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.S | re.M)
    (tmp_path / "page.py").write_text("\n".join(blocks), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names = runpy.run_path(str(tmp_path / "page.py"))
    tokens = torch.tensor([names["own_tokenizer"].encode("r0c0:")])
    after, before = (names[name].logits(names[name](tokens)) for name in ("policy", "own"))
    assert (after - before).abs().max() > 1e-3


def test_the_example_trains_and_takes_the_policy_back(tmp_path, monkeypatch, capsys):
    example = ROOT / "examples" / "trl_grpo.py"
    command = [str(example), "trillium/Copy-v0", "run", "--steps", "10", "--episodes", "16"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr(sys, "path", list(sys.path))
    runpy.run_path(str(example), run_name="__main__")
    assert re.search(r"return -?\d\.\d{3} at first, ", capsys.readouterr().out)
    monkeypatch.setattr(sys, "argv", [*command, "--init-from", "run/policy"])
    runpy.run_path(str(example), run_name="__main__")
    model, tokenizer = from_trl(tmp_path / "run" / "policy")
    assert model.vocab_size == tokenizer.vocab_size
