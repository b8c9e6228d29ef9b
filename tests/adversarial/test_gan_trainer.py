"""The trainer on small texts: both phases, exact resume, files, example, bad settings."""

import dataclasses
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from adversarial.config import GANConfig
from adversarial.task import GanTask
from adversarial.trainers import GANTrainer
from core.config import ModelConfig, OptimConfig
from core.errors import RunError
from core.recipes import build_config
from core.text.tokenizer import load_tokenizer

SMALL = ModelConfig(width=16, num_layers=1, num_heads=1, max_length=32)


def make_config(out: Path, **changes: Any) -> GANConfig:
    settings: dict[str, Any] = {
        "out": out, "train_lines": 200, "held_out_lines": 30, "eval_samples": 30, "sample_lines": 5, "steps": 14,
        "mle_fraction": 0.5,
        "discriminator_warmup": 0.3, "batch_size": 8, "model": SMALL, "threads": 1, "device": "cpu", "log_every": 1,
    }  # fmt: skip
    return GANConfig(**{**settings, **changes})


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "sentences.txt"
    lines = [f"{who} {does} {what} ." for who in ("I", "you", "we") for does in ("see", "like") for what in "abcdefgh"]
    path.write_text("\n".join(lines), "utf-8")
    return path


def records(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [{k: v for k, v in line.items() if k not in ("time_s", "steps_per_s", "tokens_per_s")} for line in lines]


def task_of(trainer: GANTrainer) -> GanTask:
    assert isinstance(trainer.task, GanTask)
    return trainer.task


def test_a_text_file_goes_through_both_phases(text: Path, tmp_path: Path) -> None:
    trainer = GANTrainer(make_config(tmp_path / "run", text=text), quiet=True)
    scores = trainer.train()
    lines = {line["step"]: line for line in records(tmp_path / "run") if "loss/mle" in line or "unique" in line}
    assert "loss/discriminator" not in lines[7]
    assert "loss/discriminator" in lines[8]
    assert "loss/generator" not in lines[9]  # the discriminator's head start: 0.3 of 7 steps
    assert {"loss/generator", "loss/features", "loss/mle", "entropy", "penalty", "unique"} <= set(lines[10])
    for line in lines.values():
        assert all(isinstance(value, int | float) for value in line.values())

    stored = json.loads((tmp_path / "run" / "eval.json").read_text("utf-8"))
    rows = {row["name"]: row for row in stored["rows"]}
    texts = ["training text (ceiling)", "shuffled words (floor)", "held-out text"]
    assert list(rows) == ["untrained", "MLE start", "model", *texts]
    assert "valid" not in scores
    assert {"nll", "bleu_2", "bleu_5", "self_bleu_4", "unique", "distinct_2"} <= set(scores)
    assert rows["model"]["nll"]["value"] == pytest.approx(scores["nll"])
    assert rows["MLE start"]["nll"]["value"] < rows["untrained"]["nll"]["value"]
    assert rows["untrained"]["nll"]["value"] != rows["MLE start"]["nll"]["value"] != rows["model"]["nll"]["value"]
    assert "after 7 adversarial steps" in stored["notes"][1]
    (samples,) = (tmp_path / "run" / "samples").glob("step-*.jsonl")
    assert [set(json.loads(line)) for line in samples.read_text("utf-8").splitlines()] == [{"text"}] * 5
    assert "shuffled words" in (tmp_path / "run" / "report.html").read_text("utf-8")


def test_the_mle_row_is_the_generator_at_the_end_of_its_phase(tmp_path: Path) -> None:
    mle_only = GANTrainer(make_config(tmp_path / "mle", steps=7, mle_fraction=1.0), quiet=True, report=False)
    scores = mle_only.train()
    both = GANTrainer(make_config(tmp_path / "gan"), quiet=True, report=False)
    both.train()
    rows = {row["name"]: row for row in json.loads((tmp_path / "gan" / "eval.json").read_text("utf-8"))["rows"]}
    assert rows["MLE start"]["nll"]["value"] == pytest.approx(scores["nll"], rel=1e-6)
    assert "MLE start" not in (tmp_path / "mle" / "eval.json").read_text("utf-8")
    for name, value in task_of(mle_only).model.state_dict().items():
        assert torch.equal(task_of(both).mle_start[name], value), name  # type: ignore[index]


def test_the_discriminator_s_head_start_leaves_the_generator_alone(tmp_path: Path) -> None:
    trainer = GANTrainer(make_config(tmp_path, mle_fraction=0.0, discriminator_warmup=1.0), quiet=True, report=False)
    task = task_of(trainer)
    stream = iter(trainer.batches)
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    judge = {name: value.clone() for name, value in task.discriminator.module.state_dict().items()}
    for _ in range(3):
        task.train_step(next(stream))
    assert all(torch.equal(value, before[name]) for name, value in task.model.state_dict().items())
    assert not torch.equal(task.discriminator.module.state_dict()["judge.weight"], judge["judge.weight"])
    assert all(parameter.requires_grad for parameter in task.discriminator.module.parameters())


def test_without_adversarial_weight_the_generator_step_is_an_mle_step(tmp_path: Path) -> None:
    config = make_config(
        tmp_path, mle_fraction=0.0, discriminator_warmup=0.0, adversarial_weight=0.0, feature_weight=0.0
    )
    adversarial, plain = (GANTrainer(config, quiet=True) for _ in range(2))
    batch = next(iter(adversarial.batches))
    task_of(adversarial).train_step(batch)
    reference = task_of(plain)
    reference.generator.follow(0, config.steps)
    reference.generator.step_micro([batch], reference._mle_terms)
    for name, value in reference.model.state_dict().items():
        torch.testing.assert_close(task_of(adversarial).model.state_dict()[name], value, msg=name)


@pytest.mark.parametrize("network", ["transformer", "lstm"])
@pytest.mark.parametrize("cut", [4, 11])
def test_a_stopped_run_goes_on_with_equal_bits(
    network: str, cut: int, tmp_path: Path, train_until: Callable[[GANTrainer, int], None]
) -> None:
    model = dataclasses.replace(SMALL, dropout=0.1)
    settings = {"network": network, "model": model, "checkpoint_every": 3, "discriminator_steps": 2}
    whole = GANTrainer(make_config(tmp_path / "whole", **settings), quiet=True, report=False)
    scores = whole.train()

    first = GANTrainer(make_config(tmp_path / "cut", **settings), quiet=True, report=False)
    train_until(first, cut)
    second = GANTrainer(make_config(tmp_path / "cut", **settings), quiet=True, report=False)
    assert second.train() == scores
    assert records(tmp_path / "cut") == records(tmp_path / "whole")
    for part in ("generator", "discriminator"):
        expected = getattr(whole.task, part).module.state_dict()
        for name, value in getattr(second.task, part).module.state_dict().items():
            assert torch.equal(value, expected[name]), name


def test_a_run_is_loaded_sampled_saved_and_exported(text: Path, tmp_path: Path) -> None:
    trainer = GANTrainer(make_config(tmp_path / "run", text=text), quiet=True, report=False)
    trainer.train()
    again = GANTrainer.load(tmp_path / "run", device="cpu")
    torch.manual_seed(5)
    expected = trainer.sample(6)
    torch.manual_seed(5)
    assert again.sample(6) == expected
    assert again.evaluate() == pytest.approx(trainer.evaluate())
    folder = again.save(tmp_path / "saved")
    assert {path.name for path in folder.glob("*.safetensors")} == {
        "generator.safetensors",
        "discriminator.safetensors",
    }
    stored = load_file(folder / "generator.safetensors")
    assert torch.equal(stored["model.norm.weight"], task_of(trainer).model.state_dict()["model.norm.weight"])
    assert load_tokenizer(folder).fingerprint == trainer.corpus.tokenizer.fingerprint
    model, tokenizer = again.export_parts()
    assert model.vocab_size == tokenizer.vocab_size
    lstm = GANTrainer(make_config(tmp_path / "lstm", network="lstm"), quiet=True)
    with pytest.raises(RunError, match="only a Transformer can be exported"):
        lstm.export_parts()


def test_another_text_under_an_old_run_is_noticed(text: Path, tmp_path: Path) -> None:
    GANTrainer(make_config(tmp_path / "run", text=text), quiet=True, report=False).train()
    text.write_text(text.read_text("utf-8").replace("like", "love"), "utf-8")
    with pytest.raises(ValueError, match="the text has another vocabulary"):
        GANTrainer.load(tmp_path / "run", device="cpu")


def test_a_collapsed_generator_is_called_so(tmp_path: Path) -> None:
    trainer = GANTrainer(make_config(tmp_path / "run"), quiet=True, report=False)
    with torch.no_grad():  # a generator that says end-of-sequence at once
        task_of(trainer).model.model.norm.weight.zero_()  # type: ignore[union-attr,operator]
        task_of(trainer).model.lm_head.weight.zero_()
    assert not any("collapsed" in note for note in trainer.report_sections()["notes"])
    trainer.evaluation.generate = lambda model, count: ["the cat sleeps ."] * count  # type: ignore[method-assign]
    notes = trainer.report_sections()["notes"]
    assert any("collapsed: only 3% of its sentences differ" in note and "mle_weight" in note for note in notes)


def test_the_recipe_needs_no_data_and_survives_four_steps(tmp_path: Path) -> None:
    config = dataclasses.replace(
        build_config("adversarial:gan"), out=tmp_path / "run", steps=4, train_lines=100, eval_samples=20
    )
    scores = GANTrainer(config, recipe="adversarial:gan", quiet=True, report=False).train()
    assert 0 <= scores["valid"] <= 1


def test_the_example_trains_on_a_file_of_one_s_own(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example = Path(__file__).parents[2] / "examples" / "train_text_gan.py"
    assert len(example.read_text("utf-8").splitlines()) < 60
    monkeypatch.setattr(sys, "argv", [str(example), str(text), str(tmp_path / "run"), "--steps", "4"])
    runpy.run_path(str(example), run_name="__main__")
    printed = capsys.readouterr().out
    assert "MLE start" in printed
    assert "nll" in printed
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.parametrize("content", ["", "one line\n", "word\n"])
def test_a_text_that_cannot_be_used_stops_before_training(content: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    path.write_text(content, "utf-8")
    with pytest.raises(ValueError, match=r"bad\.txt has"):
        GANTrainer(make_config(tmp_path / "run", text=path), quiet=True).train()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mle_fraction": 1.5}, "mle_fraction must be in"),
        ({"max_tokens": 40}, r"model\.max_length 32 is too short for max_tokens 40"),
        ({"penalty": -1.0}, "penalty must be finite and >= 0, got -1"),
        ({"adversarial_weight": float("nan")}, "adversarial_weight must be finite"),
        ({"temperature": 0.0}, "temperature must be finite and > 0"),
        ({"time_budget_s": 60.0}, "time_budget_s does not go with a GAN"),
        ({"compile": "on"}, "compile must be off"),
        ({"precision": "fp16"}, "fp16"),
        ({"discriminator": OptimConfig(accumulate=2)}, r"discriminator\.accumulate must be 1"),
        ({"mle": OptimConfig(ema_decay=0.9)}, r"mle\.ema_decay must be 0"),
        ({"eval_samples": 1}, "eval_samples must be >= 2"),
        ({"held_out_fraction": 0.0}, "held_out_fraction must be between"),
    ],
)
def test_bad_settings_are_named_with_their_value(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        make_config(tmp_path, **changes)


def test_a_batch_of_one_is_too_small(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 2"):
        GANTrainer(make_config(tmp_path / "run", batch_size=1), quiet=True).train()
