"""Exported models and short runs that the tests of TRL share."""

import math
from types import SimpleNamespace

import pytest
import torch

from core.config import ModelConfig
from core.nn.transformer import Transformer
from core.text.tokenizer import CharTokenizer
from rl.trl import CPU_SETTINGS, act_template, to_trl

TOKENIZER = CharTokenizer.train("0123456789-+cr:LDRUabcd")


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    """TRL reports its use where CI is not set, and looks things up where it may."""
    for name in ("CI", "HF_HUB_OFFLINE", "TRL_EXPERIMENTAL_SILENCE"):
        monkeypatch.setenv(name, "1")


@pytest.fixture
def exported(tmp_path):
    """Export a model: fresh, or with `noise` on its weights."""

    def export(*, noise=0.1, model=None, **sizes):
        torch.manual_seed(0)
        config = ModelConfig(
            **{"vocab_size": TOKENIZER.vocab_size, "width": 32, "num_layers": 2, "num_heads": 2, "max_length": 128}
            | sizes
        )
        model = model or Transformer(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=noise)
        theirs, tokenizer = to_trl(model, TOKENIZER, tmp_path / "model")
        return SimpleNamespace(ours=model, theirs=theirs, tokenizer=tokenizer, folder=tmp_path / "model")

    return export


@pytest.fixture
def arguments(tmp_path):
    """Arguments of a config for two steps."""

    def make(**changes):
        return {
            "output_dir": str(tmp_path / "out"), "max_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 8,
            "disable_tqdm": True, "save_strategy": "no", "learning_rate": 1e-3, "lr_scheduler_type": "constant",
            **CPU_SETTINGS, **changes,
        }  # fmt: skip

    return make


@pytest.fixture
def grpo(exported, arguments):
    """A GRPOTrainer on an environment, with `parts` of an adapter."""
    from trl import GRPOConfig, GRPOTrainer

    def make(adapter, env, *, model=None, template=False, config=None, options=None, **trainer):
        export = exported(model=model, noise=0 if model else 0.1)
        if template:
            act_template(export.tokenizer)
        parts = adapter(env, export.tokenizer, **{"num_episodes": 8, **(options or {})})
        config = GRPOConfig(**arguments(num_generations=4, **(config or {})))
        made = GRPOTrainer(export.theirs, args=config, processing_class=export.tokenizer, **parts, **trainer)
        made.ours = export.ours
        return made

    return make


@pytest.fixture
def history():
    """Train, and give what was logged of either step."""

    def run(trainer):
        trainer.train()
        found = [entry for entry in trainer.state.log_history if "loss" in entry]
        assert len(found) == 2
        assert all(math.isfinite(entry["loss"]) and math.isfinite(entry["grad_norm"]) for entry in found)
        return found

    return run


@pytest.fixture
def same_logits():
    """Compare one of our models with one of transformers."""

    def compare(ours, theirs):
        tokens_BT = torch.randint(ours.vocab_size, (3, 20), generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            ours_BTV, theirs_BTV = ours.eval().logits(ours(tokens_BT)), theirs.eval()(tokens_BT).logits
            torch.testing.assert_close(ours_BTV, theirs_BTV, atol=1e-4, rtol=0)

    return compare
