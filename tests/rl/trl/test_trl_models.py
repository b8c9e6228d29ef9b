"""TRL's trainers on our models: what must hold at the first step, and the way back. Rewards, and one turn."""

import math
from types import SimpleNamespace

import gymnasium
import pytest
import torch

from core.config import ModelConfig
from core.losses import lm_loss
from core.nn.transformer import Transformer
from core.text.tokenizer import CharTokenizer
from rl.interface import EnvironmentMismatch, TextInterface
from rl.trl import (
    InteropError,
    as_reward_func,
    from_trl,
    to_trl,
    trl_environment,
    trl_reward,
    trl_rollout,
)

pytest.importorskip("trl")

TOKENIZER = CharTokenizer.train("0123456789-+cr:LDRUabcd")
LAKE = "trillium/FrozenLake-v0"


def dataset(**columns):
    from datasets import Dataset

    return Dataset.from_dict(columns)


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"qk_norm": False, "tied": False, "num_kv_heads": 1},
        {"positions": "learned", "norm": "layer", "qk_norm": False, "activation": "gelu_tanh", "bias": True},
    ],
    ids=["qwen3", "llama", "gpt2"],
)
def test_logits_are_the_same_on_either_side(exported, sizes, same_logits):
    export = exported(**sizes)
    same_logits(export.ours, export.theirs)
    again, tokenizer = from_trl(export.folder)
    same_logits(again, export.theirs)
    assert tokenizer.fingerprint == TOKENIZER.fingerprint
    assert export.tokenizer("r0c1:L")["input_ids"] == TOKENIZER.encode("r0c1:L")


def test_padding_on_the_left_changes_nothing(exported):
    export = exported()
    texts = ["r0c1:", "aa:", "-7"]
    batch = export.tokenizer(texts, padding=True, return_tensors="pt")
    assert batch["input_ids"][2, 0] == TOKENIZER.pad_id
    with torch.no_grad():
        logits_BV = export.theirs.eval()(**batch).logits[:, -1]
        for text, logits_V in zip(texts, logits_BV):
            alone = export.ours.logits(export.ours(torch.tensor([TOKENIZER.encode(text)])))[0, -1]
            torch.testing.assert_close(logits_V, alone, atol=1e-5, rtol=0)


def test_supervised_fine_tuning_there_and_back(exported, arguments, tmp_path, history, same_logits):
    from trl import SFTConfig, SFTTrainer

    export = exported(noise=0)
    texts = ["abcd:abcd", "r0c1:L", "bbbb:bbbb", "r3c2:R"] * 2
    tokens = [TOKENIZER.encode(text, add_eos=True) for text in texts]
    losses = []
    for row in tokens:
        hidden_BTD = export.ours(torch.tensor([row[:-1]]))
        losses.append(lm_loss(export.ours.logits, hidden_BTD, torch.tensor([row[1:]]), vocab_size=TOKENIZER.vocab_size))
    expected = sum(loss.item() for loss, _ in losses) / sum(count.item() for _, count in losses)

    trainer = SFTTrainer(
        export.theirs, args=SFTConfig(**arguments()), train_dataset=dataset(text=texts),
        processing_class=export.tokenizer,
    )  # fmt: skip
    first, second = history(trainer)
    assert first["loss"] == pytest.approx(expected, abs=1e-5)
    assert first["loss"] == pytest.approx(math.log(TOKENIZER.vocab_size), abs=0.15)
    assert second["loss"] < first["loss"]

    trainer.save_model(str(tmp_path / "tuned"))
    tuned, tokenizer = from_trl(tmp_path / "tuned")
    same_logits(tuned, trainer.model)
    assert tokenizer.encode("r0c1:L<eos>") == TOKENIZER.encode("r0c1:L<eos>")
    assert not torch.equal(tuned.model.embed_tokens.weight, export.ours.model.embed_tokens.weight)


