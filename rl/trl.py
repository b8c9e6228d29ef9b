"""Between Trillium and TRL: our models, environments and rewards in its trainers, and what they trained back in ours.

The trainers of the library TRL run as they are. The adapters of environments return keyword arguments of a trainer:
`GRPOTrainer(model, args=…, processing_class=tokenizer, **trl_rollout("trillium/FrozenLake-v0", tokenizer))`, where
model and tokenizer are those of transformers that `to_trl` returns. docs/trl.md says which adapter to take.
"""

import copy
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium
import torch
from packaging.specifiers import SpecifierSet

from core.errors import UserError
from core.nn.lora import load_lora, merge_lora
from core.nn.transformer import Transformer
from core.policy import LanguageModelPolicy
from core.pretrained.architectures import absent_biases, from_config_json
from core.pretrained.huggingface import from_hf, save_hf
from core.pretrained.weights import build, to_ours
from core.text.tokenizer import HFTokenizer, load_tokenizer
from rl.collect import collect
from rl.environments import EnvironmentFault, EnvironmentPool
from rl.episodes import TRAINING, EpisodeSeed
from rl.interface import EnvironmentMismatch, TextInterface, text_spaces
from rl.rollout import Rollout

SUPPORTED = ">=1.16,<1.17"
"""Versions of TRL that this module works with."""

CPU_SETTINGS: Mapping[str, Any] = {
    "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "dataloader_pin_memory": False, "report_to": [],
}  # fmt: skip
"""Arguments of any TRL config for a run on a CPU in float32: `GRPOConfig(folder, **CPU_SETTINGS)`. By default TRL asks
for bfloat16, and computes activations twice to save memory."""

ROLLOUT_SETTINGS: Mapping[str, Any] = {
    "top_p": 1.0, "top_k": 0, "min_p": None, "repetition_penalty": 1.0, "generation_kwargs": None, "use_vllm": False,
    "mask_truncated_completions": False,
}  # fmt: skip
"""What `GRPOConfig` has to say with `trl_rollout`: our sampler draws from the whole distribution, and the last token of
an episode does not tell whether it was cut."""


class InteropError(UserError, ValueError):
    """A version, setting, reward or folder with which TRL and Trillium do not go together."""


def to_trl(model: Transformer, tokenizer: HFTokenizer, folder: Path | str, *, overwrite: bool = False) -> Any:
    """Export a language model and load it with transformers, as TRL's trainers take it.

    It goes through a folder because trainers load their reference model from there; `RewardTrainer` takes the folder.

    Args:
        model: a core Transformer.
        tokenizer: ours, with an end-of-sequence token.
        folder: where to; it has to stay while trainers are made from the model.
        overwrite: replace an existing folder.

    Returns:
        (model, tokenizer) of transformers, the weights in float32.

    Raises:
        InteropError: another version of TRL, or a tokenizer without an end-of-sequence token; see also `save_hf`.
    """
    _require_trl()
    if tokenizer.eos_id is None:
        raise InteropError("the tokenizer has no end-of-sequence token, with which TRL ends texts: make one with it")
    folder = Path(folder).absolute()
    save_hf(model, folder, tokenizer, overwrite=overwrite)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    exported = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return exported, AutoTokenizer.from_pretrained(folder, local_files_only=True, padding_side="left")


def from_trl(folder: Path | str) -> tuple[Transformer, HFTokenizer | None]:
    """Load what `trainer.save_model(folder)` wrote: a whole model, or a LoRA adapter, which is merged into its base.

    Returns:
        The model in float32 on the CPU, and the tokenizer where there is one.

    Raises:
        UnsupportedModel: not a causal language model of a kind that ours can be.
        AdapterError: an adapter other than plain LoRA.
    """
    folder = Path(folder)
    if not (folder / "adapter_config.json").is_file():
        return from_hf(folder)
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    model, tokenizer = from_hf(settings["base_model_name_or_path"])
    load_lora(model, folder)
    merge_lora(model)
    return model, tokenizer


