"""Playing episodes: the one place where a policy meets environments.

Shape suffixes: B = episodes that still go on, N = turns, T = tokens of a turn, V = vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from core.conversation import Conversation
from core.generate import decoding
from core.interfaces import Samples
from core.policy import LanguageModelPolicy
from rl.environments import EnvironmentPool, Outcome
from rl.episodes import EpisodeSeed
from rl.interface import LegalTokens, TextInterface
from rl.rollout import Rollout, Turn


@dataclass(slots=True)
class _Answer:
    """What the policy did in one turn."""

    context: list[int]
    tokens: list[int]
    logprobs: list[float]
    finished: bool
    masks: list[int]
    """Number of the token mask that was in force at each token."""


@dataclass(slots=True)
class _Episode:
    """An episode while it is played: where it stands, and one entry a turn of what happened."""

    row: int
    """Number of its copy of the environment."""
    generator: torch.Generator
    observation: str
    info: dict[str, Any]
    context: list[int]
    said: list[int]
    """What the policy has not read yet."""
    answers: list[_Answer] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    done: bool = False


def collect(
    policy: LanguageModelPolicy,
    interface: TextInterface,
    pool: EnvironmentPool,
    seeds: Sequence[EpisodeSeed],
    *,
    max_turns: int,
    history: bool = False,
    mask_illegal: bool = True,
    greedy: bool = False,
) -> Rollout:
    """Play one episode in each environment: one decoding call a turn for all episodes that still go on.

    Args:
        policy: what acts.
        interface: between text and tokens.
        pool: copies of the environment.
        seeds: the episodes to play.
        max_turns: turns after which an episode is truncated.
        history: the policy reads all of the episode so far, each token once; else the last observation.
        mask_illegal: where the environment lists legal actions, nothing else can be drawn.
        greedy: take the most likely token instead of drawing.

    Returns:
        The episodes, on the device of the policy's samples.
    """
    legal_tokens = LegalTokens(interface)
    conversation = Conversation(policy.model) if history else None

    def answers(active: Sequence[_Episode]) -> list[_Answer]:
        return _answers(policy, conversation, legal_tokens, active, mask_illegal, greedy)

    keep = None if conversation is None else conversation.keep
    with decoding(policy.model), policy.remembering():
        episodes = _play(interface, pool, seeds, answers, keep, max_turns=max_turns, history=history)
    return _record(episodes, legal_tokens, list(seeds), next(iter(policy.model.parameters())).device)


def demonstrate(
    act: Callable[[gymnasium.Env[Any, Any], Sequence[str] | None, np.random.Generator], str],
    interface: TextInterface,
    pool: EnvironmentPool,
    seeds: Sequence[EpisodeSeed],
    *,
    max_turns: int,
    history: bool,
    device: torch.device,
) -> Rollout:
    """Episodes that something else plays, as a rollout of a policy that said the same with certainty.

    Args:
        act: the environment, its legal actions (None where it lists none) and a source of randomness → action.
        interface: between text and tokens.
        pool: copies of the environment in this process.
        seeds: the episodes to play.
        max_turns: turns after which an episode is truncated.
        history: contexts are all of the episode so far.
        device: of the rollout.
    """
    envs = pool.first(len(seeds))
    chances = [np.random.default_rng(seed.sampling) for seed in seeds]
    stop = [] if interface.stop_id is None else [interface.stop_id]

    def answers(active: Sequence[_Episode]) -> list[_Answer]:
        found = []
        for episode in active:
            action = act(envs[episode.row], episode.info.get("legal_actions"), chances[episode.row])
            tokens = [*interface.tokenizer.encode(action), *stop]
            count = len(tokens)
            found.append(_Answer(episode.context, tokens, [0.0] * count, bool(stop), [0] * count))
        return found

    episodes = _play(interface, pool, seeds, answers, None, max_turns=max_turns, history=history)
    return _record(episodes, LegalTokens(interface), list(seeds), device)


def _play(
    interface: TextInterface,
    pool: EnvironmentPool,
    seeds: Sequence[EpisodeSeed],
    answers: Callable[[Sequence[_Episode]], list[_Answer]],
    keep: Callable[[Sequence[int]], None] | None,
    *,
    max_turns: int,
    history: bool,
) -> list[_Episode]:
    """The loop itself; `keep` is told which of the active episodes go on."""
    if not seeds:
        raise ValueError("there are no episodes to play: give at least one seed")
    episodes = []
    started = pool.reset({row: seed.environment for row, seed in enumerate(seeds)})
    for row, (seed, (observation, info)) in enumerate(zip(seeds, started)):
        start = interface.start(observation)
        episodes.append(_Episode(row, seed.generator(), observation, info, start, start))
    active = episodes
    while active:
        said = answers(active)
        actions = [interface.action(answer.tokens) for answer in said]
        outcomes = pool.step({episode.row: action for episode, action in zip(active, actions)})
        for episode, answer, action in zip(active, said, actions):
            _write_down(episode, answer, action, outcomes[episode.row], interface, max_turns, history)
        going = [row for row, episode in enumerate(active) if not episode.done]
        if keep is not None and going:
            keep(going)
        active = [active[row] for row in going]
    return episodes


def _answers(
    policy: LanguageModelPolicy,
    conversation: Conversation | None,
    legal_tokens: LegalTokens,
    active: Sequence[_Episode],
    mask_illegal: bool,
    greedy: bool,
) -> list[_Answer]:
    """One decoding call."""
    legal = [episode.info.get("legal_actions") if mask_illegal else None for episode in active]
    masks: list[list[int]] = [[] for _ in active]

    def allowed_BV(rows: list[int], generated: list[list[int]]) -> Tensor:
        numbers = [legal_tokens.number(legal[row], tokens) for row, tokens in zip(rows, generated)]
        for row, number in zip(rows, numbers):
            masks[row].append(number)
        return legal_tokens.masks_KV()[numbers]

    free = all(actions is None for actions in legal)
    options: dict[str, Any] = {
        "token_mask": None if free else allowed_BV,
        "generator": [episode.generator for episode in active],
        "greedy": greedy,
    }
    if conversation is None:
        samples = policy.sample([episode.context for episode in active], **options)
    else:
        samples = policy.answer(conversation, [episode.said for episode in active], **options)
    tokens, logprobs = samples.lists(), samples.logprobs_BT.tolist()
    return [
        _Answer(episode.context, drawn, logprob[: len(drawn)], finished, [0] * len(drawn) if free else numbers)
        for episode, drawn, logprob, finished, numbers in zip(
            active, tokens, logprobs, samples.finished_B.tolist(), masks
        )
    ]


def _write_down(
    episode: _Episode,
    answer: _Answer,
    action: str,
    outcome: Outcome,
    interface: TextInterface,
    max_turns: int,
    history: bool,
) -> None:
    """What came of an action."""
    observation, reward, terminated, truncated, info = outcome
    before, state_key = episode.observation, episode.info.get("state_key", episode.observation)
    late = len(episode.turns) + 1 >= max_turns
    valid = info.get("valid")
    episode.turns.append(
        Turn(
            before,
            action,
            reward,
            terminated,
            not terminated and (truncated or late),
            bool(interface.action_space.contains(action) if valid is None else valid),
            state_key,
        )
    )
    episode.done = terminated or truncated or late
    episode.answers.append(answer)
    episode.observation, episode.info = observation, info
    if history:
        episode.said = interface.reply(observation, finished=answer.finished)
        episode.context = [*answer.context, *answer.tokens, *episode.said]
    else:
        episode.context = interface.start(observation)


def _record(
    episodes: Sequence[_Episode], legal_tokens: LegalTokens, seeds: list[EpisodeSeed], device: torch.device
) -> Rollout:
    answers = [answer for episode in episodes for answer in episode.answers]
    width = max(len(answer.tokens) for answer in answers)
    counts = [len(episode.turns) for episode in episodes]

    def padded(name: str, dtype: torch.dtype) -> Tensor:
        rows = [getattr(answer, name) for answer in answers]
        return torch.tensor([row + [0] * (width - len(row)) for row in rows], dtype=dtype, device=device)

    lengths_N = torch.tensor([len(answer.tokens) for answer in answers], device=device)
    return Rollout(
        contexts=[answer.context for answer in answers],
        samples=Samples(
            padded("tokens", torch.long),
            torch.arange(width, device=device) < lengths_N[:, None],
            padded("logprobs", torch.float32),
            torch.tensor([answer.finished for answer in answers], device=device),
        ),
        mask_number_NT=padded("masks", torch.long),
        masks_KV=legal_tokens.masks_KV().to(device),
        turns=[turn for episode in episodes for turn in episode.turns],
        episode_N=torch.arange(len(episodes), device=device).repeat_interleave(torch.tensor(counts, device=device)),
        turn_N=torch.tensor([number for count in counts for number in range(count)], device=device),
        final_contexts=[episode.context for episode in episodes],
        final_observations=[episode.observation for episode in episodes],
        seeds=seeds,
    )
