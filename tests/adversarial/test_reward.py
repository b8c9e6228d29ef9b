"""The discriminator as a reward: what it says of texts, whoever wrote them."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

from adversarial.config import GANConfig
from adversarial.generator import Sentences, token_losses
from adversarial.reward import log_density_ratio
from adversarial.trainers import GANTrainer
from core.config import ModelConfig
from core.interfaces import Samples


def trained(out: Path, **changes) -> GANTrainer:
    settings = {"network": "lstm", "judge": "cnn"} | changes
    config = GANConfig(
        out=out, train_lines=200, held_out_lines=20, eval_samples=20, steps=30, mle_fraction=0.5, batch_size=16,
        model=ModelConfig(width=16, num_layers=1, num_heads=1, max_length=32), threads=1, device="cpu",
        discriminator_warmup=0.0, **settings,
    )  # fmt: skip
    trainer = GANTrainer(config, quiet=True)
    trainer.train()
    return trainer


def test_it_is_the_discriminators_logit_whatever_the_vocabulary_and_the_padding(tmp_path: Path) -> None:
    trainer = trained(tmp_path / "run")
    task, texts = trainer._task, trainer.corpus.held_out[:6]
    table = dict(enumerate(texts))
    reward = trainer.reward(lambda row: table[row[0]])
    ids = torch.tensor([[5], [0], [3]])
    samples = Samples(ids, torch.ones_like(ids, dtype=torch.bool), torch.zeros(3, 1), torch.ones(3, dtype=torch.bool))
    found = reward(samples, contexts=None)
    judge = task.discriminator.module.eval()
    for value, index in zip(found, (5, 0, 3)):
        alone = Sentences.from_lists(trainer.corpus.encode([texts[index]]), torch.device("cpu"))
        with torch.no_grad():
            logit, _ = judge(judge.embed(alone.tokens_BT), alone.mask_BT)
        torch.testing.assert_close(value, logit[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        trainer.reward(str, probability=True).score(texts), torch.sigmoid(trainer.reward(str).score(texts))
    )
    assert reward.score(["zebra " * 100]).isfinite().all()  # unknown words, and too many of them


def test_a_mediators_ratio_is_its_own_likelihood_over_the_generators(tmp_path: Path) -> None:
    trainer = trained(tmp_path / "run", estimator="cooperative", judge="mediator", penalty=0.0)
    task = trainer._task
    sentences = Sentences.from_lists(trainer.corpus.encode(trainer.corpus.held_out[:9]), torch.device("cpu"))
    task.model.train()
    found = log_density_ratio(task.discriminator.module, task.model, sentences, trainer.text.bos_id)
    assert task.model.training
    for model in (task.model, task.discriminator.module):
        model.eval()
    own, other = (
        (token_losses(model, sentences, trainer.text.bos_id) * sentences.mask_BT).sum(1)
        for model in (task.model, task.discriminator.module)
    )
    torch.testing.assert_close(found, own - other)
    assert found.abs().max() > 1e-3


def test_real_sentences_are_worth_more_than_shuffled_ones(tmp_path: Path) -> None:
    trainer = trained(tmp_path / "run", judge="ratio", discriminator_steps=20)
    real = trainer.corpus.held_out
    shuffled = [" ".join(sorted(line.split())) for line in real]
    reward = trainer.reward(str)
    assert reward.score(real).mean() > reward.score(shuffled).mean()


@pytest.mark.gpu
def test_reward_on_a_gpu(tmp_path: Path) -> None:
    trainer = trained(tmp_path / "run")
    texts = trainer.corpus.held_out
    expected = trainer.reward(str).score(texts)
    task = trainer._task
    for module in (task.model, task.discriminator.module):
        module.cuda()
    torch.testing.assert_close(trainer.reward(str).score(texts).cpu(), expected, rtol=1e-3, atol=1e-3)


def test_the_example_pleases_the_discriminator(tmp_path: Path, monkeypatch, capsys) -> None:
    trained(tmp_path / "run", network="transformer", judge="ratio")
    example = Path(__file__).parents[2] / "examples" / "discriminator_reward.py"
    options = ["--steps", "20", "--batch-size", "32", "--lr", "1e-2", "--kl-coef", "0"]
    monkeypatch.setattr(sys, "argv", [str(example), str(tmp_path / "run"), str(tmp_path / "after"), *options])
    runpy.run_path(str(example), run_name="__main__")
    before, after = (
        float(found) for found in re.findall(r"(?:before|after): reward ([\d.]+)", capsys.readouterr().out)
    )
    assert after > before + 0.02
    assert (tmp_path / "after" / "model.safetensors").is_file()