PAIRS = {
    "prompt": ["ab:", "ba:", "cd:", "dc:"] * 2,
    "chosen": ["ab", "ba", "cd", "dc"] * 2,
    "rejected": ["dd", "d", "aaa", "-"] * 2,
}


def test_direct_preference_optimisation_starts_at_the_reference(exported, arguments, history):
    from trl import DPOConfig, DPOTrainer

    export = exported()
    first, second = history(
        DPOTrainer(
            export.theirs, args=DPOConfig(**arguments()), train_dataset=dataset(**PAIRS),
            processing_class=export.tokenizer,
        )
    )  # fmt: skip
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert second["loss"] < first["loss"]


def test_kto_starts_at_the_reference(exported, arguments, history):
    from trl import KTOConfig, KTOTrainer

    export = exported()
    columns = {"prompt": PAIRS["prompt"], "completion": PAIRS["chosen"], "label": [True, False] * 4}
    first, _ = history(
        KTOTrainer(
            export.theirs, args=KTOConfig(**arguments()), train_dataset=dataset(**columns),
            processing_class=export.tokenizer,
        )
    )  # fmt: skip
    assert first["loss"] == pytest.approx(0.5, abs=1e-5)  # 1 - sigmoid(0)
    assert first["kl"] == pytest.approx(0, abs=1e-5)


def test_a_reward_model_that_scores_for_grpo(exported, arguments, tmp_path, history):
    from trl import GRPOConfig, GRPOTrainer, RewardConfig, RewardTrainer

    export = exported()
    torch.manual_seed(0)
    trainer = RewardTrainer(
        str(export.folder), args=RewardConfig(**arguments()), train_dataset=dataset(**PAIRS),
        processing_class=export.tokenizer,
    )  # fmt: skip
    first, second = history(trainer)
    assert first["loss"] == pytest.approx(math.log(2), abs=0.1)
    assert second["loss"] < first["loss"]
    trainer.save_model(str(tmp_path / "reward"))

    scored = GRPOTrainer(
        export.theirs, reward_funcs=as_reward_func(tmp_path / "reward"), processing_class=export.tokenizer,
        args=GRPOConfig(**arguments(num_generations=4, max_completion_length=4)),
        train_dataset=dataset(prompt=PAIRS["prompt"]),
    )  # fmt: skip
    assert history(scored)[0]["reward_std"] > 0
    with pytest.raises(InteropError, match="no sequence classifier"):
        as_reward_func(export.folder)
    with pytest.raises(InteropError, match="no sequence classifier"):
        as_reward_func(str(tmp_path / "nowhere"))


# A single turn.


def test_an_environment_of_one_turn_as_a_reward(exported, arguments, history):
    from trl import RLOOConfig, RLOOTrainer

    export = exported()
    parts = trl_reward("trillium/Copy-v0", export.tokenizer, num_episodes=8, env_kwargs={"max_invalid": 1})
    rows, reward = parts["train_dataset"], parts["reward_funcs"]
    env = gymnasium.make("rl.envs:trillium/Copy-v0")
    interface = TextInterface(TOKENIZER, env.observation_space, env.action_space)
    for row in rows:
        observation, _ = env.reset(seed=row["seed"])
        assert export.tokenizer(row["prompt"])["input_ids"] == interface.start(observation)
    word = env.reset(seed=rows["seed"][0])[0][:4]
    answers = [TOKENIZER.encode(text) for text in (word, word[:3], "----")]
    answers += [[*answers[0], TOKENIZER.eos_id], [TOKENIZER.pad_id, *answers[0]], [TOKENIZER.eos_id]]
    seeds = rows["seed"][:1] * len(answers)
    assert reward(completion_ids=answers, seed=seeds, prompts=[], completions=[]) == [1, -0.1, -0.1, 1, -0.1, -0.1]

    config = RLOOConfig(**arguments(num_generations=4, max_completion_length=4, beta=0.05))
    first, _ = history(RLOOTrainer(export.theirs, args=config, processing_class=export.tokenizer, **parts))
    assert first["kl"] == 0
    assert first["rewards/environment/mean"] == pytest.approx(
        -0.1
    )  # no fresh model writes a word of four right letters


