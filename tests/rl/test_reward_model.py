"""Reward models: the start, what they learn, scoring, Hugging Face folders, the `reward` command."""

import dataclasses
import json
import math
import shutil

import pytest
import torch

from core.config import ModelConfig, OptimConfig
from core.errors import RunError
from core.nn.lora import apply_lora
from core.nn.transformer import Transformer
from core.pretrained.architectures import ExportError, UnsupportedModel
from core.text.bytelevel import BPETokenizer
from core.text.characters import CharTokenizer
from core.text.chat import ChatError
from core.training.trainer import Trainer
from rl.preferences.classifier import load_classifier, save_classifier
from rl.preferences.commands import reward as reward_command
from rl.preferences.config import RewardModelConfig
from rl.preferences.reward_model import RewardModel
from rl.preferences.trainers import RewardModelTrainer

TINY = ModelConfig(width=16, num_layers=1, num_heads=1, max_length=32)
PROMPTS, WORDS = ["a:", "bcd:", "d:"], ["aab", "c", "abcd"]


@pytest.fixture
def config(tmp_path):
    return RewardModelConfig(
        out=tmp_path / "run", words=120, model=TINY, steps=3, batch_size=8, threads=1, device="cpu", log_every=1,
        optim=OptimConfig(lr=3e-3, schedule="constant"),
    )  # fmt: skip


def train(config, **changes):
    trainer = RewardModelTrainer(dataclasses.replace(config, **changes), quiet=True, report=False)
    return trainer, trainer.train()


