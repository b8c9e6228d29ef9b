"""Playing episodes: the one place where a policy meets environments.

Shape suffixes: B = episodes that still go on, V = vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import torch
from torch import Tensor

from core.interfaces import Samples
from core.policy import LanguageModelPolicy
from rl.episodes import EpisodeSeed
from rl.interface import LegalTokens, TextInterface
from rl.rollout import Rollout, Turn, select


@dataclass
class _Episode:
    """An episode while it is played: where it stands, and one entry a turn of what happened."""

    env: gymnasium.Env[Any, Any]
    generator: torch.Generator
    observation: str
    info: dict[str, Any]
    context: list[int]
    contexts: list[list[int]] = field(default_factory=list)
    samples: list[Samples] = field(default_factory=list)
    mask_numbers: list[list[int]] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)


def collect(
    policy: LanguageModelPolicy,
    interface: TextInterface,
    envs: Sequence[gymnasium.Env[Any, Any]],
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
        envs: at least as many as seeds.
        seeds: the episodes to play.
        max_turns: turns after which an episode is truncated.
        history: the policy reads all of the episode so far, else the last observation.
        mask_illegal: where the environment lists legal actions, nothing else can be drawn.
        greedy: take the most likely token instead of drawing.

    Returns:
        The episodes, on the device of the policy's samples.
    """
    if not seeds or len(envs) < len(seeds):
        raise ValueError(f"give at least one episode and an environment for each, got {len(seeds)} and {len(envs)}")
    episodes = []
    for env, seed in zip(envs, seeds):
        observation, info = env.reset(seed=seed.environment)
        episodes.append(_Episode(env, seed.generator(), observation, info, interface.start(observation)))
    legal_tokens = LegalTokens(interface)
    active = episodes
    while active:
        legal = [episode.info.get("legal_actions") if mask_illegal else None for episode in active]
        samples = _sample(policy, legal_tokens, active, legal, greedy)
        for row, episode in enumerate(active):
            _step(
                episode, interface, select(samples, slice(row, row + 1)), legal_tokens, legal[row], max_turns, history
            )
        active = [episode for episode in active if not (episode.turns[-1].terminated or episode.turns[-1].truncated)]
    return _record(episodes, legal_tokens, list(seeds))


def _sample(
    policy: LanguageModelPolicy,
    legal_tokens: LegalTokens,
    active: Sequence[_Episode],
    legal: Sequence[Sequence[str] | None],
    greedy: bool,
) -> Samples:
    def allowed_BV(rows: list[int], generated: list[list[int]]) -> Tensor:
        numbers = [legal_tokens.number(legal[row], tokens) for row, tokens in zip(rows, generated)]
        return legal_tokens.masks_KV()[numbers]

    return policy.sample(
        [episode.context for episode in active],
        token_mask=None if all(actions is None for actions in legal) else allowed_BV,
        generator=[episode.generator for episode in active],
        greedy=greedy,
    )


def _step(
    episode: _Episode,
    interface: TextInterface,
    sample: Samples,
    legal_tokens: LegalTokens,
    legal: Sequence[str] | None,
    max_turns: int,
    history: bool,
) -> None:
    """Give the environment the sampled action and write down what came of it."""
    (tokens,) = sample.lists()
    action = interface.action(tokens)
    state_key = episode.info.get("state_key", episode.observation)
    observation, reward, terminated, truncated, info = episode.env.step(action)
    late = len(episode.turns) + 1 >= max_turns
    turn = Turn(
        observation=episode.observation,
        action=action,
        reward=float(reward),
        terminated=bool(terminated),
        truncated=not terminated and bool(truncated or late),
        valid=bool(info.get("valid", interface.action_space.contains(action))),
        state_key=state_key,
    )
    numbers = [legal_tokens.number(legal, tokens[:t]) for t in range(len(tokens))]
    episode.turns.append(turn)
    episode.contexts.append(episode.context)
    episode.samples.append(sample)
    episode.mask_numbers.append(numbers + [0] * (sample.tokens_BT.shape[1] - len(numbers)))
    episode.observation, episode.info = observation, info
    episode.context = (
        interface.extend(episode.context, tokens, observation) if history else interface.start(observation)
    )


def _record(episodes: Sequence[_Episode], legal_tokens: LegalTokens, seeds: list[EpisodeSeed]) -> Rollout:
    rows = [sample for episode in episodes for sample in episode.samples]
    device = rows[0].tokens_BT.device
    counts_E = torch.tensor([len(episode.turns) for episode in episodes], device=device)
    return Rollout(
        contexts=[context for episode in episodes for context in episode.contexts],
        samples=Samples(
            torch.cat([row.tokens_BT for row in rows]),
            torch.cat([row.mask_BT for row in rows]),
            torch.cat([row.logprobs_BT for row in rows]),
            torch.cat([row.finished_B for row in rows]),
        ),
        mask_number_NT=torch.tensor([numbers for e in episodes for numbers in e.mask_numbers], device=device),
        masks_KV=legal_tokens.masks_KV().to(device),
        turns=[turn for episode in episodes for turn in episode.turns],
        episode_N=torch.arange(len(episodes), device=device).repeat_interleave(counts_E),
        turn_N=torch.cat([torch.arange(int(count), device=device) for count in counts_E]),
        final_contexts=[episode.context for episode in episodes],
        final_observations=[episode.observation for episode in episodes],
        seeds=seeds,
    )
