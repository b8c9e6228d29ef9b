"""The program as a user runs it, in processes of its own. CI also runs this file alone against the installed wheel."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TINY = ["--device", "cpu", "--compile", "off", "--precision", "fp32", "--threads", "1", "--time-budget-s", "None"]
TINY += ["--model.width", "32", "--model.num-layers", "1", "--model.num-heads", "2", "--length", "16"]
TINY += ["--batch-size", "4", "--steps", "6", "--log-every", "1", "--checkpoint-every", "3"]


def trillium(*arguments: str | Path, where: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "trillium", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=where, check=False)


def test_the_packages_are_the_installed_ones():
    code = "import core, multimodal, adversarial, rl, trillium; print(core.__file__)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    checkout = os.environ.get("TRILLIUM_CHECKOUT")
    if checkout:  # set by CI, which tests the wheel
        assert not Path(done.stdout.strip()).is_relative_to(Path(checkout) / "core")


def test_list_and_doctor_work_from_any_directory(tmp_path):
    listed = trillium("list", where=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert "core:text" in listed.stdout
    examined = trillium("doctor", where=tmp_path)
    assert examined.returncode == 0, examined.stdout
    assert "fail" not in examined.stdout


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory that the command line made."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text.txt").write_text("the cat sat on the mat and the dog sat on the log. " * 60)
    done = trillium("train", "core:text", "--text", "text.txt", "--out", "run", *TINY, where=folder)
    assert done.returncode == 0, done.stderr
    assert "loss" in done.stdout
    return folder / "run"


def test_a_run_directory_holds_what_it_should(run):
    stored = json.loads((run / "config.json").read_text())
    assert stored["recipe"] == "core:text"
    assert stored["machine"]["cores"]
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert max(record["step"] for record in metrics) == 6
    assert json.loads((run / "eval.json").read_text())["metrics"]
    assert "core:text" in (run / "report.html").read_text()
    assert list((run / "checkpoints").iterdir())


def test_the_same_command_again_trains_nothing_and_gives_the_same_scores(run):
    before = json.loads((run / "eval.json").read_text())["metrics"]
    arguments = ["train", "core:text", "--text", "text.txt", "--out", "run", *TINY]
    done = trillium(*arguments, where=run.parent)
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "eval.json").read_text())["metrics"] == before


def test_another_config_in_the_same_directory_is_refused(run):
    arguments = ["train", "core:text", "--text", "text.txt", "--out", "run", *TINY, "--seed", "5"]
    done = trillium(*arguments, where=run.parent)
    assert done.returncode == 2
    assert "seed" in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_eval_sample_and_report_read_the_run(run):
    scores = trillium("eval", run, "--json", where=run.parent)
    assert scores.returncode == 0, scores.stderr
    stored = json.loads((run / "eval.json").read_text())["metrics"]
    assert json.loads(scores.stdout).keys() == stored.keys()
    sampled = trillium("sample", run, "-n", "2", "--json", where=run.parent)
    assert sampled.returncode == 0, sampled.stderr
    assert len(sampled.stdout.splitlines()) == 2
    report = trillium("report", run, run, "--out", "both.html", where=run.parent)
    assert report.returncode == 0, report.stderr
    assert (run.parent / "both.html").read_text().startswith("<!doctype html>")
