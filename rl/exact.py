"""Exact returns and gradients in environments that can be enumerated, and what each algorithm's gradient is on average.

Shape suffixes: S = states, A = actions, R = pairs of a state and an action that is legal there, T = tokens of an
action, M = all possible episodes, J = their policy tokens, E = episodes of a step.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from core.config import ModelConfig
from core.interfaces import Samples
from core.policy import LanguageModelPolicy
from rl.advantages import Credit
from rl.algorithms import Algorithm, build_algorithm
from rl.config import AlgorithmName, PolicyConfig
from rl.envs.tabular import Table, policy_return, table_of
from rl.interface import LegalTokens, TextInterface
from rl.losses import token_weights
from rl.networks import build_policy
from rl.players import EnvironmentPlayer

ROWS_AT_ONCE = 4096
"""Actions scored in one forward pass."""
MOST_EPISODES = 4096
"""Different episodes that are enumerated."""
MOST_GROUPS = 200_000
"""Different groups of episodes that an average is taken over."""
_GROUPS_AT_ONCE = 8192


class ExactScores(NamedTuple):
    """Expected undiscounted returns of an episode."""

    sampled: float
    greedy: float


class TabularPolicy:
    """A language-model policy that reads the last observation, in an environment that can be enumerated.

    Args:
        policy: what acts.
        interface: between text and tokens.
        table: the environment; in each of its states only legal actions can be drawn.
    """

    def __init__(self, policy: LanguageModelPolicy, interface: TextInterface, table: Table) -> None:
        self.policy = policy
        self.table = table
        legal_tokens = LegalTokens(interface)
        stop = [] if interface.stop_id is None else [interface.stop_id]
        spelled = {action: [*interface.tokenizer.encode(action), *stop] for action in table.actions}
        pairs = [(s, a) for s, legal in enumerate(table.legal_SA) for a in np.flatnonzero(legal).tolist()]
        self.state_R = torch.tensor([s for s, _ in pairs])
        self.action_R = torch.tensor([a for _, a in pairs])
        self._contexts = [interface.start(table.observations[s]) for s, _ in pairs]
        tokens = [spelled[table.actions[a]] for _, a in pairs]
        masks = [
            [legal_tokens.number(table.legal[s], row[:t]) for t in range(len(row))]
            for (s, _), row in zip(pairs, tokens)
        ]
        device = next(iter(policy.model.parameters())).device
        self.lengths_R = torch.tensor([len(row) for row in tokens])
        width = int(self.lengths_R.max())

        def padded(rows: list[list[int]]) -> Tensor:
            return torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)

        self._tokens_RT, self._masks_RT = padded(tokens), padded(masks)
        self._masks_KV = legal_tokens.masks_KV().to(device)

    def logprobs(self) -> Tensor:
        """logprob_RT of the tokens of every legal action in every state, with gradient; 0 after its end."""
        mask_RT = torch.arange(self._tokens_RT.shape[1]) < self.lengths_R[:, None]
        mask_RT = mask_RT.to(self._tokens_RT.device)
        pieces = []
        for start in range(0, len(self._tokens_RT), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            tokens_RT, mask = self._tokens_RT[part], mask_RT[part]
            samples = Samples(tokens_RT, mask, torch.zeros(tokens_RT.shape, device=mask.device), mask[:, 0])
            allowed_RTV = self._masks_KV[self._masks_RT[part]]
            pieces.append(self.policy.logprobs(self._contexts[part], samples, allowed_BTV=allowed_RTV))
        return torch.cat(pieces)

    def probabilities(self, logprob_RT: Tensor) -> Tensor:
        """probability_SA in float64; 0 where an action is illegal."""
        probability_SA = torch.zeros(self.table.legal_SA.shape, dtype=torch.float64)
        chance_R = logprob_RT.sum(1).double().exp().cpu()
        return probability_SA.index_put((self.state_R, self.action_R), chance_R)

    @torch.no_grad()
    def scores(self) -> ExactScores:
        """Exact expected returns of sampled and of greedy play."""
        probability_SA = self.probabilities(self.logprobs()).numpy()
        total_S1 = probability_SA.sum(1, keepdims=True)
        probability_SA = probability_SA / np.where(total_S1 > 0, total_S1, 1.0)
        # Greedy decoding takes the likeliest token each time; with one token an action it takes the likeliest action.
        greedy_SA = np.eye(len(self.table.actions))[np.where(self.table.legal_SA, probability_SA, -1.0).argmax(1)]
        return ExactScores(policy_return(self.table, probability_SA), policy_return(self.table, greedy_SA))

    def gradient(self) -> Tensor:
        """Gradient of the exact expected return, all of the model's parameters in a row, in float64.

        References:
            Bellman 1957, "Dynamic Programming": the value is differentiated through backward induction.
        """
        probability_SA = self.probabilities(self.logprobs())
        table, shape = self.table, self.table.legal_SA.shape
        place_M = torch.from_numpy(table.state_M * shape[1] + table.action_M)
        chance_M, reward_M = torch.from_numpy(table.probability_M), torch.from_numpy(table.reward_M)
        going_M, next_M = torch.from_numpy(~table.terminated_M).double(), torch.from_numpy(table.next_M)
        value_S = torch.zeros(shape[0], dtype=torch.float64)
        for _ in range(table.horizon):
            worth_M = chance_M * (reward_M + going_M * value_S[next_M])
            value_SA = torch.zeros(shape[0] * shape[1], dtype=torch.float64).index_add(0, place_M, worth_M)
            value_S = (probability_SA * value_SA.view(shape)).sum(1)
        return self._flat(torch.from_numpy(table.start_S) @ value_S)

    def expected_update(self, algorithm: Algorithm, *, length: int) -> Tensor:
        """Minus the expected gradient of an algorithm's loss at its first update, over all groups of episodes.

        Args:
            algorithm: its advantages and its way to average; a critic expects 0, as at the start of a run. At the first
                update all probability ratios are 1, where every loss has the gradient of -A log p.
            length: divisor of the average `constant`.

        Raises:
            ValueError: there are too many episodes or groups to enumerate.
        """
        size = max(2, algorithm.group_size)
        logprob_RT = self.logprobs()
        chance_R = logprob_RT.detach().sum(1).double().exp().cpu().tolist()
        episodes = list(itertools.islice(self._episodes(chance_R), MOST_EPISODES + 1))
        if len(episodes) > MOST_EPISODES:
            raise ValueError(
                f"more than {MOST_EPISODES:,} episodes can happen: shorten the horizon, or choose a smaller environment"
            )
        starts: dict[int, list[_Episode]] = {}
        for episode in episodes:
            starts.setdefault(episode.start, []).append(episode)
        count = sum(len(rows) ** size for rows in starts.values())
        if count > MOST_GROUPS:
            raise ValueError(
                f"{count:,} groups of {size} episodes are too many to enumerate (at most {MOST_GROUPS:,}): lower "
                "group_size, or choose a smaller environment"
            )
        place = {id(episode): m for m, episode in enumerate(episodes)}
        record = _Record(episodes, self.lengths_R)
        weight_MJ = torch.zeros(record.mask_MJ.shape, dtype=torch.float64)
        for rows in starts.values():
            groups = itertools.product(rows, repeat=size)
            while chunk := list(itertools.islice(groups, _GROUPS_AT_ONCE)):
                member_E = torch.tensor([place[id(episode)] for group in chunk for episode in group])
                chance_G = record.chance_M[member_E].view(-1, size).prod(1) / record.start_chance_M[
                    member_E[::size]
                ] ** (size - 1)
                weight_MJ.index_add_(0, member_E, record.weights(algorithm, member_E, chance_G, size, length))
        flat_RT = torch.zeros(logprob_RT.shape, dtype=torch.float64)
        flat_RT.index_put_(record.place_MJ, weight_MJ[record.mask_MJ], accumulate=True)
        return self._flat((flat_RT.to(logprob_RT.device) * logprob_RT.double()).sum())

    def _episodes(self, chance_R: list[float]) -> Iterator["_Episode"]:
        """All episodes that can happen, depth first."""
        table = self.table
        rows = {(s, a): r for r, (s, a) in enumerate(zip(self.state_R.tolist(), self.action_R.tolist()))}
        number = {action: a for a, action in enumerate(table.actions)}
        starts = np.flatnonzero(table.start_S).tolist()
        stack = [(_Episode(s, float(table.start_S[s]), float(table.start_S[s]), (), ()), s, False) for s in starts]
        while stack:
            episode, state, over = stack.pop()
            if over or len(episode.taken) >= table.horizon:
                yield episode
                continue
            for action, outcomes in table.moves[state].items():
                r, before = rows[state, number[action]], 0.0
                for upto, following, reward, terminated in outcomes:
                    chance = episode.chance * chance_R[r] * (upto - before)
                    longer = replace(
                        episode, chance=chance, taken=(*episode.taken, r), rewards=(*episode.rewards, reward)
                    )
                    stack.append((longer, following, terminated))
                    before = upto

    def _flat(self, value: Tensor) -> Tensor:
        parameters = [p for p in self.policy.model.parameters() if p.requires_grad]
        found = torch.autograd.grad(value, parameters, allow_unused=True)
        return torch.cat(
            [(torch.zeros_like(p) if g is None else g).flatten().double().cpu() for g, p in zip(found, parameters)]
        )


@dataclass(frozen=True, slots=True)
class _Episode:
    start: int
    start_chance: float
    chance: float
    """Probability of the whole episode, its start included."""
    taken: tuple[int, ...]
    """Row R of each turn's state and action."""
    rewards: tuple[float, ...]


