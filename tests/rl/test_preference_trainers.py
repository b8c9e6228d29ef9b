"""Runs of supervised fine-tuning and preference learning: starts, resume, scores, adapters, bad settings."""

import dataclasses
import json
import math
import shutil

import pytest
import torch

from core.config import ModelConfig, OptimConfig
from core.errors import RunError, UserError
from core.nn.transformer import Transformer
from core.pretrained.huggingface import save_hf
from core.text.bytelevel import BPETokenizer
from core.training.log import TIME_FIELDS
from core.training.trainer import Trainer
from rl.preferences.config import ExamplesConfig, PreferenceConfig, RewardModelConfig, SftConfig
from rl.preferences.supervised import pieces
from rl.preferences.trainers import PreferenceTrainer, RewardModelTrainer, SftTrainer
from rl.preferences.words import optimal_score, word_pairs, word_scores

TINY = ModelConfig(width=16, num_layers=1, num_heads=1, max_length=32)
LN2 = math.log(2)


@pytest.fixture
def config(tmp_path):
    return PreferenceConfig(
        out=tmp_path / "run", words=120, model=TINY, steps=3, batch_size=8, threads=1, device="cpu", max_new_tokens=6,
        sample_prompts=3, log_every=1, optim=OptimConfig(lr=3e-3, schedule="constant"),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def few_samples(monkeypatch):
    monkeypatch.setattr("rl.preferences.writer.JUDGED", 32)


def train(config, kind=PreferenceTrainer, **changes):
    trainer = kind(dataclasses.replace(config, **changes), quiet=True, report=False)
    return trainer, trainer.train()


def lines(out):
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name not in TIME_FIELDS} for record in records]


def weights(trainer):
    return {name: p.detach() for name, p in trainer.task.model.module.named_parameters()}


@pytest.mark.parametrize(
    ("loss", "first"),
    [
        ("dpo", LN2),
        ("ipo", (1 / 0.2) ** 2),  # (0 - 1 / (2 * .1))^2
        ("hinge", 1.0),
        ("kto", 0.5),
    ],
)
def test_at_the_start_policy_and_reference_are_one(config, loss, first):
    train(config, loss=loss, batch_size=9)
    start = lines(config.out)[0]
    assert start["loss"] == pytest.approx(first, abs=1e-4)
    assert start["margin"] == pytest.approx(0, abs=1e-4)
    assert start["rewards/chosen"] == pytest.approx(0, abs=1e-4)
    if loss == "kto":
        assert start["kl"] == pytest.approx(0, abs=1e-4)


def test_before_training_a_held_out_pair_is_a_tie(config):
    _, scores = train(config, steps=0)
    assert scores["loss"] == pytest.approx(LN2)
    assert (scores["accuracy"], scores["margin"]) == (0.5, 0.0)


@pytest.mark.parametrize(
    ("loss", "beta"), [("dpo", None), ("ipo", None), ("hinge", None), ("kto", None), ("simpo", None), ("orpo", 2.0)]
)
def test_every_loss_learns_its_pairs(config, loss, beta):
    trainer, scores = train(config, loss=loss, beta=beta, steps=60, words=200, batch_size=32)
    assert scores["accuracy"] > 0.6
    records = lines(config.out)
    assert records[-2]["loss"] < records[0]["loss"]
    assert scores["margin"] > 0
    assert trainer.task.held_out_scores().shape == (20, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "dpo", "sft_steps": 3},
        {"loss": "kto", "sft_steps": 1},
        {"loss": "simpo", "network": "lstm"},
    ],
)
def test_a_resumed_run_is_the_run_that_never_stopped(config, tmp_path, changes):
    optim = OptimConfig(lr=1e-2, schedule="cosine", ema_decay=0.9, accumulate=2)
    changes = {**changes, "optim": optim, "steps": 6, "checkpoint_every": 2, "eval_every": 2, "keep": 5}
    straight, scores = train(config, **changes)
    for kept in (2, 4):
        cut = tmp_path / f"cut-{kept}"
        shutil.copytree(config.out, cut)
        for folder in (cut / "checkpoints").iterdir():
            if int(folder.name.removeprefix("step-")) > kept:
                shutil.rmtree(folder)
        (cut / "eval.json").unlink()
        resumed, again = train(config, out=cut, **changes)
        assert again == scores
        assert lines(cut) == lines(config.out)
        for name, value in weights(straight).items():
            assert value.equal(weights(resumed)[name]), name
        assert resumed.writer.start_rows == straight.writer.start_rows


