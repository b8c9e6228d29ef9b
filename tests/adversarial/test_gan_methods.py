"""Every method through the trainer: it learns, it resumes with equal bits, it stops when it goes wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from adversarial.config import GANConfig
from adversarial.task import Collapsed, GanTask
from adversarial.trainers import GANTrainer
from core.config import ModelConfig, OptimConfig

DROPOUT = ModelConfig(width=16, num_layers=1, num_heads=1, max_length=32, dropout=0.1)
METHODS: dict[str, dict[str, Any]] = {
    "rollouts": {
        "estimator": "rollouts", "judge": "light_cnn", "num_rollouts": 2, "baseline": "critic", "network": "lstm",
    },
    "dense": {"estimator": "dense", "judge": "tokens", "baseline": "critic", "network": "lstm"},
    "gumbel": {
        "estimator": "gumbel", "judge": "representations", "judge_width": 4, "loss": "relativistic", "penalty": 0.0,
        "network": "lstm",
    },
    "importance": {"estimator": "importance", "judge": "attention", "judge_dropout": 0.1},
    "clipped": {
        "estimator": "clipped", "judge": "attention", "loss": "relativistic", "generator_steps": 3,
        "adversarial_dropout": 0.0,
    },
    "ranking": {
        "estimator": "rollouts", "judge": "light_cnn", "loss": "ranking", "reward": "rank", "baseline": "none",
        "num_rollouts": 2, "penalty": 0.0,
    },
    "cooperative": {"estimator": "cooperative", "judge": "mediator", "penalty": 0.0, "network": "lstm",
        "adversarial_dropout": 0.3,
    },
    "cot": {"estimator": "cooperative", "judge": "mediator", "divergence": "reverse", "fake_weight": 1.0},
    "rpgan": {"loss": "relativistic", "judge": "attention", "penalty": 1.0, "fake_penalty": 1.0, "replay": 0.5},
    "wgan": {"loss": "wasserstein", "judge": "light_cnn", "judge_width": 8, "interpolated_penalty": 10.0},
    "mmd": {"feature_loss": "mmd", "judge": "light_cnn", "judge_width": 8, "spectral_norm": True},
}  # fmt: skip


def make_config(out: Path, **changes: Any) -> GANConfig:
    settings: dict[str, Any] = {
        "out": out, "train_lines": 100, "held_out_lines": 20, "eval_samples": 20, "sample_lines": 3, "steps": 8,
        "mle_fraction": 0.5, "discriminator_warmup": 0.0, "batch_size": 8, "threads": 1, "device": "cpu",
        "log_every": 1, "discriminator_steps": 2, "select_every": 2,
        "model": DROPOUT,
        "optim": OptimConfig(lr=1e-3, ema_decay=0.9),
    }  # fmt: skip
    return GANConfig(**{**settings, **changes})


def task_of(trainer: GANTrainer) -> GanTask:
    assert isinstance(trainer.task, GanTask)
    return trainer.task


def lines_of(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [{k: v for k, v in line.items() if k not in ("time_s", "steps_per_s", "tokens_per_s")} for line in lines]


@pytest.mark.parametrize("method", METHODS)
def test_a_stopped_run_of_every_method_goes_on_with_equal_bits(
    method: str, tmp_path: Path, train_until: Callable[[GANTrainer, int], None]
) -> None:
    settings = {**METHODS[method], "checkpoint_every": 3}
    whole = GANTrainer(make_config(tmp_path / "whole", **settings), quiet=True, report=False)
    scores = whole.train()
    first = GANTrainer(make_config(tmp_path / "cut", **settings), quiet=True, report=False)
    train_until(first, 7)
    second = GANTrainer(make_config(tmp_path / "cut", **settings), quiet=True, report=False)
    assert second.train() == scores
    assert lines_of(tmp_path / "cut") == lines_of(tmp_path / "whole")
    saved = GANTrainer.load(tmp_path / "whole", device="cpu").save(tmp_path / "saved")
    further = {"critic.safetensors"} if whole.config.baseline == "critic" else set()
    assert {p.name for p in saved.glob("*.safetensors")} == {
        "generator.safetensors",
        "discriminator.safetensors",
        *further,
    }
    last = lines_of(tmp_path / "whole")[-2]
    judged = {"loss/mediator" if whole.config.judge == "mediator" else "loss/discriminator"}
    if method not in ("cooperative", "cot", "ranking"):
        judged.add("accuracy/unseen")
    assert {"unique", "validation_nll", *judged} <= set(last)


def following(values: list[float], weights: list[dict[str, torch.Tensor]]) -> Any:
    """Scores to be given in turn, with a record of what was scored."""

    def validate(model: Any) -> float:
        weights.append({name: value.clone() for name, value in model.state_dict().items()})
        return values[len(weights) - 1]

    return validate


def test_the_weights_that_were_best_on_validation_lines_begin_the_game(tmp_path: Path) -> None:
    trainer = GANTrainer(
        make_config(tmp_path, steps=12, mle_fraction=0.75, max_nll_rise=100.0), quiet=True, report=False
    )
    task, stream = task_of(trainer), iter(trainer.batches)
    weights: list[dict[str, torch.Tensor]] = []
    trainer.text.validate = following([3.0, 1.0, 2.0, 1.5, 1.5, 9.0], weights)  # type: ignore[method-assign]
    for _ in range(9):
        task.train_step(next(stream))
    assert len(weights) == 5  # every second step and the last
    assert all(torch.equal(value, weights[1][name]) for name, value in task.model.state_dict().items())
    task.train_step(next(stream))
    assert task.mle_start is not None
    assert all(torch.equal(value, weights[1][name]) for name, value in task.mle_start.items())


@pytest.mark.parametrize(("values", "best"), [([1.0, 2.0, 3.0, 0.5, 0.7], 3), ([1.0, 2.0, 3.0, 4.0, 4.0], 0)])
def test_the_generator_too_can_be_chosen_and_its_mle_start_is_a_candidate(
    values: list[float], best: int, tmp_path: Path
) -> None:
    config = make_config(tmp_path, select_generator=True, max_nll_rise=100.0, steps=10, mle_fraction=0.2)
    trainer = GANTrainer(config, quiet=True, report=False)
    task, stream = task_of(trainer), iter(trainer.batches)
    weights: list[dict[str, torch.Tensor]] = []
    trainer.text.validate = following(values, weights)  # type: ignore[method-assign]
    for _ in range(10):
        task.train_step(next(stream))
    assert all(torch.equal(value, weights[best][name]) for name, value in task.model.state_dict().items())


def test_a_generator_that_unlearns_the_text_stops_the_run_and_the_checkpoint_before_is_kept(tmp_path: Path) -> None:
    fast = OptimConfig(lr=1.0, schedule="constant")
    trainer = GANTrainer(
        make_config(tmp_path / "run", optim=fast, max_nll_rise=0.5, checkpoint_every=4, steps=40, mle_fraction=0.1),
        quiet=True, report=False,
    )  # fmt: skip
    with pytest.raises(Collapsed, match=r"has unlearned the text: its validation nll is .* last checkpoint is kept"):
        trainer.train()
    good = GANTrainer.load(tmp_path / "run", device="cpu")
    assert good.step == 4


def test_a_generator_that_says_one_thing_stops_the_run(tmp_path: Path) -> None:
    config = make_config(tmp_path, network="lstm", mle_fraction=0.0, steps=30, discriminator_warmup=1.0)
    trainer = GANTrainer(config, quiet=True, report=False)
    task, stream = task_of(trainer), iter(trainer.batches)
    with torch.no_grad():
        task.model.lm_head.bias[2] = 50.0  # type: ignore[index]
    for _ in range(9):
        assert task.train_step(next(stream))["unique"] < 0.2
    with pytest.raises(Collapsed, match="only 6% of its sentences differ, ten rounds in a row"):
        task.train_step(next(stream))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"estimator": "dense"}, "estimator dense needs a logit for every token: set judge to tokens"),
        ({"judge": "tokens", "loss": "relativistic"}, "use relativistic_average"),
        ({"baseline": "critic"}, "baseline critic is for the estimators rollouts and dense, got straight_through"),
        ({"reward": "rank", "estimator": "rollouts"}, "loss ranking, reward rank and a judge of sentences go together"),
        ({"reward": "logit"}, "reward logit is for the estimator rollouts, got straight_through"),
        ({"estimator": "clipped", "model": DROPOUT}, "set adversarial_dropout to 0"),
        ({"replay": 1.5}, r"replay must be in \[0, 1\], got 1.5"),
        ({"judge_dropout": 1.0}, r"judge_dropout must be in \[0, 1\), got 1"),
        ({"inverse_temperature": 0.5}, "inverse_temperature must be >= 1, got 0.5"),
        ({"num_rollouts": 0}, "num_rollouts must be >= 1, got 0"),
        ({"fake_penalty": -1.0}, "fake_penalty must be finite and >= 0, got -1"),
        ({"select_every": -1}, "select_every must be >= 0, got -1"),
    ],
)
def test_settings_that_do_not_go_together_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GANConfig(**changes)
