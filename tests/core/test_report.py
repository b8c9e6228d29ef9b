"""The report: a self-contained page from whatever a run directory holds so far."""

import base64
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from core.errors import RunError
from core.report.curves import Line, draw_chart, format_number, smooth, thin
from core.report.page import write_report
from core.report.rundata import Curve, read_run


def make_run(folder: Path, *, kind: str = "multimodal.config:CaptioningConfig", recipe: str | None = "a:b") -> Path:
    folder.mkdir(parents=True)
    config = {"out": str(folder), "steps": 40, "time_budget_s": None, "optim": {"lr": 0.001, "betas": [0.9, 0.95]}}
    content = {
        "config_class": kind,
        "recipe": recipe,
        "config": config,
        "versions": {"torch": "2.13.0"},
        "machine": {"cpu": "Abacus 3000"},
    }
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def add_lines(path: Path, records: list[dict[str, Any]], end: str = "\n") -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(json.dumps(record) for record in records) + end)


class Page(HTMLParser):
    """Collects text, tags and references; fails on a tag that is closed out of order."""

    VOID = frozenset({"meta", "img", "line", "circle", "br", "polyline"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "data", "action") and value]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data


def report(*runs: Path, out: Path) -> Page:
    return Page(write_report(list(runs), out).read_text(encoding="utf-8"))


def test_a_run_that_has_just_started_is_shown(tmp_path):
    page = report(make_run(tmp_path / "r"), out=tmp_path / "report.html")
    assert "not evaluated yet" in page.text
    assert "No metrics logged yet" in page.text
    assert "Abacus 3000" in page.text
    assert "optim.lr" in page.text


def test_scores_show_intervals_floors_and_notes(tmp_path):
    run = make_run(tmp_path / "r")
    score = {"value": 0.61234, "low": 0.58, "high": 0.64}
    content = {
        "metrics": {"exact_match": score, "cider": 8.5},
        "rows": [{"name": "1-NN floor", "exact_match": 0.0, "cider": 5.8, "remark": "memorised"}],
        "seconds": 3.25,
        "notes": ["Split C."],
    }
    (run / "eval.json").write_text(json.dumps(content))
    page = report(run, out=tmp_path / "report.html")
    for text in ("0.6123", "0.58 – 0.64", "8.5", "1-NN floor", "5.8", "memorised", "Split C.", "evaluated in 3.25 s"):
        assert text in page.text
    assert page.text.index("model") < page.text.index("1-NN floor")


def test_the_models_row_comes_first_and_other_metrics_stand_below_the_table(tmp_path):
    run = make_run(tmp_path / "r")
    rows = [{"name": "random", "return": 0.2}, {"name": "model", "return": {"value": 0.5, "low": 0.4, "high": 0.6}}]
    (run / "eval.json").write_text(json.dumps({"metrics": {"return": 0.5, "turns": 3.0}, "rows": rows}))
    evaluation = read_run(run).evaluation
    assert evaluation is not None
    assert [row.name for row in evaluation.rows] == ["model", "random"]
    assert evaluation.rows[0].scores["return"].high == 0.6
    assert evaluation.metrics == ["return"]
    assert "turns 3" in report(run, out=tmp_path / "report.html").text


def test_only_the_first_charts_are_open_and_single_points_have_none(tmp_path):
    run = make_run(tmp_path / "r")
    add_lines(run / "metrics.jsonl", [{"step": s, "once": 1.0} | {f"m{i}": s + i for i in range(8)} for s in (1,)])
    assert write_report([run], tmp_path / "report.html").read_text().count('role="img"') == 0
    add_lines(run / "metrics.jsonl", [{"step": s} | {f"m{i}": s + i for i in range(8)} for s in (1, 2, 3)])
    html = write_report([run], tmp_path / "report.html").read_text()
    assert html.count('role="img"') == 8
    assert html.index("m5") < html.index("More curves") < html.index("m6")


def test_what_never_changed_comes_after_the_other_charts(tmp_path):
    run = make_run(tmp_path / "r")
    add_lines(run / "metrics.jsonl", [{"step": s, "turns": 1.0, "return": s / 2, "loss": 0.5} for s in (1, 2, 3)])
    html = write_report([run], tmp_path / "report.html").read_text()
    places = [html.index(f">{name}</") for name in ("loss", "return", "turns")]
    assert places == sorted(places)


def test_curves_of_one_family_share_a_chart_and_nonfinite_values_are_counted(tmp_path):
    run = make_run(tmp_path / "r")
    records: list[dict[str, Any]] = [{"step": s, "time_s": s / 10, "loss": 2 / s, "lr": 0.1} for s in range(1, 41)]
    records[6]["loss"] = "nan"
    records.append({"step": 40, "eval/loss": 0.3})
    add_lines(run / "metrics.jsonl", records)
    html = write_report([run], tmp_path / "report.html").read_text()
    assert html.count('role="img"') == 2
    assert "1 non-finite value" in html
    assert "eval/loss: 0.3 at step 40" in html
    assert "step 40 of 40" in html


