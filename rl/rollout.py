"""The record of played episodes: all that an algorithm needs to learn from them.

Shape suffixes: N = turns of all episodes, T = tokens of a turn, V = vocabulary, E = episodes, J = policy tokens of an
episode, M = policy tokens of all episodes, K = different token masks.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from core.interfaces import Samples
from rl.episodes import EpisodeSeed


def select(samples: Samples, rows: Tensor | slice) -> Samples:
    """Some rows of samples."""
    return Samples(samples.tokens_BT[rows], samples.mask_BT[rows], samples.logprobs_BT[rows], samples.finished_B[rows])


class Turn(NamedTuple):
    """What the environment's side of one turn was."""

    observation: str
    """Text that the policy read."""
    action: str
    """Text that the environment was given."""
    reward: float
    """Reward for the action."""
    terminated: bool
    """The environment ended the episode here: nothing follows, whatever a critic says."""
    truncated: bool
    """A limit cut the episode here: what would have followed is worth what a critic says."""
    valid: bool
    """The environment took the action."""
    state_key: Hashable
    """The state in which the action was taken; equal keys mean equal situations."""


@dataclass(frozen=True)
class Rollout:
    """Whole episodes as a list of turns: those of episode 0 in their order, then those of episode 1, and so on.

    At each turn the policy read a context and sampled tokens, and only these carry loss. An algorithm needs nothing
    else: what differs between algorithms is how rewards become advantages.
    """

    contexts: Any
    """Per turn, what the policy read: token ids; of other policies than language models, an object with `select`."""
    samples: Samples
    """Per turn, what it sampled: tokens_NT, mask_NT (end-of-sequence included), behaviour logprobs_NT."""
    mask_number_NT: Tensor
    """int64 row of `masks_KV` that was in force at each token."""
    masks_KV: Tensor
    """bool, True = the token could be drawn; row 0 allows everything."""
    turns: list[Turn]
    """Per turn, the environment's side."""
    episode_N: Tensor
    """int64 index of the turn's episode, ascending."""
    turn_N: Tensor
    """int64 number of the turn in its episode, from 0."""
    final_contexts: list[list[int]]
    """Per episode, the context that a next turn would have had."""
    final_observations: list[str]
    """Per episode, the last text of the environment."""
    seeds: list[EpisodeSeed]
    """Per episode, what fixed its randomness."""

    @property
    def num_episodes(self) -> int:
        """E."""
        return len(self.seeds)

    @property
    def mask_NT(self) -> Tensor:
        """bool, True = a token that the policy sampled."""
        return self.samples.mask_BT

    @cached_property
    def group_E(self) -> Tensor:
        """int64 number of each episode's start, from 0."""
        numbers: dict[tuple[int, int], int] = {}
        groups = [numbers.setdefault((seed.purpose, seed.group), len(numbers)) for seed in self.seeds]
        return torch.tensor(groups, device=self.episode_N.device)

    @cached_property
    def state_N(self) -> Tensor:
        """int64 number of the state in which each turn was taken, from 0; equal keys have equal numbers."""
        numbers: dict[Hashable, int] = {}
        states = [numbers.setdefault(turn.state_key, len(numbers)) for turn in self.turns]
        return torch.tensor(states, device=self.episode_N.device)

    def of_episodes(self, episodes: Sequence[int]) -> "Rollout":
        """Some episodes, in the given order, as a rollout."""
        last_E = torch.bincount(self.episode_N, minlength=self.num_episodes).cumsum(0).tolist()
        spans = [range(last_E[e - 1] if e else 0, last_E[e]) for e in episodes]
        turns = [n for span in spans for n in span]
        rows = torch.tensor(turns, device=self.episode_N.device)
        counts_E = torch.tensor([len(span) for span in spans], device=self.episode_N.device)
        return Rollout(
            contexts=[self.contexts[n] for n in turns],
            samples=select(self.samples, rows),
            mask_number_NT=self.mask_number_NT[rows],
            masks_KV=self.masks_KV,
            turns=[self.turns[n] for n in turns],
            episode_N=torch.arange(len(episodes), device=self.episode_N.device).repeat_interleave(counts_E),
            turn_N=self.turn_N[rows],
            final_contexts=[self.final_contexts[e] for e in episodes],
            final_observations=[self.final_observations[e] for e in episodes],
            seeds=[self.seeds[e] for e in episodes],
        )

    def per_turn(self, name: str, dtype: torch.dtype) -> Tensor:
        """A numeric field of the turns as a tensor over N."""
        return torch.tensor([getattr(turn, name) for turn in self.turns], dtype=dtype, device=self.episode_N.device)

    @property
    def starts(self) -> list[str]:
        """The first observation of each episode."""
        return [turn.observation for turn, number in zip(self.turns, self.turn_N.tolist()) if number == 0]

    @cached_property
    def reward_N(self) -> Tensor:
        """float32 reward of each turn."""
        return self.per_turn("reward", torch.float32)

    @cached_property
    def returns_E(self) -> Tensor:
        """float32 undiscounted return of each episode."""
        zero_E = torch.zeros(self.num_episodes, device=self.episode_N.device)
        return zero_E.index_add(0, self.episode_N, self.reward_N)

    def discounted_E(self, gamma: float) -> Tensor:
        """float32 return of each episode, every turn counting gamma times the one before."""
        zero_E = torch.zeros(self.num_episodes, device=self.episode_N.device)
        return zero_E.index_add(0, self.episode_N, self.reward_N * gamma**self.turn_N)

    @cached_property
    def truncated_E(self) -> Tensor:
        """bool, True where a limit cut the episode."""
        last_E = torch.bincount(self.episode_N).cumsum(0) - 1
        return self.per_turn("truncated", torch.bool)[last_E]

    def contexts_of(self, turns: Tensor) -> Any:
        """What the policy read at some turns."""
        numbers = turns.tolist()
        if isinstance(self.contexts, list):
            return [self.contexts[n] for n in numbers]
        return self.contexts.select(numbers)

    def allowed_NTV(self, turns: Tensor | slice = slice(None)) -> Tensor | None:
        """The token masks in force, of all turns or some; None when nothing was ever forbidden."""
        return None if len(self.masks_KV) == 1 else self.masks_KV[self.mask_number_NT[turns]]

    @cached_property
    def reward_NT(self) -> Tensor:
        """float32 rewards on the last policy token of their turns, 0 elsewhere."""
        return torch.where(self.ends_turn_NT, self.reward_N[:, None], 0.0)

    @cached_property
    def ends_turn_NT(self) -> Tensor:
        """bool, True at the last policy token of each turn."""
        following_NT = torch.zeros_like(self.mask_NT)
        following_NT[:, :-1] = self.mask_NT[:, 1:]
        return self.mask_NT & ~following_NT

    # The same tokens turn by turn (NT) and episode by episode (EJ).

    @cached_property
    def _flat_M(self) -> Tensor:
        """Index of each policy token among the NT places."""
        return self.mask_NT.flatten().nonzero().squeeze(-1)

    @cached_property
    def _place_M(self) -> tuple[Tensor, Tensor]:
        """(episode, position in the episode) of each policy token."""
        episode_M = self.episode_N[self._flat_M // self.mask_NT.shape[1]]
        counts_E = torch.bincount(episode_M, minlength=self.num_episodes)
        first_E = counts_E.cumsum(0) - counts_E
        return episode_M, torch.arange(len(episode_M), device=episode_M.device) - first_E[episode_M]

    @cached_property
    def mask_EJ(self) -> Tensor:
        """bool, True = a policy token of the episode; an episode's tokens stand in a row from 0."""
        shape = self.num_episodes, int(self._place_M[1].max()) + 1
        mask_EJ = torch.zeros(shape, dtype=torch.bool, device=self.episode_N.device)
        mask_EJ[self._place_M] = True
        return mask_EJ

    def by_episode(self, values_NT: Tensor) -> Tensor:
        """values_EJ of the policy tokens, 0 after the last one of an episode."""
        values_EJ = values_NT.new_zeros(self.mask_EJ.shape)
        values_EJ[self._place_M] = values_NT.flatten()[self._flat_M]
        return values_EJ

    def by_turn(self, values_EJ: Tensor) -> Tensor:
        """Undo `by_episode`: values_NT, 0 where nothing was sampled."""
        values_NT = values_EJ.new_zeros(self.mask_NT.shape)
        values_NT.view(-1)[self._flat_M] = values_EJ[self._place_M]
        return values_NT

    @classmethod
    def of_samples(
        cls, contexts: Any, samples: Samples, reward_B: Tensor, *, group_size: int = 1, number: int = 0
    ) -> "Rollout":
        """Episodes of one turn, without an environment: samples of any policy and what they are worth.

        Args:
            contexts: what the policy read; equal ones of a group in a row.
            samples: what it gave.
            reward_B: what that is worth.
            group_size: samples of each context.
            number: counts the samples before these in a run.
        """
        count, device = len(samples), samples.tokens_BT.device
        return cls(
            contexts=contexts,
            samples=samples,
            mask_number_NT=torch.zeros_like(samples.tokens_BT),
            masks_KV=torch.ones(1, 1, dtype=torch.bool, device=device),
            turns=[Turn("", "", float(reward), True, False, True, None) for reward in reward_B.tolist()],
            episode_N=torch.arange(count, device=device),
            turn_N=torch.zeros(count, dtype=torch.long, device=device),
            final_contexts=[[] for _ in range(count)],
            final_observations=[""] * count,
            seeds=[EpisodeSeed(number + b, (number + b) // group_size, 0, 0) for b in range(count)],
        )

    @classmethod
    def joined(cls, rollouts: "Sequence[Rollout]") -> "Rollout":
        """The episodes of several rollouts behind one another."""
        width = max(rollout.mask_NT.shape[1] for rollout in rollouts)

        def wide(parts: Sequence[Tensor]) -> Tensor:
            return torch.cat([functional.pad(part, (0, width - part.shape[1])) for part in parts])

        # Mask 0 allows everything, of whichever rollout.
        numbers, masks, episodes, before = [], [rollouts[0].masks_KV], [], 0
        shift = 0
        for rollout in rollouts:
            number_NT = rollout.mask_number_NT
            numbers.append(torch.where(number_NT > 0, number_NT + shift, 0))
            if rollout is not rollouts[0]:
                masks.append(rollout.masks_KV[1:])
            shift += len(rollout.masks_KV) - 1
            episodes.append(rollout.episode_N + before)
            before += rollout.num_episodes
        samples = [rollout.samples for rollout in rollouts]
        return cls(
            contexts=[context for rollout in rollouts for context in rollout.contexts],
            samples=Samples(
                wide([part.tokens_BT for part in samples]),
                wide([part.mask_BT for part in samples]),
                wide([part.logprobs_BT for part in samples]),
                torch.cat([part.finished_B for part in samples]),
            ),
            mask_number_NT=wide(numbers),
            masks_KV=torch.cat(masks),
            turns=[turn for rollout in rollouts for turn in rollout.turns],
            episode_N=torch.cat(episodes),
            turn_N=torch.cat([rollout.turn_N for rollout in rollouts]),
            final_contexts=[context for rollout in rollouts for context in rollout.final_contexts],
            final_observations=[text for rollout in rollouts for text in rollout.final_observations],
            seeds=[seed for rollout in rollouts for seed in rollout.seeds],
        )

    def transcript(self, episode: int) -> list[dict[str, str]]:
        """What was said in an episode: entries with `role` and `text`."""
        said = []
        for n in (self.episode_N == episode).nonzero().squeeze(-1).tolist():
            turn = self.turns[n]
            said.append({"role": "environment", "text": turn.observation})
            said.append({"role": "agent", "text": turn.action + ("" if turn.valid else " (invalid)")})
        last = self.final_observations[episode]
        if last and last != said[-2]["text"]:
            said.append({"role": "environment", "text": last})
        return said