def test_copy_is_learned_by_grpo_through_the_reward(grpo):
    trainer = grpo(
        trl_reward, "trillium/Copy-v0", options={"num_episodes": 64, "env_kwargs": {"length": 1, "alphabet": "ab"}},
        config={"max_completion_length": 1, "max_steps": 40, "per_device_train_batch_size": 64, "logging_steps": 10,
                "learning_rate": 1e-2},
    )  # fmt: skip
    trainer.train()
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    assert rewards[0] < 0.5 < 0.75 < rewards[-1]  # a blind guess of one of the letters gives .5, the optimum is 1


def test_an_environment_of_several_turns_is_no_reward(exported):
    export = exported()
    reward = trl_reward(LAKE, export.tokenizer, num_episodes=1)["reward_funcs"]
    with pytest.raises(EnvironmentMismatch, match="use trl_rollout"):
        reward(completion_ids=[TOKENIZER.encode("L")], seed=[0])


@pytest.mark.parametrize("adapter", [trl_reward, trl_rollout, trl_environment])
def test_environments_that_do_not_fit_are_refused_at_once(exported, adapter):
    export = exported()
    with pytest.raises(ValueError, match="cannot make the environment 'CartPole-v9'"):
        adapter("CartPole-v9", export.tokenizer)
    with pytest.raises(InteropError, match="num_episodes must be >= 1, got 0"):
        adapter("trillium/Copy-v0", export.tokenizer, num_episodes=0)
    with pytest.raises(EnvironmentMismatch, match="lacks 'xz'"):
        adapter("trillium/Copy-v0", export.tokenizer, env_kwargs={"alphabet": "xz"})


def test_a_reward_of_ours_as_a_reward_function():
    def count(prompts, completions, letter, **columns):
        return [torch.tensor(text.count(letter[n]) + len(prompts[n])) for n, text in enumerate(completions)]

    reward = as_reward_func(count)
    assert reward.__name__ == "count"
    assert reward(prompts=["", "x"], completions=["aab", "b"], letter=["a", "b"], trainer_state=None) == [2.0, 2.0]
    said = [[{"role": "assistant", "content": "aa"}, {"role": "tool", "content": "a"}]]
    assert reward(prompts=[[{"role": "user", "content": "?"}]], completions=said, letter=["a"]) == [4.0]
    with pytest.raises(InteropError, match="the reward broken is nan for 'b'"):
        as_reward_func(broken)(prompts=["", ""], completions=["a", "b"])


def broken(prompts, completions, **columns):
    return [math.nan if text == "b" else 0.0 for text in completions]


@pytest.mark.parametrize("versions", [["1.15.2"], ["1.17.0"], []])
def test_other_versions_of_trl_are_refused(monkeypatch, exported, versions):
    export = exported()
    monkeypatch.setattr(
        "rl.trl.metadata.distributions", lambda name: iter([SimpleNamespace(version=text) for text in versions])
    )
    for use in (
        lambda: to_trl(export.ours, TOKENIZER, export.folder, overwrite=True),
        lambda: trl_rollout(LAKE, export.tokenizer),
    ):
        with pytest.raises(InteropError, match=r"pip install 'trl>=1.16,<1.17'"):
            use()


def test_a_tokenizer_without_an_end_is_refused(tmp_path):
    tokenizer = CharTokenizer.train("ab", special=False)
    model = Transformer(ModelConfig(vocab_size=tokenizer.vocab_size, width=32, num_layers=1, num_heads=1))
    with pytest.raises(InteropError, match="no end-of-sequence token"):
        to_trl(model, tokenizer, tmp_path / "model")