class _Record:
    """All episodes as tensors."""

    def __init__(self, episodes: Sequence[_Episode], lengths_R: Tensor) -> None:
        lengths = lengths_R.tolist()
        counts = [sum(lengths[r] for r in episode.taken) for episode in episodes]
        shape = len(episodes), max(counts)
        self.chance_M = torch.tensor([episode.chance for episode in episodes], dtype=torch.float64)
        self.start_chance_M = torch.tensor([episode.start_chance for episode in episodes], dtype=torch.float64)
        self.mask_MJ = torch.arange(shape[1]) < torch.tensor(counts)[:, None]
        self.reward_MJ, self.ends_MJ = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.bool)
        self.turn_length_MJ, self.state_MJ = (
            torch.ones(shape, dtype=torch.float64),
            torch.zeros(shape, dtype=torch.long),
        )
        rows: list[int] = []
        places: list[int] = []
        for m, episode in enumerate(episodes):
            j = 0
            for r, reward in zip(episode.taken, episode.rewards):
                rows += [r] * lengths[r]
                places += range(lengths[r])
                self.turn_length_MJ[m, j : j + lengths[r]] = lengths[r]
                self.state_MJ[m, j : j + lengths[r]] = r
                j += lengths[r]
                self.reward_MJ[m, j - 1], self.ends_MJ[m, j - 1] = reward, True
        self.place_MJ = torch.tensor(rows), torch.tensor(places)
        """Row and token, among all actions in all states, of each policy token."""

    def weights(self, algorithm: Algorithm, member_E: Tensor, chance_G: Tensor, size: int, length: int) -> Tensor:
        """What multiplies each log-probability of the members of some groups, times the probability of their group."""
        mask_EJ, reward_EJ = self.mask_MJ[member_E], self.reward_MJ[member_E]
        group_E = torch.arange(len(chance_G)).repeat_interleave(size)
        zeros_E = torch.zeros(len(member_E), dtype=torch.float64)
        credit = Credit(
            reward_EJ=reward_EJ,
            mask_EJ=mask_EJ,
            ends_turn_EJ=self.ends_MJ[member_E],
            value_EJ=torch.zeros_like(reward_EJ),
            bootstrap_E=zeros_E,
            group_E=group_E,
            state_EJ=self.state_MJ[member_E],
        )
        advantage_EJ = algorithm.advantages(credit).advantage_EJ
        if algorithm.aggregate == "sequence":
            weight_EJ = torch.where(mask_EJ, 1 / self.turn_length_MJ[member_E], 0.0)
            count_EJ = weight_EJ
        else:
            episode_E = torch.arange(len(member_E))
            weight_EJ, count_EJ = (
                x.double() for x in token_weights(mask_EJ, episode_E, algorithm.aggregate, length=length)
            )
        total_G = torch.zeros(len(chance_G), dtype=torch.float64).index_add_(0, group_E, count_EJ.sum(1))
        return advantage_EJ * weight_EJ * (chance_G / total_G)[group_E][:, None]


