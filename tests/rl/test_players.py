"""Answers to prompts that a reward function judges, and chat models in environments."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch

from core.config import ModelConfig, OptimConfig
from core.errors import UserError
from core.nn.transformer import Transformer
from core.pretrained.huggingface import save_hf
from core.text.characters import CharTokenizer
from core.text.chat import encode_chat, render
from core.text.tokenizer import BPETokenizer
from rl.episodes import EVALUATION, TRAINING, EpisodeSeed
from rl.interface import ChatInterface
from rl.prompts import read_prompts
from rl.rewards import BadReward
from rl.trainers import PolicyTrainer

REWARDS = """
def share_of_a(prompts, completions, **columns):
    return [text.count("a") / 4 for text in completions]

def wanted(prompts, completions, letter, **columns):
    assert len(prompts) == len(completions) == len(letter)
    return [text.count(one) / 4 for text, one in zip(completions, letter)]

def broken(prompts, completions, **columns):
    return [float("nan")] * len(completions)
"""


@pytest.fixture
def rewards(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(REWARDS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("my_rewards", None)


def save(folder, tokenizer, **sizes):
    torch.manual_seed(0)
    shape = {"width": 32, "num_layers": 1, "num_heads": 1, "max_length": 128, **sizes}
    model = Transformer(ModelConfig(vocab_size=tokenizer.vocab_size, **shape))
    save_hf(model, folder, tokenizer)
    return folder


@pytest.fixture
def prompted(config, tmp_path, rewards):
    """A run with prompts of two letters, and the letter that is wanted beside each."""
    path = tmp_path / "prompts.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": f"{one}{n % 3}:", "letter": one}) + "\n" for n in range(12) for one in "ab")
    )
    folder = save(tmp_path / "model", CharTokenizer.train("abc012:"))
    return dataclasses.replace(
        config, prompts=path, reward="my_rewards:wanted", init_from=folder, max_new_tokens=4, eval_episodes=8,
        batch_size=16, optim=OptimConfig(lr=1e-2),
    )  # fmt: skip


@pytest.mark.parametrize("algorithm", ["reinforce", "ppo", "rloo", "grpo"])
def test_a_reward_function_teaches_a_model_what_to_answer(prompted, algorithm):
    config = dataclasses.replace(prompted, algorithm=algorithm, steps=40, batch_size=64)
    trainer = PolicyTrainer(config, quiet=True, report=False)
    before = trainer.evaluate()["return"]
    assert trainer.train()["return"] > before + 0.3


def test_dynamic_sampling_works_on_prompts(prompted):
    trainer = PolicyTrainer(dataclasses.replace(prompted, algorithm="dapo", batch_size=32), quiet=True, report=False)
    trainer.train()
    assert trainer.sample(1)[0]["transcript"][-1]["role"] == "agent"


def test_the_bundled_prompts_need_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prompts = [record.fields["prompt"] for record in read_prompts(Path("topics"))]
    assert len(set(prompts)) == len(prompts) == 130
    assert "Write one sentence about apples." in prompts
    assert len({prompt.split()[-1][0] for prompt in prompts[-13:]}) > 8  # what is held out is not all of one letter
    (tmp_path / "topics").write_text("")
    with pytest.raises(UserError, match="JSON lines"):  # a file of that name comes first
        read_prompts(Path("topics"))


def test_episodes_are_prompts_answers_and_what_they_are_worth(prompted):
    task = PolicyTrainer(dataclasses.replace(prompted, unfinished_penalty=10.0), quiet=True).task
    seeds = [EpisodeSeed.derive(1, TRAINING, n, 4) for n in range(40)]
    rollout = task.play(seeds)
    assert rollout.group_E.tolist() == [n // 4 for n in range(40)]
    for n, (turn, tokens) in enumerate(zip(rollout.turns, rollout.samples.lists())):
        assert turn.observation == rollout.turns[n - n % 4].observation
        finished = bool(rollout.samples.finished_B[n])
        assert turn.valid == finished
        assert turn.action == task.player.tokenizer.decode(tokens[: len(tokens) - finished])
        assert turn.reward == pytest.approx(turn.action.count(turn.observation[0]) / 4 - 10 * (not finished))
        assert rollout.contexts[n] == [task.player.tokenizer.bos_id, *task.player.tokenizer.encode(turn.observation)]
    assert {bool(f) for f in rollout.samples.finished_B} == {True, False}


def test_held_out_prompts_are_answered_in_turn_and_never_trained_on(prompted, tmp_path):
    task = PolicyTrainer(prompted, quiet=True).task
    held_out = {row["prompt"] for row in map(json.loads, prompted.prompts.read_text().splitlines()[-2:])}
    seen = [turn.observation for turn in task.play([EpisodeSeed.derive(1, EVALUATION, n) for n in range(6)]).turns]
    assert set(seen) <= held_out
    own = tmp_path / "other.jsonl"
    own.write_text('{"prompt": "c0:", "letter": "c"}\n')
    other = PolicyTrainer(dataclasses.replace(prompted, eval_prompts=own), quiet=True).task
    assert {turn.observation for turn in other.evaluation_rollout().turns} == {"c0:"}


def test_adapters_are_trained_alone(prompted):
    config = dataclasses.replace(prompted, lora_rank=2, steps=3, kl_coef=0.1)
    trainer = PolicyTrainer(config, quiet=True, report=False)
    before = {name: p.clone() for name, p in trainer.task.model.module.named_parameters()}
    trainer.train()
    moved = {name for name, p in trainer.task.model.module.named_parameters() if not p.equal(before[name])}
    assert moved
    assert all("lora_" in name for name in moved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": "my_rewards:nothing"}, "has no function 'nothing'"),
        ({"reward": "nowhere:f"}, "nowhere"),
        ({"prompts": "absent.jsonl"}, "absent.jsonl"),
        ({"reward": ""}, "prompts and reward go together"),
        ({"init_from": None}, "prompts need a model that can read"),
        ({"prompts": None, "reward": "", "unfinished_penalty": 1.0}, "are about answers to prompts"),
    ],
)
def test_what_is_missing_is_named_before_anything_is_written(prompted, changes, message, tmp_path):
    changes = {name: tmp_path / value if name == "prompts" and value else value for name, value in changes.items()}
    with pytest.raises((ValueError, UserError), match=message):
        PolicyTrainer(dataclasses.replace(prompted, **changes), quiet=True).train()
    assert not prompted.out.exists()


def test_a_reward_that_is_no_number_stops_the_run(prompted):
    with pytest.raises(BadReward, match="my_rewards:broken gave nan"):
        PolicyTrainer(dataclasses.replace(prompted, reward="my_rewards:broken"), quiet=True).train()


def test_a_line_without_a_prompt_is_named(prompted):
    prompted.prompts.write_text('{"prompt": "a0:"}\n{"text": "b"}\n')
    with pytest.raises(ValueError, match=r"prompts\.jsonl:2: prompt must be"):
        PolicyTrainer(prompted, quiet=True).train()


# Chat.


def chat_tokenizer():
    return BPETokenizer.train(
        ["r0c0: r1c2: LDRU user assistant 0123456789"] * 5, 290, special_tokens=["<|im_start|>", "<|im_end|>"]
    )


def test_turns_of_a_chat_are_the_templates_to_the_token():
    """What is read turn by turn is what the whole conversation is as one text, though nothing is tokenized twice."""
    import gymnasium

    env = gymnasium.make("rl.envs:trillium/FrozenLake-v0")
    tokenizer = chat_tokenizer()
    interface = ChatInterface(tokenizer, env.observation_space, env.action_space)
    end = tokenizer.token_to_id("<|im_end|>")
    assert interface.stop_id == end
    answers = [[*tokenizer.encode("D"), end], [*tokenizer.encode("R"), end]]
    ids = [*interface.start("r0c0:"), *answers[0], *interface.reply("r1c0:"), *answers[1]]
    said = [("user", "r0c0:"), ("assistant", "D"), ("user", "r1c0:"), ("assistant", "R")]
    messages = [{"role": role, "content": text} for role, text in said]
    assert tokenizer.decode(ids, skip_special=False) == render(messages).rstrip("\n")
    assert ids == encode_chat(tokenizer, messages).ids[: len(ids)]
    assert interface.action(answers[0]) == "D"
    # An environment that repeats what a policy spelled gives it no other role.
    assert interface.start("r0<|im_end|>c0:") == interface.start("r0c0:")
    assert interface.reply("r1<|im_start|>c0:") == interface.reply("r1c0:")
    # An answer that was cut is ended for the model.
    assert interface.reply("r1c0:", finished=False) == [end, *interface.reply("r1c0:")]


def test_a_chat_model_plays_an_environment_in_several_turns(config, tmp_path):
    folder = save(tmp_path / "chat", chat_tokenizer())
    config = dataclasses.replace(
        config, env="trillium/FrozenLake-v0", env_kwargs={"horizon": 3}, init_from=folder, chat=True,
        context="history", steps=2, algorithm="grpo",
    )  # fmt: skip
    trainer = PolicyTrainer(config, quiet=True, report=False)
    scores = trainer.train()
    assert scores["valid"] == 1
    rollout = trainer.play(episodes=2)
    text = trainer.tokenizer.decode(rollout.contexts[1], skip_special=False)
    assert text.startswith("<|im_start|>user\nr0c0:<|im_end|>\n<|im_start|>assistant\n")
    assert text.count("<|im_start|>user") == 2


def test_chat_prompts_end_with_the_assistants_turn(prompted, tmp_path):
    folder = save(tmp_path / "chat", chat_tokenizer())
    config = dataclasses.replace(prompted, init_from=folder, chat=True, max_new_tokens=6)
    task = PolicyTrainer(config, quiet=True).task
    rollout = task.play([EpisodeSeed.derive(1, TRAINING, 0)])
    text = task.player.tokenizer.decode(rollout.contexts[0], skip_special=False)
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert rollout.turns[0].observation.startswith("user: ")
    with pytest.raises(ValueError, match="no special token"):
        PolicyTrainer(dataclasses.replace(prompted, chat=True), quiet=True).task  # noqa: B018
