"""An exported folder runs in TRL's trainers as it is: two steps each of SFT, GRPO and DPO, with our tokenizer."""

import math

import pytest
import torch

from core.config import ModelConfig
from core.losses import lm_loss
from core.nn.transformer import Transformer
from core.pretrained.huggingface import from_hf, save_hf
from core.text.tokenizer import CharTokenizer

pytest.importorskip("trl")

TEXT = "the cat sat on the mat and the dog ran to the hat"
SETTINGS = {
    # CPU runs have to switch off what TRL switches on: https://huggingface.co/docs/trl, *Config pages.
    "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": [], "save_strategy": "no",
    "max_steps": 2, "logging_steps": 1, "disable_tqdm": True, "learning_rate": 1e-3, "seed": 0,
    "dataloader_pin_memory": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    tokenizer = CharTokenizer.train(TEXT)
    config = ModelConfig(vocab_size=tokenizer.vocab_size, width=32, num_layers=2, num_heads=2, max_length=64)
    out = tmp_path_factory.mktemp("export") / "model"
    save_hf(Transformer(config), out, tokenizer)
    return out


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    for name in ("CI", "HF_HUB_OFFLINE", "TRL_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "1")


def dataset(**columns):
    from datasets import Dataset

    return Dataset.from_dict(columns)


def losses(trainer):
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_sft(folder, tmp_path):
    from trl import SFTConfig, SFTTrainer

    texts = [TEXT[start : start + 20] for start in (0, 3, 9, 21)]
    config = SFTConfig(output_dir=str(tmp_path), per_device_train_batch_size=4, max_length=32, **SETTINGS)
    trainer = SFTTrainer(model=str(folder), args=config, train_dataset=dataset(text=texts))
    history = losses(trainer)

    model, tokenizer = from_hf(folder)
    tokens_BT = torch.tensor([tokenizer.encode(text, add_eos=True) for text in texts])
    hidden_BTD = model(tokens_BT[:, :-1])
    loss_sum, count = lm_loss(model.logits, hidden_BTD, tokens_BT[:, 1:], vocab_size=model.vocab_size)
    assert history[0] == pytest.approx((loss_sum / count).item(), abs=1e-5)
    assert history[1] < history[0]
    trainer.save_model(str(tmp_path / "tuned"))
    tuned, _ = from_hf(tmp_path / "tuned")
    assert not torch.equal(tuned.model.embed_tokens.weight, model.model.embed_tokens.weight)


def test_grpo(folder, tmp_path):
    from trl import GRPOConfig, GRPOTrainer

    def reward(completions, **rest):
        return [float(text.count("t")) for text in completions]

    config = GRPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=4, num_generations=4, max_completion_length=6,
        beta=0.05, **SETTINGS,
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=str(folder),
        reward_funcs=reward,
        args=config,
        train_dataset=dataset(prompt=["the ", "a cat", "on", "mat"]),
    )
    history = losses(trainer)
    assert len(history) == 2
    assert all(math.isfinite(loss) for loss in history)
    kl = [entry["kl"] for entry in trainer.state.log_history if "kl" in entry]
    assert kl[0] == pytest.approx(0.0, abs=1e-6)  # the reference, loaded again from the folder, is the policy


def test_dpo(folder, tmp_path):
    from trl import DPOConfig, DPOTrainer

    config = DPOConfig(output_dir=str(tmp_path), per_device_train_batch_size=4, max_length=32, **SETTINGS)
    pairs = dataset(prompt=["the "] * 4, chosen=["cat sat"] * 4, rejected=["dog ran"] * 4)
    history = losses(DPOTrainer(model=str(folder), args=config, train_dataset=pairs))
    assert history[0] == pytest.approx(math.log(2), abs=1e-4)
    assert history[1] < history[0]