def test_the_reference_is_the_model_after_the_supervised_steps(config):
    trainer, _ = train(config, sft_steps=2, steps=3)
    records = lines(config.out)
    assert [("loss/sft" in record, "margin" in record) for record in records[:3]] == [(True, False)] * 2 + [
        (False, True)
    ]
    assert records[2]["loss"] == pytest.approx(LN2, abs=1e-5)
    assert trainer.writer.start_rows[0] == 2


def test_other_examples_than_those_of_the_start_are_refused(config, tmp_path):
    data = tmp_path / "pairs.jsonl"
    rows = [{"prompt": "a:", "chosen": "a" * (1 + n % 5), "rejected": "b"} for n in range(30)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train(config, data=data)
    rows[3]["rejected"] = "c"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match="the examples differ from those that this run began with"):
        train(config, data=data, steps=4, allow_config_change=("steps",))
    loaded = Trainer.load(config.out, device="cpu")
    with pytest.raises(ValueError, match="the examples differ"):
        loaded.evaluate()
    assert loaded.sample(1)


def test_a_run_leaves_rows_samples_and_a_report(config):
    trainer = PreferenceTrainer(dataclasses.replace(config, sft_steps=1, eval_every=2), quiet=True)
    scores = trainer.train()
    stored = json.loads((config.out / "eval.json").read_text())
    rows = {row["name"]: row for row in stored["rows"]}
    assert list(rows) == ["chance", "start", "model", "best possible"]
    cell = rows["model"]["accuracy"]
    assert cell["low"] < cell["value"] < cell["high"]
    assert cell["value"] == pytest.approx(scores["accuracy"])
    assert rows["model"]["score"]["value"] == pytest.approx(scores["score"])
    assert 0.5 < rows["best possible"]["accuracy"] < 1
    assert rows["best possible"]["score"] == optimal_score(0.1)
    files = sorted(path.name for path in (config.out / "samples").iterdir())
    assert files == ["step-00000001.jsonl", "step-00000002.jsonl", "step-00000003.jsonl"]
    before, after = (
        [json.loads(line) for line in (config.out / "samples" / name).read_text().splitlines()]
        for name in (files[0], files[-1])
    )
    assert [row["prompt"] for row in before] == [row["prompt"] for row in after]
    assert before[0]["reward"] == pytest.approx(word_scores([before[0]["prompt"]], [before[0]["text"]])[0], abs=1e-4)
    assert "best possible" in (config.out / "report.html").read_text()
    assert not any("Samples end after" in note for note in stored["notes"])


def test_the_report_says_where_samples_are_cut(config):
    trainer, _ = train(config, max_new_tokens=99)
    # A prompt has 3 of the 32 tokens that the model reads, and the last token of a sample is not read.
    assert "Samples end after 30 tokens, not 99: with the longest prompt the model reads no more." in trainer.notes()
    assert trainer.sample(2)


def test_a_finished_run_without_its_file_can_be_sampled_and_exported(config, tmp_path):
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in word_pairs(40, 0)))
    trainer, _ = train(config, data=data)
    data.unlink()
    loaded = Trainer.load(config.out, device="cpu")
    assert [row["prompt"] for row in loaded.sample(3, prompt="a:", max_new_tokens=2)] == ["a:"] * 3
    with pytest.raises(RunError, match="give --prompt"):
        loaded.sample(1)
    model, tokenizer = loaded.export_parts()
    assert tokenizer.fingerprint == trainer.tokenizer.fingerprint
    save_hf(model, tmp_path / "folder", tokenizer, check=False)
    with pytest.raises(RunError, match=r"the examples .* are not there"):
        next(iter(loaded.batches))


def test_adapters_start_from_a_folder_and_leave_merged(config, tmp_path):
    first, _ = train(config)
    model, tokenizer = first.export_parts()
    save_hf(model, tmp_path / "folder", tokenizer, check=False)
    second, _ = train(config, out=tmp_path / "second", init_from=tmp_path / "folder", lora_rank=2, steps=2)
    start = lines(tmp_path / "second")[0]
    assert start["loss"] == pytest.approx(LN2, abs=1e-5)
    moved = {
        name for name, value in weights(second).items() if "lora" not in name and not value.equal(weights(first)[name])
    }
    assert not moved
    merged, _ = second.export_parts()
    tokens = torch.randint(tokenizer.vocab_size, (2, 9))
    adapted = second.task.model.module.eval()
    torch.testing.assert_close(merged.logits(merged(tokens)), adapted.logits(adapted(tokens)), atol=1e-5, rtol=1e-4)
    assert not any("lora" in name for name in merged.state_dict())