def test_a_metrics_file_that_is_being_written_is_read_up_to_its_last_whole_line(tmp_path):
    run = make_run(tmp_path / "r")
    add_lines(run / "metrics.jsonl", [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}], end='\n{"step": 3, "lo')
    data = read_run(run)
    assert data.curves["loss"].steps == [1, 2]
    assert data.problems == []
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\nrubbish\n{"step": 2, "loss": 0.5}\n')
    data = read_run(run)
    assert data.curves["loss"].values == [1.0, 0.5]
    assert data.problems == ["metrics.jsonl line 2 is not JSON and was left out"]


def test_a_resumed_run_has_each_step_once():
    curve = Curve()
    for step, value in [(1, 3.0), (2, 2.0), (3, 9.0), (2, 2.5), (3, math.inf), (4, 1.0)]:
        curve.add(step, value)
    assert (curve.steps, curve.values, curve.nonfinite) == ([1, 2, 4], [3.0, 2.5, 1.0], 1)


def test_pictures_are_embedded_small_beside_their_captions(tmp_path):
    run = make_run(tmp_path / "r")
    (run / "samples").mkdir()
    Image.new("RGBA", (600, 300), (200, 30, 30, 128)).save(run / "samples" / "a.png")
    Image.new("RGB", (600, 300), (30, 30, 200)).save(tmp_path / "b.jpg")
    (run / "samples" / "broken.png").write_bytes(b"no picture")
    rows = [
        {"image": "samples/a.png", "text": "a red box", "reference": "red box", "ok": True, "score": 9.5},
        {"image": str(tmp_path / "b.jpg"), "text": "a sea", "reference": ["blue", "blue box"], "ok": False},
        {"image": "samples/broken.png", "text": "what?"},
    ]
    add_lines(run / "samples" / "step-000040.jsonl", rows)
    page = report(run, out=tmp_path / "report.html")
    pictures = [link for link in page.links if link.startswith("data:image/")]
    assert [link[:16] for link in pictures] == ["data:image/png;b", "data:image/jpeg;"]
    assert all(len(link) < 20_000 for link in pictures)
    assert page.links == pictures
    for text in ("a red box ✓", "a sea ✗", "blue box", "score 9.5", "broken.png: not readable"):
        assert text in page.text


def test_a_drawing_in_the_run_directory_is_shown_at_its_size(tmp_path):
    run = make_run(tmp_path / "r")
    Image.new("RGB", (900, 600), (250, 250, 250)).save(run / "frontier.png")
    (run / "other.png").write_bytes(b"no picture")
    page = report(run, out=tmp_path / "report.html")
    (link,) = (link for link in page.links if link.startswith("data:image/"))
    with Image.open(io.BytesIO(base64.b64decode(link.partition(",")[2]))) as drawing:
        assert drawing.size == (900, 600)
    assert "r: frontier" in page.text
    assert "other.png: not readable" in page.text


def test_text_samples_and_transcripts(tmp_path):
    run = make_run(tmp_path / "r")
    add_lines(run / "samples" / "step-000010.jsonl", [{"prompt": "Once", "text": "upon\na time"}])
    turns = ["env: S", {"role": "agent", "text": "left"}, "It was 9:30: late"]
    add_lines(run / "samples" / "step-000020.jsonl", [{"title": "episode 1", "transcript": turns, "reward": 1.0}])
    page = report(run, out=tmp_path / "report.html")
    assert page.text.index("episode 1") < page.text.index("upon")  # newest first
    for text in ("agent left", "It was 9:30: late", "reward 1", "Earlier samples, step 10", "Once"):
        assert text in page.text


def test_runs_of_one_kind_are_side_by_side_and_other_kinds_apart(tmp_path):
    runs = [make_run(tmp_path / name) for name in ("small", "wide")]
    for index, run in enumerate(runs):
        add_lines(run / "metrics.jsonl", [{"step": s, "loss": 1.0 / s + index} for s in (1, 2, 3)])
        add_lines(run / "samples" / "step-000003.jsonl", [{"prompt": "p", "text": f"said {index}"}])
        (run / "eval.json").write_text(json.dumps({"metrics": {"bleu": 0.5 + index / 10}}))
    other = make_run(tmp_path / "policy", kind="rl.config:PolicyConfig", recipe="rl:copy")
    add_lines(other / "metrics.jsonl", [{"step": 1, "loss": 7.0}, {"step": 2, "loss": 6.0}])
    html = write_report([*runs, other], tmp_path / "report.html").read_text()
    assert html.count('role="img"') == 2  # one chart for the first two, one for the third
    assert html.count("<article") == 1  # one prompt, two answers
    page = Page(html)
    assert "said 0" in page.text
    assert "said 1" in page.text
    assert page.tags.count("h2") == 2
    assert page.tags.count("table") == 1


