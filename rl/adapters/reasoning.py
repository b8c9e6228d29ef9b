"""Puzzles of reasoning-gym: one question, one answer, its score.

References:
    Stojanovski et al. 2025, "Reasoning Gym: Reasoning Environments for Reinforcement Learning with Verifiable Rewards",
    arXiv:2505.24760.
"""

from collections.abc import Hashable
from typing import Any

from gymnasium.spaces import Text

from rl.adapters.limits import PRINTABLE, AdaptedEnv, CutFrom, choices
from rl.adapters.packages import optional
from rl.adapters.randomness import PrivateRandomness

REFUSED = {
    "game_of_life_halting": "it takes any answer that is not `True` for a right `False`",
    "composite": "it is a mixture: make an environment for each of its parts",
}
"""Datasets that no policy can learn from, and why."""


class ReasoningGymEnv(AdaptedEnv):
    """A question of a dataset; the answer ends the episode. Reward: the dataset's score of it, from 0 to 1.

    About twenty datasets give 0.01 to 0.05 for any answer, and many a part of the score for a long answer in which the
    right one occurs: `exact` rewards the full score only. Where the scorer fails on an answer, it gets 0 and
    `info["unscored"]` is True. Questions follow from their number, so the datasets of `seed` and `seed` + 1 share all
    but one: keep seeds of different data at least `size` apart.

    Args:
        dataset: its name, such as `chain_sum`, `spell_backward` or `count_bits`.
        size: different questions, drawn uniformly.
        seed: of the questions.
        exact: reward 1 for a full score and 0 for less.
        answers: those that can be given, with `|` between them, such as `True|False`; by default any text.
        max_answer: characters of an answer at most.
        max_observation: characters of a question at most.
        cut_from: side on which longer questions are cut: `left`, `right`, or `nowhere` to make them an error.
        characters: characters beyond printable ASCII and the line break that questions and answers have.
        max_invalid: attempts at an answer.
        invalid_penalty: cost of a text that cannot be an answer: empty, too long, or with other characters.
        render_mode: `ansi` or None.
        **settings: the dataset's own options, such as `min_terms`.

    Raises:
        MissingPackage: reasoning-gym is not installed.
        ValueError: an unknown or refused dataset, or wrong settings.
    """

    def __init__(
        self,
        *,
        dataset: str = "chain_sum",
        size: int = 1_000_000,
        seed: int = 0,
        exact: bool = False,
        answers: str = "",
        max_answer: int = 32,
        max_observation: int = 1000,
        cut_from: CutFrom = "nowhere",
        characters: str = "",
        max_invalid: int = 1,
        invalid_penalty: float = 0.1,
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        self._answers = tuple(answers.split("|")) if answers else None
        anything = Text(max_answer, charset=frozenset(PRINTABLE + characters))
        super().__init__(
            action_space=choices(self._answers) if self._answers else anything,
            max_observation=max_observation,
            cut_from=cut_from,
            characters=characters,
            horizon=None,
            max_invalid=max_invalid,
            invalid_penalty=invalid_penalty,
            render_mode=render_mode,
        )
        if size < 1:
            raise ValueError(f"size must be >= 1, got {size}")
        if dataset in REFUSED:
            raise ValueError(f"reasoning-gym's {dataset} is refused, because {REFUSED[dataset]}")
        self._randomness = PrivateRandomness(seed)
        self.dataset = dataset
        self.exact = exact
        self._size = size
        self._data = self._make(size=size, seed=seed, **settings)
        self._number = 0
        self._unscored = False
        self._item = self._load()
        if self._item["answer"] is not None:
            self.optimal_return = 1.0

    def _make(self, **settings: Any) -> Any:
        with optional("reasoning-gym"):
            import reasoning_gym
        names = sorted(reasoning_gym.factory.DATASETS)
        if self.dataset not in names:
            raise ValueError(f"dataset must be one of reasoning-gym's, got {self.dataset!r}: {', '.join(names)}")
        with self._randomness:
            try:
                return reasoning_gym.create_dataset(self.dataset, **settings)
            except (AssertionError, TypeError) as error:
                raise ValueError(f"reasoning-gym's {self.dataset} does not take {settings}: {error}") from error

    def _load(self) -> dict[str, Any]:
        self._randomness.seed(self._number)  # a question may follow from its number alone
        with self._randomness:
            item: dict[str, Any] = self._data[self._number]
        return item

    def _start(self) -> None:
        self._number = int(self.np_random.integers(self._size))
        self._unscored = False
        self._item = self._load()

    def _read(self) -> str:
        return str(self._item["question"]).strip() + "\n"

    def _act(self, action: str) -> tuple[float, bool]:
        try:
            with self._randomness:
                score = float(self._data.score_answer(action, self._item))
        except Exception:  # some scorers trust that an answer can be parsed; a policy's first answers cannot
            score, self._unscored = 0.0, True
        return float(score >= 1) if self.exact else score, True

    def _best(self) -> str:
        answer = self._item["answer"]
        if answer is None:
            raise ValueError(f"reasoning-gym's {self.dataset} scores answers but gives none: choose another dataset")
        if answer not in (self._answers or self.action_space):
            raise ValueError(
                f"the answer {answer!r} cannot be given: raise max_answer, or add what it lacks to `characters` or "
                "`answers`"
            )
        return str(answer)

    def _info(self, *, valid: bool) -> dict[str, Any]:
        return {**super()._info(valid=valid), "unscored": self._unscored}

    def _legal_actions(self) -> tuple[str, ...] | None:
        return () if self._over and self._answers else self._answers

    def _state_key(self) -> Hashable:
        return self._number