def agreements(
    env: str,
    env_kwargs: Mapping[str, Any],
    algorithms: Sequence[AlgorithmName],
    *,
    group_size: int,
    aggregate: Literal["auto", "token", "sequence", "episode", "constant"],
    credit: Literal["turn", "episode"],
    seed: int,
) -> dict[str, "Agreement"]:
    """How the expected first update of each algorithm stands to the exact gradient, for a small random policy.

    Everything is computed in float64.

    Args:
        env: Gymnasium id.
        env_kwargs: arguments of the environment.
        algorithms: their names; not ReMax, whose baseline is greedy play.
        group_size: episodes that are compared.
        aggregate, credit: see `PolicyConfig`.
        seed: of the policy's weights.

    Raises:
        ValueError: the environment cannot be enumerated, or has too many episodes.
    """
    config = PolicyConfig(
        env=env, env_kwargs=dict(env_kwargs), network="mlp", model=ModelConfig(width=8, num_layers=1), gamma=1.0,
        aggregate=aggregate, credit=credit, group_size=group_size, max_turns=10**6,
    )  # fmt: skip
    torch.manual_seed(seed)
    model, _, player = build_policy(config, critic=False)
    assert isinstance(player, EnvironmentPlayer)
    table = table_of(player.env)
    if table is None:
        raise ValueError(
            f"{env} cannot be enumerated: choose one of ours with few states, such as trillium/GuessNumber-v0"
        )
    model = model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    policy = LanguageModelPolicy(model, max_new_tokens=player.max_new_tokens, eos_id=player.stop_id)
    tabular = TabularPolicy(policy, player.interface, table)
    gradient = tabular.gradient()
    return {
        name: compare(tabular.expected_update(build_algorithm(replace(config, algorithm=name)), length=1), gradient)
        for name in algorithms
    }


class Agreement(NamedTuple):
    """How an expected update stands to the exact gradient."""

    cosine: float
    ratio: float
    """Length of the update's projection on the gradient, over the gradient's length."""
    least: float
    """Smallest ratio of a coordinate, among those where the gradient is at least a thousandth of its largest one."""
    most: float


def compare(update: Tensor, gradient: Tensor) -> Agreement:
    """The agreement of two flat vectors."""
    large = gradient.abs() > 1e-3 * gradient.abs().max()
    ratios = update[large] / gradient[large]
    cosine = torch.nn.functional.cosine_similarity(update, gradient, dim=0)
    projection = (update @ gradient) / (gradient @ gradient)
    return Agreement(float(cosine), float(projection), float(ratios.min()), float(ratios.max()))