def test_runs_in_folders_of_the_same_name_are_told_apart(tmp_path):
    page = report(make_run(tmp_path / "a" / "run"), make_run(tmp_path / "b" / "run"), out=tmp_path / "report.html")
    assert str(tmp_path / "a" / "run") in page.text
    assert str(tmp_path / "b" / "run") in page.text


def test_nothing_in_a_run_can_put_markup_or_a_request_into_the_page(tmp_path):
    attack = "<script src='http://x.invalid/a.js'>alert(1)</script><img src=x onerror=alert(1)>"
    run = make_run(tmp_path / "r", recipe=attack)
    add_lines(run / "metrics.jsonl", [{"step": 1, attack: 1.0}, {"step": 2, attack: 2.0}])
    rows = [{"text": attack, "reference": attack, "title": attack, "prompt": attack, "transcript": [attack]}]
    add_lines(run / "samples" / "step-000002.jsonl", rows)
    (run / "eval.json").write_text(json.dumps({"metrics": {attack: 1.0}, "notes": [attack]}))
    html = write_report([run], tmp_path / "report.html").read_text()
    page = Page(html)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert page.links == []
    assert "default-src 'none'" in html
    assert not re.search(r"url\(|@import|<link", html)


@pytest.mark.parametrize("samples", [24, 25])
def test_long_lists_are_cut_and_say_so(tmp_path, samples):
    run = make_run(tmp_path / "r")
    add_lines(run / "samples" / "step-000001.jsonl", [{"text": f"number {i}"} for i in range(samples)])
    page = report(run, out=tmp_path / "report.html")
    assert page.tags.count("article") == 24
    assert ("The first 24 of 25." in page.text) == (samples == 25)


def test_folders_that_are_no_runs_and_damaged_files_are_refused(tmp_path):
    with pytest.raises(RunError, match=r"no config\.json"):
        write_report([tmp_path], tmp_path / "report.html")
    with pytest.raises(ValueError, match="at least one"):
        write_report([], tmp_path / "report.html")
    run = make_run(tmp_path / "r")
    (run / "eval.json").write_text('{"metrics": ')
    with pytest.raises(RunError, match=r"eval\.json is damaged"):
        write_report([run], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_smoothing_is_a_centred_mean_and_keeps_the_ends():
    assert smooth([1.0, 2.0, 6.0, 2.0, 1.0], reach=1) == pytest.approx([1, 3, 10 / 3, 3, 1])
    assert smooth([4.0] * 9, reach=3) == pytest.approx([4.0] * 9)
    assert smooth([], reach=2) == []


def test_thinning_keeps_the_extremes_and_the_ends():
    values = [math.sin(i / 300) for i in range(5000)]
    values[3210] = 9.0
    thinned = thin(Curve(list(range(5000)), values), most=100)
    assert len(thinned.values) <= 102
    assert max(thinned.values) == 9.0
    assert min(thinned.values) == min(values)
    assert thinned.steps == sorted(thinned.steps)
    assert (thinned.steps[0], thinned.steps[-1]) == (0, 4999)


@pytest.mark.parametrize(
    "values", [[1.0], [3.0, 3.0, 3.0], [0.0, 0.0], [1e-8, 1e8, 1.0], [-5.0, 5.0], [1e300, 1e299], [7e-9, 8e-9]]
)
def test_charts_stay_inside_their_frame(values):
    curve = Curve(list(range(1, len(values) + 1)), values)
    svg = draw_chart([Line("a <b>", curve)], "loss & more")
    coordinates = [float(n) for pair in re.findall(r'points="([^"]*)"', svg) for n in re.split("[ ,]", pair)]
    assert all(0 <= x <= 440 for x in coordinates[::2])
    assert all(0 <= y <= 230 for y in coordinates[1::2])
    assert "nan" not in svg
    assert "a &lt;b&gt;" in svg


def test_a_chart_without_finite_values_is_empty():
    assert draw_chart([Line("a", Curve(nonfinite=3))], "loss") == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.61234, "0.6123"), (12.0, "12"), (12.5, "12.5"), (1234.0, "1,234"), (1234.5, "1,234"), (3e-5, "3e-05"),
     (0.0, "0"), (-0.25, "-0.25"), (1e12, "1e+12"), (math.nan, "nan"), (-math.inf, "-inf")],
)  # fmt: skip
def test_numbers_are_short(value, text):
    assert format_number(value) == text
