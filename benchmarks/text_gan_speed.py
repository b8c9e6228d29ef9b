"""The pieces of the classic text-GAN protocols on one CPU thread: seconds each, and how they compare with peers.

    python benchmarks/text_gan_speed.py [--rounds 3]

The peers' seconds are TextGAN-PyTorch's, one thread of a machine of the same kind, measured apart from this program;
so the ratios are those of two measurements, not of alternating runs. Generator LSTM 32 / 32 or RelGAN's relational
memory, 5,000 words, 20 tokens, batches of 64.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from adversarial.config import GANConfig
from adversarial.estimators.game import Game
from adversarial.estimators.reinforce import mean_baseline, reward_of, rollout_rewards
from adversarial.generator import draw_samples
from adversarial.task import GanTask
from adversarial.trainers import GANTrainer
from core.config import ModelConfig, OptimConfig

PEER_S = {"MLE epoch": 10.5, "10,000 samples": 20.8, "roll-out reward": 32.0, "D epoch": 25.9, "RelGAN step": 32.4}


def build(**changes: object) -> tuple[GanTask, GANTrainer]:
    """A run on an oracle that is never trained to its end."""
    settings: dict[str, object] = {
        "out": Path("runs/speed"), "source": "oracle", "train_lines": 200, "held_out_lines": 10, "steps": 10**6,
        "mle_fraction": 0.5, "threads": 1, "precision": "bf16", "device": "cpu", "batch_size": 64, "network": "lstm",
        "model": ModelConfig(width=32, num_layers=1, num_heads=1, max_length=128), "penalty": 0.0, "min_unique": 0.0,
        "mle": OptimConfig(lr=1e-2, optimizer="adam", max_grad_norm=5.0), "discriminator_warmup": 0.0,
    }  # fmt: skip
    trainer = GANTrainer(GANConfig(**{**settings, **changes}))  # type: ignore[arg-type]
    task = trainer.task
    assert isinstance(task, GanTask)
    return task, trainer


def seconds(work: Callable[[], object], rounds: int, times: float = 1.0) -> list[float]:
    """Seconds of each round, after one that is not counted."""
    work()
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        found.append((time.perf_counter() - began) * times)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    task, trainer = build(judge="cnn", judge_dropout=0.25, estimator="rollouts")
    batch = trainer.text.real(64)
    sentences = task.draw(64)
    game = Game(
        task.model, task.discriminator.module.eval(), lambda _, rewards, mask: mean_baseline(rewards, mask),
        task.config, 0, None, 20, task.draw, 0.0, {},
    )  # fmt: skip

    def rewards() -> None:
        with task.runtime.autocast():
            rollout_rewards(game, sentences, 16, reward_of(game, batch))

    def samples() -> None:
        for _ in range(10):
            draw_samples(task.model, 1000, max_tokens=20, bos_id=0, eos_id=None)

    measured = {
        "MLE epoch": seconds(lambda: [task.train_step(batch) for _ in range(26)], rounds, 156 / 26),
        "10,000 samples": seconds(samples, rounds),
        "roll-out reward": seconds(rewards, rounds),
    }
    task.discriminator.module.train()
    half = batch.part(0, 32)
    # An epoch has 20,000 sentences, half of them real, in batches of 64.
    measured["D epoch"] = seconds(
        lambda: [task._discriminator_step(half, sentences.part(0, 32)) for _ in range(20)], rounds, 313 / 20
    )
    task, trainer = build(
        judge="representations", judge_dropout=0.25, loss="relativistic", estimator="gumbel", network="relational",
        mle_fraction=0.0, mle_weight=0.0, feature_weight=0.0, adversarial_weight=1.0, discriminator_steps=5,
    )  # fmt: skip
    measured["RelGAN step"] = seconds(lambda: task.train_step(batch), rounds)
    for name, times in measured.items():
        middle = sorted(times)[len(times) // 2]
        print(
            f"{name:16} {middle:6.2f} s [{min(times):.2f}, {max(times):.2f}]   peer {PEER_S[name]:5.1f} s   "
            f"{PEER_S[name] / middle:4.1f} x"
        )


if __name__ == "__main__":
    main()