def trl_reward(
    env: str, tokenizer: Any, *, num_episodes: int = 1000, seed: int = 0, env_kwargs: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """An environment of a single turn for GRPO and RLOO: its observations as prompts, and its reward.

    Args:
        env: Gymnasium id; `module:id` imports the module first.
        tokenizer: of the policy.
        num_episodes: rows of the data set; all generations of a row start from one seed of the environment.
        seed: of the episodes.
        env_kwargs: arguments of the environment.

    Returns:
        `train_dataset` (columns `prompt` and `seed`) and `reward_funcs`. An action ends with end-of-sequence, or where
        `max_completion_length` cuts it.

    Raises:
        EnvironmentMismatch: not text, characters that the tokenizer lacks, or an episode of several turns.
    """
    pool, _ = _opened(env, env_kwargs, tokenizer)
    (made,) = pool.first(1)
    # Some tokenizers put their begin-of-sequence token in front by themselves.
    bos = "" if tokenizer("")["input_ids"] else tokenizer.bos_token or ""

    def environment(completion_ids: Sequence[Sequence[int]], seed: Sequence[int], **columns: Any) -> list[float]:
        rewards = []
        for ids, number in zip(completion_ids, seed, strict=True):
            made.reset(seed=number)
            end = 1 if ids[-1] == tokenizer.eos_token_id else 0
            # Ids, because TRL's texts leave out special tokens, which make an action invalid.
            action = tokenizer.decode(ids[: len(ids) - end], skip_special_tokens=False)
            _, reward, terminated, truncated, _ = made.step(action)
            if not (terminated or truncated):
                raise EnvironmentMismatch(f"{env} goes on after the first action: use trl_rollout, which plays on")
            rewards.append(float(reward))
        return rewards

    dataset = _dataset(seed, num_episodes, lambda number: bos + made.reset(seed=number)[0])
    return {"train_dataset": dataset, "reward_funcs": environment}


def trl_rollout(
    env: str,
    tokenizer: Any,
    *,
    num_episodes: int = 1000,
    max_turns: int = 100,
    seed: int = 0,
    env_kwargs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """An environment of several turns for GRPO, played by our own sampler.

    The first observation is TRL's prompt, and all that follows is the completion, where the environment's tokens are
    masked. The policy has the weights of the moment, copied (with an adapter of PEFT merged into them), and the
    `temperature` of `GRPOConfig`.

    Args:
        env, tokenizer, num_episodes, seed, env_kwargs: see `trl_reward`.
        max_turns: turns after which an episode is cut.

    Returns:
        `train_dataset` (the prompt is the seed, which no model reads), `rollout_func`, and `reward_funcs` with the
        undiscounted return.

    Raises:
        EnvironmentMismatch: see `trl_reward`.
        InteropError: while training, other settings than `ROLLOUT_SETTINGS`, or a `max_completion_length` that is too
            small for an episode.
    """
    pool, interface = _opened(env, env_kwargs, tokenizer)

    def rollout(prompts: Sequence[str], trainer: Any) -> dict[str, Any]:
        for name, value in ROLLOUT_SETTINGS.items():
            if (has := getattr(trainer.args, name)) != value:
                raise InteropError(f"trl_rollout cannot follow {name} = {has!r} of GRPOConfig: leave it at {value!r}")
        policy = LanguageModelPolicy(
            _snapshot(trainer), max_new_tokens=interface.max_action_tokens, eos_id=interface.stop_id,
            temperature=trainer.args.temperature,
        )  # fmt: skip
        # torch's generator, because trainers seed it per process and keep it in their checkpoints.
        chance = int(torch.randint(2**62, ()))
        seeds = [replace(EpisodeSeed.derive(chance, TRAINING, n), environment=int(p)) for n, p in enumerate(prompts)]
        # TRL scores an episode as one text, hence the history, and without any mask of legal actions.
        with trainer.accelerator.autocast():
            played = collect(policy, interface, pool, seeds, max_turns=max_turns, history=True, mask_illegal=False)
        sequences = as_sequences(played)
        longest, limit = max(map(len, sequences["completion_ids"])), trainer.args.max_completion_length
        if longest > limit:
            raise InteropError(
                f"an episode has {longest} tokens, max_completion_length {limit}: raise it or lower max_turns"
            )
        return {**sequences, "env_return": played.returns_E.tolist()}

    def environment(env_return: Sequence[float], **columns: Any) -> list[float]:
        return list(env_return)

    dataset = _dataset(seed, num_episodes, str)
    return {"train_dataset": dataset, "rollout_func": rollout, "reward_funcs": environment}


def as_sequences(rollout: Rollout) -> dict[str, list[list[Any]]]:
    """Episodes, played with the whole history as context, as TRL wants them from a `rollout_func`.

    Returns:
        Per episode `prompt_ids` (the first context), `completion_ids` (what follows; never empty, for an episode has a
        turn and a turn a token), `logprobs` (0 at the environment's tokens) and `env_mask` (1 = a token of the policy).
    """
    samples = rollout.samples
    columns: dict[str, list[list[Any]]] = {"prompt_ids": [], "completion_ids": [], "logprobs": [], "env_mask": []}
    prompts, completions, logprobs, masks = columns.values()
    for n, (context, answer) in enumerate(zip(rollout.contexts, samples.lists())):
        if rollout.turn_N[n] == 0:
            prompts.append(list(context))
            for column in (completions, logprobs, masks):
                column.append([])
        observed = context[len(prompts[-1]) + len(completions[-1]) :]
        completions[-1] += [*observed, *answer]
        logprobs[-1] += [0.0] * len(observed) + samples.logprobs_BT[n][samples.mask_BT[n]].tolist()
        masks[-1] += [0] * len(observed) + [1] * len(answer)
    return columns


class TextEnvironment:
    """An environment as TRL's tool loop drives it: `reset` gives the first observation, the tool `act` the next ones.

    TRL knows no end of an episode: it goes on as long as the model calls tools and their results fit. So the last
    result is `end`, a text of more than `max_completion_length` tokens, which TRL takes back before it stops: nothing
    is sampled after the end.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], max_turns: int, end: str) -> None:
        self._env, self._max_turns, self._end = env, max_turns, end

    def reset(self, seed: int | None = None, **columns: Any) -> str:
        """Start an episode and give its first observation."""
        self._turns, self._return, self._ended = 0, 0.0, False
        self._fault: EnvironmentFault | None = None
        return str(self._env.reset(seed=seed)[0])

    def act(self, text: str) -> str:
        """Act in the environment.

        Args:
            text: the action

        Returns:
            What the environment answers.
        """
        if self._ended:
            return self._end
        try:
            observation, reward, terminated, truncated, _ = self._env.step(text)
        except EnvironmentFault as fault:  # kept for later, because TRL would tell the model and go on
            self._fault, self._ended = fault, True
            return self._end
        self._turns, self._return = self._turns + 1, self._return + float(reward)
        self._ended = bool(terminated or truncated or self._turns >= self._max_turns)
        return self._end if self._ended else str(observation)

    def get_reward(self) -> float:
        """The undiscounted return so far.

        Raises:
            EnvironmentFault: the environment failed in this episode.
        """
        if self._fault is not None:
            raise self._fault
        return self._return


def trl_environment(
    env: str,
    tokenizer: Any,
    *,
    num_episodes: int = 1000,
    max_turns: int = 100,
    max_completion_length: int = 512,
    seed: int = 0,
    env_kwargs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """An environment of several turns for GRPO, played by TRL's tool loop.

    Where the tokenizer's chat template does not know tools, call `act_template` first.

    Args:
        env, tokenizer, num_episodes, seed, env_kwargs: see `trl_reward`.
        max_turns: turns after which an episode is cut.
        max_completion_length: that of `GRPOConfig`. If it is larger there, TRL goes on after an episode's end: no turn
            then reaches the environment or changes the return, but each carries loss.

    Returns:
        `train_dataset` (an empty message, and the `seed`) and `environment_factory`.

    Raises:
        EnvironmentMismatch: see `trl_reward`.
    """
    pool, _ = _opened(env, env_kwargs, tokenizer)
    end = tokenizer.eos_token * (max_completion_length + 1)
    return {
        "train_dataset": _dataset(seed, num_episodes, lambda _: [{"role": "user", "content": ""}]),
        "environment_factory": lambda: TextEnvironment(EnvironmentPool(env, pool.kwargs).first(1)[0], max_turns, end),
    }


def act_template(tokenizer: Any) -> None:
    """Give a tokenizer a chat template in which every turn of the model is the tool call `act(text=<the turn>)`.

    A conversation reads as an episode does for our own policies: observation, action, observation, … The tokenizer is
    changed in place.
    """
    tokenizer.chat_template = (
        "{%- for message in messages -%}"
        "{%- if message.role == 'user' -%}{{ bos_token }}{%- endif -%}{{ message.content }}"
        "{%- for call in message.tool_calls or [] -%}{{ call.function | tojson }}{%- endfor -%}"
        "{%- if message.role == 'assistant' -%}{{ eos_token }}{%- endif -%}"
        "{%- endfor -%}"
    )
    calls = {
        "open_pattern": r"\A",
        "close_pattern": rf"{re.escape(tokenizer.eos_token)}|\Z",
        "repeats": True,
        "transform": {"type": "function", "function": {"name": "act", "arguments": {"text": "{content}"}}},
    }
    tokenizer.response_template = {
        "defaults": {"role": "assistant"}, "fields": {"tool_calls": calls},
        "start_anchor_pattern": r"\Z",  # a turn starts where what was read ends
    }  # fmt: skip


def as_reward_func(reward: Callable[..., Sequence[float]] | Path | str) -> Any:
    """A reward of ours as an entry of `reward_funcs`.

    Args:
        reward: `reward(prompts, completions, **columns)` from texts to numbers; a conversation is the contents of its
            messages, one a line. Or a folder with a sequence classifier of one output, as `RewardTrainer` saves it.

    Raises:
        InteropError: a folder without a scoring head, for TRL would give it a random one; or, while training, a reward
            that is not finite, for TRL would pass over NaN.
    """
    if isinstance(reward, Path | str):
        file = Path(reward) / "config.json"
        names = json.loads(file.read_text(encoding="utf-8")).get("architectures") if file.is_file() else None
        if not any(name.endswith("ForSequenceClassification") for name in names or ()):
            raise InteropError(f"{reward} holds no sequence classifier (found {names}): train one with RewardTrainer")
        return str(reward)
    name = getattr(reward, "__name__", type(reward).__name__)

    def plain(texts: Sequence[Any]) -> list[str]:
        return [text if isinstance(text, str) else "\n".join(said["content"] for said in text) for text in texts]

    def scores(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        texts = plain(completions)
        rewards = [float(value) for value in reward(plain(prompts), texts, **columns)]
        for text, value in zip(texts, rewards):
            if not math.isfinite(value):
                raise InteropError(f"the reward {name} is {value} for {text!r}: it has to be a finite number")
        return rewards

    scores.__name__ = name  # under which TRL logs it
    return scores


def _require_trl() -> None:
    installed = next((found.version for found in metadata.distributions(name="trl")), None)
    if installed is None or installed not in SpecifierSet(SUPPORTED):
        raise InteropError(f"trl {installed or 'is not'} installed, {SUPPORTED} needed: pip install 'trl{SUPPORTED}'")


def _opened(env: str, kwargs: Mapping[str, Any] | None, tokenizer: Any) -> tuple[EnvironmentPool, TextInterface]:
    """The environment, and what connects its text with the tokens of a policy."""
    _require_trl()
    pool = EnvironmentPool(env, kwargs or {})
    return pool, TextInterface(load_tokenizer(tokenizer.name_or_path), *text_spaces(pool.first(1)[0]))


def _dataset(seed: int, num_episodes: int, prompt: Callable[[int], Any]) -> Any:
    from datasets import Dataset

    if num_episodes < 1:
        raise InteropError(f"num_episodes must be >= 1, got {num_episodes}")
    seeds = [EpisodeSeed.derive(seed, TRAINING, number).environment for number in range(num_episodes)]
    return Dataset.from_dict({"prompt": [prompt(number) for number in seeds], "seed": seeds})


@torch.no_grad()
def _snapshot(trainer: Any) -> Transformer:
    """The trainer's model of the moment as ours."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(model, "merge_and_unload"):
        model = copy.deepcopy(model).merge_and_unload()  # merging in place and undoing it would round the weights
    settings = model.config.to_dict()
    config = from_config_json(settings)
    ours = build(config, to_ours(model.state_dict(), config), model.dtype, zero_biases=absent_biases(settings))
    return ours.to(model.device)
