"""Environments of several turns in GRPOTrainer: through our sampler, and through TRL's tool loop."""

from types import SimpleNamespace

import gymnasium
import pytest
import torch

from core.config import ModelConfig
from core.nn.transformer import Transformer
from core.text.tokenizer import CharTokenizer
from rl.environments import EnvironmentFault
from rl.envs.text import TextEnv
from rl.interface import TextInterface
from rl.trl import ROLLOUT_SETTINGS, InteropError, from_trl, trl_environment, trl_rollout

pytest.importorskip("trl")

TOKENIZER = CharTokenizer.train("0123456789-+cr:LDRUabcd")
LAKE = "trillium/FrozenLake-v0"
LONG_LAKE = {"horizon": 5, "max_invalid": 9}
"""Invalid actions cost .1 each and end nothing, so that returns differ before anything is learned."""

GAMES = [
    pytest.param(LAKE, {"max_turns": 4, "env_kwargs": LONG_LAKE}, id="lake"),
    pytest.param("tests/Counting-v0", {"env_kwargs": {"longest": 2}}, id="counting"),
]


@pytest.mark.parametrize(("env", "options"), [*GAMES, ("trillium/Copy-v0", {"env_kwargs": {"length": 1}})])
def test_rollouts_are_the_episodes_that_were_played(grpo, env, options, history):
    played = []
    trainer = grpo(trl_rollout, env, options=options, config={"temperature": 0.7, "beta": 0.05})
    play = trainer.rollout_func
    trainer.rollout_func = lambda prompts, trainer: played.append((prompts, play(prompts, trainer))) or played[-1][1]
    before = trainer.ours
    first, _ = history(trainer)
    assert first["kl"] == 0

    prompts, record = played[0]
    assert [prompts[n] for n in range(8)] == [prompts[n // 4 * 4] for n in range(8)]
    made = gymnasium.make(env, **options["env_kwargs"])
    interface = TextInterface(TOKENIZER, made.observation_space, made.action_space)
    columns = ("prompt_ids", "completion_ids", "logprobs", "env_mask", "env_return")
    for prompt, *row in zip(prompts, *(record[name] for name in columns)):
        read, written, logprobs, mask, total = row
        observation, _ = made.reset(seed=int(prompt))
        assert read == interface.start(observation)
        context, gained, done, turns = list(read), 0.0, False, 0
        position = 0
        while not done:
            end = position
            while end < len(mask) and mask[end]:
                end += 1
            # Two turns never touch, for there is always an observation between them.
            observation, reward, terminated, truncated, _ = made.step(interface.action(written[position:end]))
            gained, turns = gained + reward, turns + 1
            done = terminated or truncated or turns == options.get("max_turns")
            position = end
            if not done:
                observed = TOKENIZER.encode(observation)
                assert written[position : position + len(observed)] == observed
                assert mask[position : position + len(observed)] == [0] * len(observed)
                position += len(observed)
        assert position == len(written) == len(mask) == len(logprobs)
        assert total == pytest.approx(gained, abs=1e-6)

        logits = before.logits(before(torch.tensor([context + written])))[0, len(context) - 1 : -1] / 0.7
        scored = logits.log_softmax(-1).gather(-1, torch.tensor(written)[:, None]).squeeze(-1) * torch.tensor(mask)
        torch.testing.assert_close(torch.tensor(logprobs), scored, atol=1e-5, rtol=0)
    assert len({round(total, 3) for total in record["env_return"]}) > 1


@pytest.mark.parametrize(("env", "options"), GAMES)
def test_tokens_of_the_environment_get_no_gradient_at_all(grpo, env, options):
    trainer = grpo(trl_rollout, env, options=options)
    kept = {}
    trainer.current_gradient_accumulation_steps = 1  # what `train` sets
    trainer.model.train()
    batch = next(iter(trainer.get_train_dataloader()))

    def keep(module, inputs, output):
        kept["hidden_BSD"] = output.last_hidden_state
        output.last_hidden_state.retain_grad()

    inputs = trainer._prepare_inputs(batch)
    hook = trainer.model.model.register_forward_hook(keep)
    trainer.compute_loss(trainer.model, inputs).backward()
    hook.remove()
    mask_BT = (inputs["completion_mask"] * inputs["tool_mask"]).bool()
    num_new = mask_BT.shape[1]
    # The last layer's state at a position is read by the prediction of the next token and by nothing else.
    gradient_BT = kept["hidden_BSD"].grad[:, -num_new - 1 : -1].abs().sum(-1)
    assert gradient_BT[~mask_BT].max() == 0
    assert (~mask_BT & inputs["completion_mask"].bool()).any()
    moved = inputs["advantages"].abs() > 1e-3
    assert moved.any()
    assert (gradient_BT[moved][mask_BT[moved]] > 0).all()
    assert kept["hidden_BSD"].grad[:, : -num_new - 1].abs().max() == 0


def always(token_id):
    """A model that writes one token, whatever it reads."""
    model = Transformer(ModelConfig(vocab_size=TOKENIZER.vocab_size, width=32, num_layers=1, num_heads=1, tied=False))
    with torch.no_grad():
        model.model.embed_tokens.weight.fill_(1.0)
        model.lm_head.weight.zero_()
        model.lm_head.weight[token_id] = 1.0  # its logit is the width, all others are 0
    return model


def test_a_policy_that_says_nothing_still_has_completions(grpo, history):
    played = []
    trainer = grpo(trl_rollout, "tests/Counting-v0", model=always(TOKENIZER.eos_id),
                   options={"env_kwargs": {"longest": 2}})  # fmt: skip
    play = trainer.rollout_func
    trainer.rollout_func = lambda prompts, trainer: played.append(play(prompts, trainer)) or played[-1]
    first, _ = history(trainer)
    assert first["frac_reward_zero_std"] == 1
    for ids, mask in zip(played[0]["completion_ids"], played[0]["env_mask"]):
        assert [token for token, own in zip(ids, mask) if own] == [TOKENIZER.eos_id] * 3


def test_an_episode_longer_than_grpo_allows_is_an_error(grpo):
    trainer = grpo(trl_rollout, LAKE, options={"env_kwargs": LONG_LAKE}, config={"max_completion_length": 9})
    with pytest.raises(InteropError, match="has 25 tokens, max_completion_length 9: raise it"):
        trainer.train()


CONTRADICTIONS = {
    "top_p": 0.9, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.2, "generation_kwargs": {"max_new_tokens": 2},
    "use_vllm": True, "mask_truncated_completions": True,
}  # fmt: skip


@pytest.mark.parametrize("name", ROLLOUT_SETTINGS)
def test_settings_that_a_rollout_cannot_follow_are_refused(exported, arguments, name):
    from trl import GRPOConfig

    args = GRPOConfig(**arguments(num_generations=4, **{name: CONTRADICTIONS[name]}))
    play = trl_rollout(LAKE, exported().tokenizer, num_episodes=1)["rollout_func"]
    with pytest.raises(InteropError, match=f"cannot follow {name} = "):
        play(["1"], SimpleNamespace(args=args))


def test_lora_trains_through_rollouts_and_comes_back_merged(grpo, tmp_path, history, same_logits):
    peft = pytest.importorskip("peft")
    adapter = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    trainer = grpo(
        trl_rollout, "tests/Counting-v0", peft_config=adapter, config={"learning_rate": 0.05, "beta": 0.05},
        options={"env_kwargs": {"longest": 2}},
    )  # fmt: skip
    first, _ = history(trainer)
    assert first["kl"] == 0
    trainer.save_model(str(tmp_path / "adapter"))
    tuned, _ = from_trl(tmp_path / "adapter")
    same_logits(tuned, trainer.model)
    moved = tuned.model.layers[0].self_attn.q_proj.weight - trainer.ours.model.layers[0].self_attn.q_proj.weight
    assert moved.abs().max() > 1e-3
    # The next episodes are played with the adapter.
    record = trainer.rollout_func(["1", "1"], trainer)
    tokens = torch.tensor([record["prompt_ids"][0] + record["completion_ids"][0]])
    logits = tuned.logits(tuned(tokens))[0, len(record["prompt_ids"][0]) - 1 : -1]
    chosen = logits.log_softmax(-1).gather(-1, torch.tensor(record["completion_ids"][0])[:, None]).squeeze(-1)
    torch.testing.assert_close(
        torch.tensor(record["logprobs"][0]), chosen * torch.tensor(record["env_mask"][0]), atol=1e-4, rtol=0
    )


# Several turns through TRL's tool loop.


def scored_rows(trainer):
    """Train, and give what the first batch of episodes was: rows, environments as they stood, and texts they got."""
    actions, rows = [], []
    step, score = TextEnv.step, trainer._generate_and_score_completions

    def counted(env, action):
        actions.append(action)
        return step(env, action)

    def kept(inputs):
        output = score(inputs)
        if not rows:
            states = [(env._turns, env.get_reward()) for env in trainer.environments]
            rows.append(([example["seed"] for example in inputs], output, states, list(actions)))
        return output

    trainer._generate_and_score_completions = kept
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TextEnv, "step", counted)
        trainer.train()
    return rows[0]


def texts(output):
    """Per row the texts of the policy's turns, from the tokens that carry loss."""
    found = []
    for ids, keep, own in zip(output["completion_ids"], output["completion_mask"], output["tool_mask"]):
        turns, before = [], 0
        for token, mine in zip(ids[keep.bool()].tolist(), own[keep.bool()].tolist()):
            if mine and not before:
                turns.append([])
            if mine:
                turns[-1].append(token)
            before = mine
        found.append([TOKENIZER.decode(turn, skip_special=False) for turn in turns])
    return found


TOOLS = {"max_completion_length": 60, "generation_kwargs": {"max_new_tokens": 1}}


def test_the_tool_loop_stops_where_episodes_end(grpo):
    options = {"max_turns": 4, "env_kwargs": LONG_LAKE, "max_completion_length": 60}
    trainer = grpo(trl_environment, LAKE, template=True, config=TOOLS, options=options)
    seeds, output, states, actions = scored_rows(trainer)
    env = gymnasium.make(LAKE, **LONG_LAKE)
    turns = texts(output)
    assert sum(map(len, turns)) == len(actions)  # no turn after the end, and none without the environment
    for seed, said, (count, total) in zip(seeds, turns, states):
        env.reset(seed=seed)
        gained, done = 0.0, False
        for number, text in enumerate(said):
            assert not done
            _, reward, terminated, truncated, _ = env.step("" if text == "<eos>" else text)
            gained, done = gained + reward, terminated or truncated or number == 3
        assert done
        assert (len(said), gained) == (count, pytest.approx(total, abs=1e-9))
    # What was read is what our own policies read: observations and actions, one after the other.
    first = output["completion_ids"][0][output["completion_mask"][0].bool()].tolist()
    assert [n for n, own in enumerate(output["tool_mask"][0].tolist()[: len(first)]) if own] == [0, 6, 12, 18]
    assert TOKENIZER.decode(first[1:6]).startswith("r")
    assert TOKENIZER.decode(output["prompt_ids"][0].tolist(), skip_special=False) == "<bos>r0c0:"


def test_turns_after_the_end_are_neutral_where_the_lengths_contradict(grpo):
    options = {"max_turns": 2, "env_kwargs": LONG_LAKE, "max_completion_length": 8}
    config = {**TOOLS, "max_tool_calling_iterations": 4}
    trainer = grpo(trl_environment, LAKE, template=True, config=config, options=options)
    _, output, states, actions = scored_rows(trainer)
    assert len(actions) == 8 * 2
    assert sum(map(len, texts(output))) > 8 * 2
    assert {count for count, _ in states} == {2}


def test_an_environment_of_one_turn_through_the_tool_loop(grpo):
    trainer = grpo(
        trl_environment, "trillium/Copy-v0", template=True, options={"max_completion_length": 60},
        config={**TOOLS, "generation_kwargs": {"max_new_tokens": 4}},
    )  # fmt: skip
    _, output, states, actions = scored_rows(trainer)
    assert len(actions) == 8
    assert [len(said) for said in texts(output)] == [1] * 8 == [count for count, _ in states]


def test_a_fault_of_the_environment_stops_the_tool_loop_too(grpo, monkeypatch):
    trainer = grpo(trl_environment, LAKE, template=True, config=TOOLS, options={"max_completion_length": 60})
    monkeypatch.setattr(TextEnv, "step", lambda env, action: ("r0c0:", float("nan"), False, False, {}))
    with pytest.raises(EnvironmentFault, match="gave the reward nan at step 1"):
        trainer.train()
    environment = trainer.environments[0]
    assert environment.reset(seed=1) == "r0c0:"
    assert environment.get_reward() == 0  # the next episode is a new one