def noisy(tokenizer=None, **shape):
    """A reward model that is far from its start."""
    torch.manual_seed(0)
    tokenizer = tokenizer or CharTokenizer.train("abcd:")
    sizes = {"width": 32, "num_layers": 2, "num_heads": 2, "max_length": 64, **shape}
    model = RewardModel(Transformer(ModelConfig(vocab_size=tokenizer.vocab_size, **sizes)), tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def test_at_the_start_every_reward_is_zero_and_the_loss_ln_2(config):
    trainer, scores = train(config, steps=0)
    assert scores["loss"] == pytest.approx(math.log(2))
    assert (scores["accuracy"], scores["margin"], scores["reward"]) == (0.5, 0.0, 0.0)
    assert trainer.reward_model.score(PROMPTS, WORDS) == [0.0] * 3


def test_a_reward_is_that_of_the_last_token_whatever_the_padding():
    model = noisy().eval()
    found = model.score(PROMPTS, WORDS, anything=[1, 2, 3])
    for prompt, word, reward in zip(PROMPTS, WORDS, found):
        ids = [model.tokenizer.bos_id, *model.tokenizer.encode(prompt + word), model.tokenizer.eos_id]
        assert model([ids]).item() == pytest.approx(reward, abs=1e-5)
        # Padded on the right by hand, with the id of a letter: what follows the last token makes no difference.
        tokens = torch.tensor([ids + [5] * 4])
        hidden = model.language_model(tokens)[:, len(ids) - 1]
        assert model.head(hidden).item() == pytest.approx(reward, abs=1e-5)
    assert model.score(PROMPTS[::-1], WORDS[::-1]) == pytest.approx(found[::-1], abs=1e-5)
    assert model.score([], []) == []


def test_a_prompt_is_read_once_for_all_its_completions(monkeypatch):
    model, read = noisy().eval(), []
    alone = [model.score([prompt], [word])[0] for prompt in PROMPTS for word in WORDS]
    forward = model.language_model.forward

    def counted(tokens_BT, **options):
        read.append(tokens_BT.shape)
        return forward(tokens_BT, **options)

    monkeypatch.setattr(model.language_model, "forward", counted)
    together = model.score([prompt for prompt in PROMPTS for _ in WORDS], WORDS * len(PROMPTS))
    assert together == pytest.approx(alone, abs=1e-5)
    assert read == [(3, 5), (9, 5)]  # the longest prompt with its begin, the longest word with its end


def test_an_answer_may_spell_special_tokens():
    tokenizer = BPETokenizer.train(["abcd: user assistant"], 290, special_tokens=["<|im_start|>", "<|im_end|>"])
    model, prompt = noisy(tokenizer).eval(), [{"role": "user", "content": "a:"}]
    plain, spelled = model.score([prompt] * 2, ["ab", "a<|im_end|>b<|im_start|>"])
    assert spelled == plain
    answers = [[{"role": "assistant", "content": text}] for text in ("ab", "a<|im_end|>b")]
    assert model.score([prompt] * 2, answers) == pytest.approx([plain] * 2, abs=1e-5)
    with pytest.raises(ChatError, match="spells the special token"):
        model.score([[{"role": "user", "content": "<|im_end|>"}]], ["ab"])


def test_what_cannot_be_scored_is_said():
    model = noisy()
    with pytest.raises(ValueError, match="got 1 prompts and 3 completions"):
        model.score(["a:"], WORDS)
    with pytest.raises(ValueError, match=r"longer than model\.max_length"):
        model.score(["a:"], ["a" * 100])
    assert model.training  # as it was


def test_it_learns_its_pairs_and_keeps_rewards_around_zero(config, tmp_path):
    data = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": "a:", "chosen": "ab"[n % 2] * (1 + n % 4), "rejected": "cd"[n % 2] * (1 + n % 3)} for n in range(60)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    trainer, scores = train(config, data=data, steps=60)
    assert scores["accuracy"] == 1.0
    assert scores["loss"] < 0.2
    assert abs(scores["reward"]) < 0.3
    good, bad = trainer.reward_model.score(["a:", "a:"], ["abab", "dcd"])
    assert good > bad + 0.5


def test_a_run_leaves_rows_and_pairs_with_their_rewards(config):
    _, scores = train(config, eval_every=1)
    rows = {row["name"]: row for row in json.loads((config.out / "eval.json").read_text())["rows"]}
    assert list(rows) == ["chance", "model", "best possible"]
    assert rows["model"]["accuracy"]["low"] < scores["accuracy"] < rows["model"]["accuracy"]["high"]
    assert 0.7 < rows["best possible"]["accuracy"] < 0.9
    files = sorted((config.out / "samples").iterdir())
    assert len(files) == 3
    shown = [json.loads(line) for line in files[-1].read_text().splitlines()]
    assert shown[0]["text"].startswith("chosen: ")
    assert shown[0]["ok"] == (shown[0]["reward"] > shown[1]["reward"])


def test_margins_ask_for_a_lead(config, tmp_path):
    data = tmp_path / "pairs.jsonl"
    rows = [{"prompt": "a:", "chosen": "a" * (1 + n % 5), "rejected": "b"} for n in range(30)]
    losses = []
    for margin in (0.0, 2.0):
        data.write_text("".join(json.dumps({**row, "margin": margin}) + "\n" for row in rows))
        losses.append(train(config, out=tmp_path / f"{margin}", data=data, steps=0)[1]["loss"])
    # -log sigma(0 - m)
    assert losses == pytest.approx([math.log(2), math.log(1 + math.exp(2))], rel=1e-5)


def test_a_resumed_run_is_the_run_that_never_stopped(config, tmp_path):
    changes = {"checkpoint_every": 2, "keep": 5, "steps": 4, "optim": OptimConfig(lr=1e-2, accumulate=3)}
    straight, scores = train(config, **changes)
    cut = tmp_path / "cut"
    shutil.copytree(config.out, cut)
    (newest,) = [folder for folder in (cut / "checkpoints").iterdir() if folder.name.endswith("4")]
    shutil.rmtree(newest)
    (cut / "eval.json").unlink()
    resumed, again = train(config, out=cut, **changes)
    assert again == scores
    for ours, theirs in zip(straight.reward_model.parameters(), resumed.reward_model.parameters()):
        assert ours.equal(theirs)
    loaded = RewardModel.load(config.out)
    assert loaded.score(PROMPTS, WORDS) == straight.reward_model.score(PROMPTS, WORDS)
    assert Trainer.load(config.out, device="cpu").evaluate() == pytest.approx(scores, abs=1e-6)


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"qk_norm": False, "num_kv_heads": 1, "tied": False},
        {"positions": "learned", "norm": "layer", "qk_norm": False, "activation": "gelu_tanh", "bias": True},
    ],
    ids=["qwen3", "llama", "gpt2"],
)
def test_transformers_loads_the_folder_with_equal_rewards(shape, tmp_path):
    transformers = pytest.importorskip("transformers")
    model = noisy(**shape)
    assert save_classifier(model, tmp_path / "folder") < 1e-4
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "folder").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "folder")
    assert theirs.config.num_labels == 1
    texts = [f"<bos>{prompt}{word}<eos>" for prompt, word in zip(PROMPTS, WORDS)]
    ours = model.score(PROMPTS, WORDS)
    # transformers counts the positions of GPT-2 from the padding on, so on the left its texts would be read otherwise.
    for side in ("right",) if model.language_model.config.positions == "learned" else ("left", "right"):
        tokenizer.padding_side = side
        batch = tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=False)
        with torch.no_grad():
            logits = theirs(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        assert logits.squeeze(-1).tolist() == pytest.approx(ours, abs=1e-4)
    loaded = load_classifier(tmp_path / "folder")
    assert loaded.score(PROMPTS, WORDS) == pytest.approx(ours, abs=1e-5)
    assert RewardModel.load(tmp_path / "folder").score(PROMPTS, WORDS) == pytest.approx(ours, abs=1e-5)


def test_a_classifier_that_transformers_made_is_read(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    tokenizer = CharTokenizer.train("abcd:")
    settings = transformers.LlamaConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_labels=1, pad_token_id=tokenizer.pad_id, max_position_embeddings=32,
    )  # fmt: skip
    theirs = transformers.LlamaForSequenceClassification(settings).eval()
    theirs.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match=r"no tokenizer\.json"):
        load_classifier(tmp_path)
    tokenizer.save(tmp_path)
    rows = [[1, 4, 5, 2], [1, 6, 2]]
    alone = [theirs(torch.tensor([row])).logits.item() for row in rows]
    assert load_classifier(tmp_path)(rows).tolist() == pytest.approx(alone, abs=1e-5)


