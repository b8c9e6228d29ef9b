"""How a policy's episodes come about: in an environment, or as answers to prompts that a reward function judges.

Both have the surface of `Player`; learning and evaluation know no more of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import torch

from core.policy import LanguageModelPolicy
from core.text.chat import answer_end
from core.text.readers import Record
from core.text.tokenizer import Tokenizer
from rl.collect import collect
from rl.config import PolicyConfig
from rl.environments import EnvironmentPool, known_return
from rl.envs.tabular import optimum_by_start
from rl.episodes import EVALUATION, EpisodeSeed
from rl.interface import ChatInterface, TextInterface, text_spaces
from rl.preferences.encoding import Text, encode_context, readable
from rl.prompts import read_prompts
from rl.rewards import RewardFunction, resolve_reward, score
from rl.rollout import Rollout, Turn


class Player(Protocol):
    """Lets a policy play."""

    tokenizer: Tokenizer
    max_new_tokens: int
    """Most tokens of a turn."""
    longest_episode: int
    """Most tokens of a policy in an episode."""
    stop_id: int | None
    """Token that ends a turn."""
    optimum: float | None
    """Best expected return, where it is known."""
    by_start: Mapping[str, float]
    """Best expected return by an episode's first observation, as far as it is known."""
    chance: float | None
    """Expected return of random play, where it is known."""

    def play(self, policy: LanguageModelPolicy, seeds: Sequence[EpisodeSeed], *, greedy: bool = False) -> Rollout:
        """One episode for each seed."""
        ...


class EnvironmentPlayer:
    """Plays in a Gymnasium environment with text on both sides.

    Args:
        config: the run.
        pool: copies of the environment.
        tokenizer: of the policy.
        vocab_size: rows of the model's output.
    """

    def __init__(self, config: PolicyConfig, pool: EnvironmentPool, tokenizer: Tokenizer, vocab_size: int) -> None:
        self.config = config
        self.pool = pool
        self.tokenizer = tokenizer
        self.env = pool.first(1)[0]
        interface = ChatInterface if config.chat else TextInterface
        self.interface = interface(tokenizer, *text_spaces(self.env), vocab_size=vocab_size)
        self.max_new_tokens = self.interface.max_action_tokens
        self.longest_episode = self.max_new_tokens * config.max_turns
        self.stop_id = self.interface.stop_id
        self.by_start: Mapping[str, float] = optimum_by_start(self.env)
        self.optimum, self.chance = (known_return(self.env, name) for name in ("optimal_return", "random_return"))

    def play(self, policy: LanguageModelPolicy, seeds: Sequence[EpisodeSeed], *, greedy: bool = False) -> Rollout:
        """See `rl.collect.collect`."""
        return collect(
            policy,
            self.interface,
            self.pool,
            seeds,
            max_turns=self.config.max_turns,
            history=self.config.context == "history",
            mask_illegal=self.config.mask_illegal,
            greedy=greedy,
        )


class PromptPlayer:
    """Lets a policy answer prompts; a reward function judges all answers of a step at once.

    Args:
        config: the run.
        tokenizer: of the policy.
        records: training prompts.
        held_out: prompts of evaluations.
        reward: judges answers; with `config.unfinished_penalty` less for those without an end.
    """

    optimum: float | None = None
    by_start: Mapping[str, float] = MappingProxyType({})
    chance: float | None = None

    def __init__(
        self,
        config: PolicyConfig,
        tokenizer: Any,
        records: Sequence[Record],
        held_out: Sequence[Record],
        reward: RewardFunction,
    ) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.reward = reward
        self.max_new_tokens = self.longest_episode = config.max_new_tokens
        self.stop_id: int | None = answer_end(tokenizer) if config.chat else tokenizer.eos_id
        if self.stop_id is None:
            raise ValueError(
                "answers to prompts need a tokenizer with an end-of-sequence token: give another init_from"
            )
        self._prompts = {True: self._encoded(held_out), False: self._encoded(records)}

    @classmethod
    def of(cls, config: PolicyConfig, tokenizer: Tokenizer) -> "PromptPlayer":
        """With the prompts and the reward function that a config names.

        Raises:
            ValueError: no file, no prompt in it, or no such reward function.
        """
        assert config.prompts is not None
        records = read_prompts(config.prompts)
        if config.eval_prompts is not None:
            held_out = read_prompts(config.eval_prompts)
        else:
            # Of few prompts none is held out: there is nothing to generalise from.
            kept = len(records) // 10 if len(records) >= 20 else 0
            records, held_out = (records[: len(records) - kept], records[-kept:]) if kept else (records, records)
        return cls(config, tokenizer, records, held_out, load_reward(config.reward, config.device))

    def play(self, policy: LanguageModelPolicy, seeds: Sequence[EpisodeSeed], *, greedy: bool = False) -> Rollout:
        """Answer the prompts that the seeds name, and have the answers judged."""
        chosen = []
        for seed in seeds:
            prompts = self._prompts[seed.purpose == EVALUATION]
            # In turn during an evaluation, so that all are answered as often.
            chosen.append(prompts[(seed.number if seed.purpose == EVALUATION else seed.environment) % len(prompts)])
        contexts = [context for _, context, _ in chosen]
        samples = policy.sample(contexts, generator=[seed.generator() for seed in seeds], greedy=greedy)
        answers = [
            self.tokenizer.decode(tokens[: len(tokens) - finished])
            for tokens, finished in zip(samples.lists(), samples.finished_B.tolist())
        ]
        texts = [text for text, _, _ in chosen]
        names = {name for _, _, columns in chosen for name in columns}
        columns = {name: [columns.get(name) for _, _, columns in chosen] for name in sorted(names)}
        # A reward model keeps its own precision, whatever that of the policy is.
        with torch.autocast(samples.tokens_BT.device.type, enabled=False):
            rewards = score(self.reward, texts, answers, **columns)
        unfinished = (~samples.finished_B).tolist()
        turns = [
            Turn(text, answer, reward - self.config.unfinished_penalty * cut, True, False, not cut, text)
            for text, answer, reward, cut in zip(map(readable, texts), answers, rewards, unfinished)
        ]
        rollout = Rollout.of_samples(contexts, samples, torch.tensor([turn.reward for turn in turns]))
        return replace(rollout, turns=turns, seeds=list(seeds))

    def _encoded(self, records: Sequence[Record]) -> list[tuple[Any, list[int], dict[str, Any]]]:
        found = []
        for record in records:
            prompt: Text = record.fields["prompt"]
            if self.config.chat and isinstance(prompt, str):
                prompt = [{"role": "user", "content": prompt}]
            columns = {name: value for name, value in record.fields.items() if name != "prompt"}
            found.append((prompt, encode_context(self.tokenizer, prompt), columns))
        return found


def load_reward(reward: str, device: str = "cpu") -> RewardFunction:
    """The reward function that a config names.

    Args:
        reward: `module:function`, a weighted sum of such, or the folder of a reward model: a run, or a Hugging Face
            folder with a sequence classifier of one label.
        device: where a reward model computes; `auto` is CUDA where there is one.

    Raises:
        ValueError: nothing of the kind.
    """
    if Path(reward).is_dir():
        from rl.preferences.reward_model import RewardModel

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return RewardModel.load(reward, device=device).score
    return resolve_reward(reward)
