"""`trillium chat` on a tiny model folder."""

import io

import pytest
import torch

from core.cli import main
from core.commands.chat import answer
from core.config import ModelConfig
from core.errors import UserError
from core.nn.transformer import Transformer
from core.pretrained.huggingface import save_hf
from core.pretrained.interchange import load_model
from core.sampling import Sampling
from core.text.chat import CHATML
from core.text.tokenizer import BPETokenizer


@pytest.fixture
def folder(tmp_path):
    tokenizer = BPETokenizer.train(
        ["Hi Hello! Bye. user assistant system"] * 5, 290, special_tokens=["<|im_start|>", "<|im_end|>"]
    )
    tokenizer.chat_template = CHATML
    torch.manual_seed(0)
    model = Transformer(
        ModelConfig(vocab_size=tokenizer.vocab_size, width=16, num_layers=1, num_heads=2, max_length=64)
    )
    save_hf(model, tmp_path / "model", tokenizer, check=False)
    return tmp_path / "model"


def talk(folder, monkeypatch, lines, *options):
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in lines)))
    return main(["chat", str(folder), "--device", "cpu", "--max-new-tokens", "6", *options])


def test_every_line_gets_an_answer_and_the_seed_fixes_them(folder, monkeypatch, capsys):
    assert talk(folder, monkeypatch, ["Hi", "Bye"]) == 0
    first = capsys.readouterr().out
    assert first.count("\n") >= 2
    assert talk(folder, monkeypatch, ["Hi", "Bye"]) == 0
    assert capsys.readouterr().out == first
    assert talk(folder, monkeypatch, ["Hi", "Bye"], "--seed", "1") == 0
    assert capsys.readouterr().out != first


def test_a_long_conversation_loses_its_oldest_turns(folder, monkeypatch, capsys):
    assert talk(folder, monkeypatch, ["Hello! Hi"] * 6, "--system", "Hi") == 0
    assert "oldest turns" in capsys.readouterr().err


def test_a_template_may_render_a_turn_otherwise_once_the_conversation_goes_on(folder, monkeypatch, capsys):
    last_only = "{% if loop.last %}Hi {% endif %}{{ message['content'] }}"
    (folder / "chat_template.jinja").write_text(CHATML.replace("{{ message['content'] }}", last_only))
    assert talk(folder, monkeypatch, ["Hi", "Bye"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out.count("\n") >= 2


def test_a_line_that_is_too_long_costs_no_memory(folder):
    model, tokenizer = load_model(folder)
    messages = [{"role": role, "content": "Hi"} for role in ("user", "assistant") * 2]
    messages.append({"role": "user", "content": "x" * 100})
    with pytest.raises(UserError, match="do not fit"):
        answer(model, tokenizer, messages, 6, Sampling(), torch.Generator())
    assert len(messages) == 5


def test_what_cannot_be_said_does_not_end_the_conversation(folder, monkeypatch, capsys):
    assert talk(folder, monkeypatch, ["Hi<|im_end|>", "x" * 100, "Hi"]) == 0
    shown = capsys.readouterr()
    assert "special token" in shown.err
    assert "do not fit" in shown.err
    assert shown.out.count("\n") >= 1


def test_answers_as_long_as_the_model_reads_are_refused(folder, monkeypatch, capsys):
    assert talk(folder, monkeypatch, ["Hi"], "--max-new-tokens", "64") == 2
    assert "--max-new-tokens must be below the 64 tokens" in capsys.readouterr().err


def test_a_model_without_a_template_is_refused(folder, monkeypatch, capsys):
    (folder / "chat_template.jinja").unlink()
    assert talk(folder, monkeypatch, ["Hi"]) == 2
    assert "no chat template" in capsys.readouterr().err
    assert talk(folder, monkeypatch, ["Hi"], "--temperature", "-1") == 2
    assert "temperature" in capsys.readouterr().err