def test_padding_is_never_the_token_that_ends_a_text(tmp_path):
    tokenizer = BPETokenizer.train(["abcd:"], 290)
    tokenizer.pad_id = tokenizer.eos_id  # as in folders of chat models
    model = noisy(tokenizer)
    save_classifier(model, tmp_path / "folder")
    settings = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert settings["pad_token_id"] not in (None, settings["eos_token_id"])
    named = json.loads((tmp_path / "folder" / "tokenizer_config.json").read_text())["pad_token"]
    assert tokenizer.token_to_id(named) == settings["pad_token_id"]


def test_adapters_are_merged_in_the_folder_and_kept_in_the_model(tmp_path):
    model = noisy()
    apply_lora(model.language_model, rank=2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_B"):
                parameter.normal_()
    before = model.score(PROMPTS, WORDS)
    save_classifier(model, tmp_path / "folder")
    assert any("lora" in name for name in model.state_dict())
    assert load_classifier(tmp_path / "folder").score(PROMPTS, WORDS) == pytest.approx(before, abs=1e-4)


def test_wrong_folders_are_named(tmp_path):
    model = noisy()
    save_classifier(model, tmp_path / "folder")
    with pytest.raises(ExportError, match="exists already"):
        save_classifier(model, tmp_path / "folder")
    save_classifier(model, tmp_path / "folder", overwrite=True)
    with pytest.raises(UnsupportedModel, match=r"no readable config\.json"):
        load_classifier(tmp_path / "nothing")
    from core.pretrained.huggingface import save_hf

    save_hf(model.language_model, tmp_path / "lm", model.tokenizer, check=False)
    with pytest.raises(UnsupportedModel, match="has no head: a reward model is"):
        load_classifier(tmp_path / "lm")


def test_the_reward_command_scores_lines_and_exports(config, tmp_path, capsys):
    trainer, _ = train(config)
    file = tmp_path / "lines.jsonl"
    rows = [{"prompt": "a:", "completion": "ab"}, {"prompt": "b:", "chosen": "b", "rejected": "c", "margin": 1}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert reward_command([str(config.out), str(file)]) == 0
    first, second = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert first["completion_reward"] == pytest.approx(trainer.reward_model.score(["a:"], ["ab"])[0], abs=1e-6)
    assert {"chosen_reward", "rejected_reward", "margin"} <= second.keys()
    assert reward_command([str(config.out), "--export", str(tmp_path / "folder")]) == 0
    assert "a sequence classifier" in capsys.readouterr().out
    assert reward_command([str(tmp_path / "folder"), str(file)]) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[0])
    assert again["completion_reward"] == pytest.approx(first["completion_reward"], abs=1e-5)
    with pytest.raises(SystemExit):
        reward_command([str(config.out)])
    assert "give either a FILE.jsonl" in capsys.readouterr().err
    with pytest.raises(RunError, match="is no language model: write it with"):
        trainer.export_parts()
