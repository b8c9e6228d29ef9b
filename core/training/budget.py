"""A time budget, turned into a number of steps."""

import statistics

WARMUP_STEPS = 3
"""Steps not timed: they compile, and allocate the optimiser's state."""
TIMED_STEPS = 10
PROBE_SHARE = 0.2
"""The first estimate is made after this share of the budget at the latest."""
REVISIONS = (0.25, 0.5, 0.75, 0.9)
"""Shares of the run's steps after which the number is estimated anew."""
MARGIN = 0.97
END_SHARE = 0.99
"""Training ends at this share of the budget: the rest is for the last checkpoint."""


class TimePlan:
    """Number of steps that fit into a budget.

    After a few warm-up steps the median of the next steps gives a first number; at fixed shares of the run the mean
    pace so far, evaluations and checkpoints included, corrects it. At the end of the budget the run stops in any case.
    """

    def __init__(self, budget_s: float) -> None:
        """Args:
        budget_s: seconds from the start of the run, set-up and compilation included.
        """
        self.end_s = budget_s * END_SHARE
        self.total_steps: int | None = None
        self._times: list[float] = []
        self._session_step = 0
        self._last_s = 0.0
        self._from: tuple[int, float] | None = None
        self._revisions = list(REVISIONS)

    def tick(self, step: int, step_s: float, elapsed_s: float) -> int | None:
        """Note a step that was done.

        Args:
            step: steps done in the run.
            step_s: seconds that the step took.
            elapsed_s: seconds since the run began.

        Returns:
            The run's number of steps, or `None` while it is not known.
        """
        self._session_step += 1
        if elapsed_s >= self.end_s:
            self.total_steps = step
        elif self.total_steps is None:
            if self._session_step == WARMUP_STEPS:
                self._from = (step, elapsed_s)
            elif self._session_step > WARMUP_STEPS:
                self._times.append(step_s)
            timed = len(self._times)
            if timed >= TIMED_STEPS or (timed and elapsed_s >= PROBE_SHARE * self.end_s):
                self._set(step, elapsed_s, statistics.median(self._times))
        elif self._revisions and step >= self._revisions[0] * self.total_steps:
            assert self._from is not None
            from_step, from_s = self._from
            self._set(step, elapsed_s, (elapsed_s - from_s) / (step - from_step))
            while self._revisions and step >= self._revisions[0] * self.total_steps:
                self._revisions.pop(0)
        return self.total_steps

    def _set(self, step: int, elapsed_s: float, pace_s: float) -> None:
        self.total_steps = step + int(MARGIN * (self.end_s - elapsed_s) / max(pace_s, 1e-9))