def test_a_chat_model_learns_through_its_template_and_ends_its_turns(config, tmp_path):
    specials = ["<|im_start|>", "<|im_end|>"]
    tokenizer = BPETokenizer.train(["user assistant ab"], 290, special_tokens=specials)
    torch.manual_seed(0)
    model = Transformer(dataclasses.replace(TINY, vocab_size=tokenizer.vocab_size, width=32, max_length=64))
    save_hf(model, tmp_path / "folder", tokenizer, check=False)
    data = tmp_path / "chats.jsonl"
    rows = [
        {"prompt": [{"role": "user", "content": "ab"[n % 2] * (1 + n % 3)}], "chosen": "a", "rejected": "bbbb"}
        for n in range(30)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    trainer, scores = train(
        config, data=data, init_from=tmp_path / "folder", sft_steps=60, steps=80, max_new_tokens=20, words=0,
        optim=OptimConfig(lr=1e-2),
    )  # fmt: skip
    assert scores["accuracy"] == 1.0
    row, *_ = trainer.sample(1)
    assert row["prompt"].startswith("user: ")
    (tokens,) = trainer.writer.policy.sample([next(iter(trainer.writer.prompts.values()))], greedy=True).lists()
    assert tokenizer.decode(tokens, skip_special=False) == "a<|im_end|>"


def test_supervised_fine_tuning_learns_the_completions(config):
    sft = SftConfig(**{f.name: getattr(config, f.name) for f in dataclasses.fields(SftConfig)})
    trainer, scores = train(sft, kind=SftTrainer, steps=120, words=200, batch_size=32)
    records = lines(config.out)
    assert records[0]["loss"] > 2
    # Of uniform words of 2 to 5 letters the entropy is ln 4 = 1.386 nats a token, the end counted; of chosen ones less.
    assert 1.2 < scores["loss"] < 1.6
    assert scores["perplexity"] == pytest.approx(math.exp(scores["loss"]))
    rows = {row["name"]: row["score"] for row in json.loads((config.out / "eval.json").read_text())["rows"]}
    assert rows["model"]["value"] == pytest.approx(scores["score"])
    assert rows["start"]["value"] < rows["model"]["value"]
    assert set("".join(row["text"] for row in trainer.sample(20))) >= set("abcd")


def test_the_held_out_loss_of_sft_counts_the_completions_tokens_alone(config):
    sft = SftConfig(**{f.name: getattr(config, f.name) for f in dataclasses.fields(SftConfig)})
    trainer, scores = train(sft, kind=SftTrainer, steps=1)
    model, total, count = trainer.task.model.module.eval(), 0.0, 0
    for example in trainer.task.held_out:
        one = example.completion
        ids = torch.tensor([one.prompt + one.tokens])
        logp = model.logits(model(ids)).log_softmax(-1)[0].detach()
        for place, token in enumerate(one.tokens, start=len(one.prompt) - 1):
            total, count = total - float(logp[place, token]), count + 1
    assert scores["loss"] == pytest.approx(total / count, rel=1e-5)


def test_labelled_completions_train_kto_and_are_told_apart(config, tmp_path):
    data = tmp_path / "labelled.jsonl"
    rows = [{"prompt": f"{p}:", "completion": p * 3, "label": True} for p in "abcd" * 10]
    rows += [{"prompt": f"{p}:", "completion": "dcba"["abcd".index(p)] * 3, "label": False} for p in "abcd" * 10]
    mixed = [rows[(i * 37) % 80] for i in range(80)]
    data.write_text("".join(json.dumps(row) + "\n" for row in mixed))
    _, scores = train(config, loss="kto", data=data, steps=60, batch_size=16)
    assert scores["separation"] == 1.0
    assert "accuracy" not in scores
    notes = json.loads((config.out / "eval.json").read_text())
    assert notes["metrics"]["separation"] == 1.0


def test_accumulation_changes_nothing(config):
    for loss in ("dpo", "kto"):
        one, _ = train(config, out=config.out.with_name(f"{loss}1"), loss=loss)
        four, _ = train(
            config,
            out=config.out.with_name(f"{loss}4"),
            loss=loss,
            optim=dataclasses.replace(config.optim, accumulate=4),
        )
        for name, value in weights(one).items():
            torch.testing.assert_close(value, weights(four)[name], atol=1e-5, rtol=1e-4)
    assert pieces([1, 2, 3, 4, 5], 2) == [[1, 2, 3], [4, 5]]
    assert pieces([1], 4) == [[1]]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"words": 3}, "words must be 0 or at least 20, got 3"),
        ({"beta": 0.0}, "beta must be finite and > 0, got 0.0"),
        ({"label_smoothing": 0.5}, "label_smoothing must be in"),
        ({"label_smoothing": 0.1, "loss": "ipo"}, "label_smoothing is DPO's"),
        ({"lora_rank": 4}, "lora_rank needs a pretrained model"),
        ({"model": ModelConfig(dropout=0.1)}, "model.dropout must be 0"),
        ({"loss": "kto", "batch_size": 1}, "kto compares within a batch"),
        ({"validation_fraction": 1.0}, "validation_fraction must be in"),
        ({"sft_steps": -1}, "sft_steps must be >= 0"),
        ({"simpo_margin": math.nan}, "simpo_margin must be finite"),
        ({"optim": OptimConfig(accumulate=9)}, "accumulate 9 splits a batch of 8"),
    ],
)
def test_bad_settings_are_named(config, changes, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(config, **changes)


def test_a_run_without_examples_is_refused_before_anything_is_written(config, tmp_path):
    with pytest.raises(UserError, match="give --data FILE"):
        train(config, words=0)
    with pytest.raises(ValueError, match="no file"):
        train(config, data=tmp_path / "absent.jsonl")
    data = tmp_path / "one.jsonl"
    data.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    with pytest.raises(UserError, match="1 examples leave none"):
        train(config, data=data)
    assert not config.out.exists()


def test_the_rule_of_the_words_and_its_preferences():
    assert word_scores(["a:", "b:", "c:"], ["aaab", "bb", ""]) == [4.5, 6.0, 0.0]
    rows = word_pairs(3000, 0)
    gains = [
        word_scores([r["prompt"]], [r["chosen"]])[0] - word_scores([r["prompt"]], [r["rejected"]])[0] for r in rows
    ]
    for row, gain in zip(rows, gains):
        assert row["probability"] == pytest.approx(1 / (1 + math.exp(-gain)))
    # As often as the model says, within three standard errors.
    right = sum(gain > 0 for gain in gains) / sum(gain != 0 for gain in gains)
    best = [max(r["probability"], 1 - r["probability"]) for r, gain in zip(rows, gains) if gain]
    assert right == pytest.approx(sum(best) / len(best), abs=3 * 0.5 / math.sqrt(len(best)))
    assert word_pairs(5, 1) != word_pairs(5, 0) == rows[:5]


def test_the_optimal_score_by_brute_force():
    """From the chosen words of many pairs, tilted one by one."""
    words = [(row["prompt"], row["chosen"]) for row in word_pairs(20000, 3)]
    scores = torch.tensor(word_scores(*zip(*words)), dtype=torch.float64)
    for beta in (1e9, 2.0, 1.0):
        weight = (scores / beta).softmax(0)
        assert optimal_score(beta) == pytest.approx(float((weight * scores).sum()), abs=0.1)


def test_the_report_is_written_by_one_process_without_the_others(config, monkeypatch):
    sft = SftConfig(**{f.name: getattr(config, f.name) for f in dataclasses.fields(SftConfig)})
    reward = RewardModelConfig(**{f.name: getattr(config, f.name) for f in dataclasses.fields(ExamplesConfig)})
    kinds = [(config, PreferenceTrainer), (sft, SftTrainer), (reward, RewardModelTrainer)]
    trainers = [train(one, kind=kind, out=config.out.with_name(kind.__name__))[0] for one, kind in kinds]

    def wait_for_others(tensor):
        raise AssertionError("the other processes are not here")

    monkeypatch.setattr("core.training.distributed.all_reduce_sum", wait_for_others)
    for trainer in trainers:
        assert trainer.report_sections()["rows"]
        trainer.write_samples(trainer.task, trainer.config.out / "samples", 9)
