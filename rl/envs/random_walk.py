"""Find the way through a random graph."""

from functools import cache
from typing import Unpack

import numpy as np

from rl.envs.markov import MarkovTextEnv
from rl.envs.tabular import Outcome, Table, tabulate
from rl.envs.text import Limits

LETTERS = "abcdefghijklmnopqrstuvwxyz"
GOAL = 0


class RandomWalkEnv(MarkovTextEnv):
    """Walk along the edges of a directed graph to the node `a`, as fast as possible. Each turn costs 1.

    The observation is the node, as `k:`; the action is the node to go to, one of those that an edge leads to. Episodes
    start at any node but the goal. The best return is minus the mean length of the shortest paths, none counted longer
    than `horizon`.

    Args:
        nodes: of the graph, 2 to 26.
        edge_probability: of each edge, besides those that make sure that the goal can be reached from everywhere.
        graph_seed: draws the graph, which is the same in all episodes.
        horizon: turns of an episode at most.
        limits: `max_invalid`; `invalid_penalty`, by default 10, so that giving up is dearer than walking on;
            `render_mode`.

    References:
        Chen et al. 2021, "Decision Transformer", arXiv:2106.01345, begin with shortest paths in such a graph.
    """

    def __init__(
        self,
        *,
        nodes: int = 21,
        edge_probability: float = 0.1,
        graph_seed: int = 0,
        horizon: int = 10,
        **limits: Unpack[Limits],
    ) -> None:
        if not 2 <= nodes <= len(LETTERS):
            raise ValueError(f"nodes must be from 2 to {len(LETTERS)}, got {nodes}")
        if not 0 <= edge_probability <= 1:
            raise ValueError(f"edge_probability must be in [0, 1], got {edge_probability}")
        if graph_seed < 0:
            raise ValueError(f"graph_seed must be >= 0, got {graph_seed}")
        if horizon < 1:
            raise ValueError(f"horizon must be >= 1, got {horizon}")
        limits.setdefault("invalid_penalty", 10.0)
        letters = LETTERS[:nodes]
        self.edges = graph(nodes, edge_probability, graph_seed)
        super().__init__(
            _table(self.edges, horizon), observations=letters + ":", actions=letters, truncates=True, **limits
        )

    def render(self) -> str:
        """Where the agent is, and where it can go."""
        ways = self._legal_actions()
        return f"at {self._observe()[0]}, " + (f"with ways to {', '.join(sorted(ways))}" if ways else "the goal")


@cache
def graph(nodes: int, edge_probability: float, seed: int) -> tuple[tuple[int, ...], ...]:
    """For each node, the nodes that an edge leads to, ascending; node 0 can be reached from all others.

    Args:
        nodes: how many.
        edge_probability: of each edge, besides those that make sure of that.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    edges = rng.random((nodes, nodes)) < edge_probability
    connected = [GOAL]
    for node in rng.permutation(np.arange(1, nodes)).tolist():
        edges[node, connected[int(rng.integers(len(connected)))]] = True
        connected.append(node)
    np.fill_diagonal(edges, False)
    return tuple(tuple(np.flatnonzero(row).tolist()) for row in edges)


@cache
def _table(edges: tuple[tuple[int, ...], ...], horizon: int) -> Table:
    def moves(node: int) -> dict[str, list[Outcome]]:
        return {LETTERS[following]: [(1.0, following, -1.0, following == GOAL)] for following in edges[node]}

    starts = {node: 1 / (len(edges) - 1) for node in range(1, len(edges))}
    return tabulate(starts, moves, lambda node: LETTERS[node] + ":", horizon)
