import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from core.training.log import RunLog, write_samples


def lines(out: Path) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not strict JSON")

    text = (out / "metrics.jsonl").read_text()
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def opened(out: Path, step: int = 0, **options: Any) -> RunLog:
    log = RunLog(out, quiet=True, tensorboard=False, **options)
    log.begin(step, 100)
    return log


def test_window_mean_by_hand(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.add(1, {"loss": 1.0, "rare": 5.0})
    log.add(2, {"loss": 2.0})
    log.flush(2, 4.0)
    log.add(3, {"loss": 7.0})
    log.flush(3, 4.5)
    assert lines(tmp_path) == [
        {"step": 2, "time_s": 4.0, "loss": 1.5, "rare": 5.0, "steps_per_s": 0.5},
        {"step": 3, "time_s": 4.5, "loss": 7.0, "steps_per_s": 2.0},
    ]


def test_tokens_become_a_rate(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.add(1, {"tokens": 30})
    log.add(2, {"tokens": 50})
    log.flush(2, 4.0)
    assert lines(tmp_path) == [{"step": 2, "time_s": 4.0, "steps_per_s": 0.5, "tokens_per_s": 20.0}]


@pytest.mark.parametrize(("value", "text"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")])
def test_nonfinite_values_are_written_and_counted_never_averaged_away(tmp_path: Path, value: float, text: str) -> None:
    log = opened(tmp_path)
    for step in range(1, 8):
        log.add(step, {"loss": value if step == 3 else 1.0, "other": 2.0})
    log.flush(7, 1.0)
    log.add(8, {"loss": 1.0})
    log.flush(8, 2.0)
    log.evaluation(8, 2.0, {"score": value}, 0.0)
    first, second, third = lines(tmp_path)
    assert (first["loss"], first["other"], first["nonfinite_total"]) == (text, 2.0, 1)
    assert (second["loss"], second["nonfinite_total"]) == (1.0, 1)
    assert (third["eval/score"], third["nonfinite_total"]) == (text, 2)


def test_resume_cuts_lines_beyond_the_checkpoint_and_half_a_line(tmp_path: Path) -> None:
    log = opened(tmp_path)
    for step in range(1, 6):
        log.add(step, {"loss": float(step)})
        if step == 3:
            state = json.loads(json.dumps(log.state_dict()))
        if step % 2 == 0:
            log.flush(step, float(step))
    log.close(5)
    whole = lines(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    log = RunLog(tmp_path, quiet=True, tensorboard=False)
    log.load_state_dict(state)
    log.begin(3, 100)
    assert lines(tmp_path) == whole[:1]
    log.add(4, {"loss": 4.0})
    log.flush(4, 4.0)
    assert lines(tmp_path) == whole  # the third step is in the mean


def test_remembers_the_evaluations_in_the_file(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.evaluation(4, 1.0, {"score": math.nan}, 0.5)
    log.evaluation(8, 2.0, {"score": 1.0}, 0.5)
    log.close(8)
    assert opened(tmp_path, 6).last_evaluation == 4
    again = opened(tmp_path, 3)
    assert again.last_evaluation is None
    assert lines(tmp_path) == []


def test_tensorboard_events_are_written(tmp_path: Path) -> None:
    log = RunLog(tmp_path, quiet=True)
    log.begin(0, 10)
    log.add(1, {"loss": 1.0})
    log.flush(1, 1.0)
    log.close(1)
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_plain_lines_without_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.training.progress.PLAIN_EVERY_S", 0.0)
    log = RunLog(tmp_path, tensorboard=False)
    log.begin(10, 12)
    log.add(11, {"loss/generator": 1.25, "tokens": 10})
    log.close(11)
    output = capsys.readouterr()
    assert output.out == ""
    assert re.fullmatch(r"step 11/12: \S+ steps/s, [\d,]+ tokens/s, loss 1.25, \S+ s left\n", output.err)


def test_bar_on_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr("core.training.progress.LIVE_EVERY_S", 0.0)
    log = RunLog(tmp_path, tensorboard=False)
    log.begin(0, None)  # a time budget
    log.add(1, {"loss": 1.25})
    log.display.set_total(4)
    log.add(2, {"loss": 1.5})
    log.close(2)
    output = capsys.readouterr()
    assert output.out == ""
    text = re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", output.err)
    assert "2/4" in text
    assert "loss 1.5" in text


def test_samples_file(tmp_path: Path) -> None:
    path = write_samples(tmp_path / "samples", 7, [{"output": "花"}, {"output": "b"}])
    assert path.name == "step-00000007.jsonl"
    assert path.read_text(encoding="utf-8") == '{"output": "花"}\n{"output": "b"}\n'
    assert [p.name for p in path.parent.iterdir()] == [path.name]
