"""What a model writes, now and at the start of a run."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from core.policy import LanguageModelPolicy
from core.text.huggingface import HFTokenizer
from core.training.runtime import Runtime
from rl.evaluation import Score, mean_score

JUDGED = 1024
"""Samples that a judge scores."""
AT_ONCE = 256
"""Samples drawn side by side."""

Judge = Callable[[Sequence[str], Sequence[str]], list[float]]
"""(prompts, completions) → a score of each."""


class Writer:
    """Samples completions of held-out prompts, and keeps what the model wrote before it was trained.

    The draws are the same at every call, so that the difference is the model's.

    Args:
        policy: writes.
        tokenizer: of the policy.
        runtime: precision.
        prompts: ids by text of the prompts to continue, in their order.
        seed: of the draws.
        shown: prompts that samples show.
        judge: scores completions; None without a rule.
    """

    def __init__(
        self,
        policy: LanguageModelPolicy,
        tokenizer: HFTokenizer,
        runtime: Runtime,
        prompts: Mapping[str, list[int]],
        *,
        seed: int,
        shown: int,
        judge: Judge | None = None,
    ) -> None:
        self.policy, self.tokenizer, self.runtime, self.prompts = policy, tokenizer, runtime, dict(prompts)
        self.seed, self.shown, self.judge = seed, shown, judge
        self._start: dict[str, Any] | None = None

    def write(self, contexts: Sequence[list[int]], generator: torch.Generator | None = None) -> list[str]:
        """A sampled completion of each context."""
        texts = []
        for first in range(0, len(contexts), AT_ONCE):
            with self.runtime.autocast():
                samples = self.policy.sample(contexts[first : first + AT_ONCE], generator=generator)
            texts += [self.tokenizer.decode(tokens) for tokens in samples.lists()]
        return texts

    def rows(self) -> list[dict[str, Any]]:
        """One sample of each of the first prompts, as reports show them, with its score where there is a judge."""
        texts = list(self.prompts)[: self.shown]
        if not texts:
            return []
        written = self.write([self.prompts[text] for text in texts], self._generator())
        rows: list[dict[str, Any]] = [{"prompt": text, "text": found} for text, found in zip(texts, written)]
        for row, score in zip(rows, self.judge(texts, written) if self.judge else ()):
            row["reward"] = round(score, 4)
        return rows

    def judged(self) -> list[float]:
        """Scores of `JUDGED` samples, the prompts taken in turn; empty without a judge."""
        if self.judge is None or not self.prompts:
            return []
        texts = (list(self.prompts) * (1 + JUDGED // len(self.prompts)))[:JUDGED]
        return self.judge(texts, self.write([self.prompts[text] for text in texts], self._generator()))

    def scores(self) -> dict[str, float]:
        """`score`, the mean of the judge's; empty without one."""
        judged = self.judged()
        return {"score": mean_score(judged).value} if judged else {}

    def score(self) -> Score | None:
        """The mean of the judge's scores with its interval."""
        judged = self.judged()
        return mean_score(judged) if judged else None

    # The start.

    @property
    def remembered(self) -> bool:
        """Whether the start is kept."""
        return self._start is not None

    def remember(self, step: int) -> None:
        """Let the present model be the start, unless there is one already."""
        if self._start is None:
            self._start = {"step": step, "rows": self.rows(), "scores": self.judged()}

    @property
    def start_rows(self) -> tuple[int, list[dict[str, Any]]]:
        """The start's step, and what `rows` gave then; none before there is a start."""
        return (self._start["step"], self._start["rows"]) if self._start else (0, [])

    @property
    def start_score(self) -> Score | None:
        """What `score` gave at the start."""
        return mean_score(self._start["scores"]) if self._start and self._start["scores"] else None

    def state_dict(self) -> dict[str, Any]:
        """What the start wrote."""
        return {"start": self._start}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self._start = state["start"]

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)
