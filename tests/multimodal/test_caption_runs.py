"""Runs that stop and go on, start from a pretrained model, or share the work among processes."""

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from core.config import ModelConfig, OptimConfig
from core.errors import UserError
from core.nn.transformer import Transformer
from core.pretrained.huggingface import save_hf
from core.text.bytelevel import BPETokenizer
from core.training.signals import Preempted
from multimodal.datasets.named import load_examples
from multimodal.examples import Example, Examples
from multimodal.pipeline import CaptioningPipeline
from multimodal.trainers import CaptioningTrainer


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize(("bucket", "stop"), [(False, Preempted(143)), (True, RuntimeError("as if killed"))])
def test_a_stopped_run_goes_on_with_equal_bits(
    runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket: bool, stop: Exception
) -> None:
    manifest = runs.write_media(tmp_path / "data")
    settings = {
        "steps": 14, "checkpoint_every": 5, "media_dropout": 0.1, "blank_probability": 0.2, "label_smoothing": 0.1,
        "model": ModelConfig(width=64, num_layers=1, num_heads=2, max_length=64, dropout=0.1), "bucket": bucket,
        "batch_size": 4, "optim": OptimConfig(lr=3e-3, warmup_steps=5, accumulate=2),
    }  # fmt: skip

    def trainer(name: str) -> CaptioningTrainer:
        return CaptioningTrainer(runs.config(manifest, tmp_path / name, **settings), quiet=True, report=False)

    whole = trainer("whole")
    scores = whole.train()
    first = trainer("cut")
    step = first._task.train_step

    def interrupted(batch: Any) -> Any:
        if first._task.updater.steps == 9:
            raise stop
        return step(batch)

    monkeypatch.setattr(first._task, "train_step", interrupted)
    with pytest.raises(type(stop)):
        first.train()
    second = trainer("cut")
    assert second.train() == scores
    for name, value in whole._task.captioner.state_dict().items():
        assert torch.equal(value, second._task.captioner.state_dict()[name]), name
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of a tiny random Llama and its tokenizer."""
    tokenizer = BPETokenizer.train(
        ["a red green blue square the tone is low middle high it moves left right"], vocab_size=290
    )
    torch.manual_seed(1)
    model = Transformer(
        ModelConfig(vocab_size=tokenizer.vocab_size, width=64, num_layers=2, num_heads=2, max_length=96, qk_norm=False)
    )
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp("pretrained") / "llama"
    save_hf(model, folder, tokenizer)
    return folder


@pytest.mark.parametrize("fusion", ["prefix", "gated_cross_attention", "qformer"])
def test_only_adapters_and_low_rank_updates_of_a_pretrained_model_are_trained(
    runs: Any, pretrained: Path, tmp_path: Path, fusion: str
) -> None:
    folder = tmp_path / "llama"
    shutil.copytree(pretrained, folder)
    manifest = runs.write_media(tmp_path / "data", ["image", "audio"])
    config = runs.config(
        manifest, tmp_path / "run", init_from=folder, lora_rank=2, fusion=fusion, num_queries=2, steps=5,
        max_target_tokens=40, optim=OptimConfig(lr=1e-2, warmup_steps=1),
    )  # fmt: skip
    trainer = CaptioningTrainer(config, quiet=True, report=False)
    captioner = trainer._task.captioner
    before = {name: value.clone() for name, value in captioner.state_dict().items()}
    trainer.train()
    # A key's bias adds the same to all scores of a query: its gradient is nothing but rounding.
    changed = {
        name for name, value in captioner.state_dict().items()
        if not torch.equal(value, before[name]) and not name.endswith("key.bias")
    }  # fmt: skip
    allowed = ("adapters.", "encoders.")
    trained = {name for name in changed if not name.startswith(allowed)}
    assert any("lora" in name for name in trained)
    assert all("lora" in name or "cross_attn" in name for name in trained)
    assert any("cross_attn" in name for name in trained) is (fusion == "gated_cross_attention")
    assert {name.split(".")[1] for name in changed if name.startswith("adapters.")} == {"image", "audio"}

    expected = [row["text"] for row in trainer.sample(6)]
    prompts = [example.prompt for example in trainer.test_examples]
    shutil.rmtree(folder)
    for saved in (config.out, trainer.save(tmp_path / "saved")):
        assert CaptioningPipeline.load(saved, device="cpu").answer(prompts) == expected


def test_all_of_a_pretrained_model_is_trained_without_lora(runs: Any, pretrained: Path, tmp_path: Path) -> None:
    manifest = runs.write_media(tmp_path / "data", ["image"])
    config = runs.config(manifest, tmp_path / "run", init_from=pretrained, steps=3, max_target_tokens=40)
    trainer = CaptioningTrainer(config, quiet=True, report=False)
    before = {name: value.clone() for name, value in trainer._task.captioner.model.state_dict().items()}
    assert trainer.tokenizer.decode(trainer.tokenizer.encode("a red square")) == "a red square"
    trainer.train()
    after = trainer._task.captioner.model.state_dict()
    assert not any(torch.equal(after[name], value) for name, value in before.items() if "proj.weight" in name)


def test_the_first_layers_of_a_pretrained_model_are_enough(runs: Any, pretrained: Path, tmp_path: Path) -> None:
    manifest = runs.write_media(tmp_path / "data", ["image"])
    settings = {"init_from": pretrained, "steps": 3, "max_target_tokens": 40, "model": ModelConfig(dropout=0.2)}
    config = runs.config(manifest, tmp_path / "run", init_layers=1, **settings)
    trainer = CaptioningTrainer(config, quiet=True, report=False)
    trainer.train()
    model = trainer._task.captioner.model
    assert len(model.model.layers) == model.config.num_layers == 1
    (block,) = model.model.layers
    assert block.dropout == block.self_attn.dropout == model.config.dropout == 0.2
    expected = [row["text"] for row in trainer.sample(3)]
    prompts = [example.prompt for example in trainer.test_examples]
    assert CaptioningPipeline.load(config.out, device="cpu").answer(prompts) == expected
    with pytest.raises(UserError, match=r"init_layers is 3, and .*llama has 2 layers"):
        CaptioningTrainer(runs.config(manifest, tmp_path / "more", init_layers=3, **settings), quiet=True).train()


def in_two_processes(make: Callable[[], CaptioningTrainer]) -> list[int]:
    """Train in two processes, in the environment that torchrun gives; their exit codes."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    pids = []
    for rank in range(2):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.environ |= {
                    "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                }  # fmt: skip
                make().train()
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def asked(runs: Any, folder: Path) -> Examples:
    """Four examples with a picture and eight without any medium, so that many batches have none at all."""
    manifest = runs.write_media(folder, ["image"])
    data = load_examples(str(manifest))
    texts = [Example((f"say {word}",), (word,), word) for word in ("red", "green", "blue", "one", "two", "three")]
    return Examples(train=[*texts, *data.train], test=[*texts[:2], *data.test])


@pytest.mark.parametrize(("fusion", "kinds"), [("prefix", 2), ("gated_cross_attention", 2), ("concat", 1)])
def test_two_processes_give_the_curve_of_one_though_batches_lack_media(
    runs: Any, tmp_path: Path, fusion: str, kinds: int
) -> None:
    manifest = runs.write_media(tmp_path / "data", ["image", "video"])
    examples = asked(runs, tmp_path / "asked") if kinds == 1 else None
    settings = {
        "steps": 6, "batch_size": 4, "fusion": fusion, "optim": OptimConfig(lr=3e-3, warmup_steps=2, accumulate=2),
        "cache": tmp_path / "cache",
    }  # fmt: skip

    def make(name: str) -> CaptioningTrainer:
        trainer = CaptioningTrainer(runs.config(manifest, tmp_path / name, **settings), quiet=True, report=False)
        trainer.examples = examples
        return trainer

    assert in_two_processes(lambda: make("two")) == [0, 0]
    make("one").train()
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    scores = [json.loads((tmp_path / name / "eval.json").read_text("utf-8"))["metrics"] for name in ("one", "two")]
    assert scores[0]["loss"] == pytest.approx(scores[1]["loss"], rel=1e-3)


@pytest.mark.parametrize("fusion", ["prefix", "gated_cross_attention"])
def test_without_any_medium_it_is_a_language_model(runs: Any, tmp_path: Path, fusion: str) -> None:
    examples = [Example((f"say {word}",), (word,), word) for word in ("red", "green", "blue")]
    trainer = CaptioningTrainer(
        runs.config(tmp_path / "unused", tmp_path / "run", steps=40, batch_size=3, fusion=fusion), quiet=True
    )
    trainer.examples = Examples(train=examples, test=examples)
    assert trainer.train()["exact_match"] == 1
    pipeline = CaptioningPipeline.load(tmp_path / "run", device="cpu")
    assert pipeline.answer([["say red"], ["say green"]]) == ["red", "green"]
