"""The live display of a training run."""

import time
from collections import deque
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_EVERY_S = 5.0
"""Without a terminal, seconds between two lines."""
LIVE_EVERY_S = 0.1
LIVE_POINTS = 50
"""On a terminal, the rates are those over so many refreshes."""


class Display:
    """A bar with rate, remaining time and loss on a terminal; a line now and then elsewhere; or nothing.

    It writes to the standard error.
    """

    def __init__(self, mode: Literal["auto", "off"] = "auto") -> None:
        self._off = mode == "off"
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._total = 0
        self._tokens = 0.0
        self._points: deque[tuple[float, int, float]] = deque(maxlen=LIVE_POINTS)

    def start(self, step: int, total_steps: int | None) -> None:
        """Begin at this step. `total_steps` is `None` while a time budget is not yet turned into steps."""
        self._total, self._tokens = total_steps or 0, 0.0
        live = self._console.is_terminal
        self._points = deque([(time.perf_counter(), step, 0.0)], maxlen=LIVE_POINTS if live else 1)
        if self._off or not live:
            return
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            refresh_per_second=4,
        )
        self._bar.add_task("", total=total_steps, completed=step, text="")
        self._bar.start()

    def set_total(self, total_steps: int) -> None:
        """A time budget was turned into this many steps."""
        self._total = total_steps
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], total=total_steps)

    def update(self, step: int, loss: float | None, tokens: float) -> None:
        """Show the step that was done, of `tokens` tokens. Cheap enough for every step."""
        if self._off:
            return
        self._tokens += tokens
        now = time.perf_counter()
        if now - self._points[-1][0] < (LIVE_EVERY_S if self._bar is not None else PLAIN_EVERY_S):
            return
        since_s, since_step, since_tokens = self._points[0]
        rate = (step - since_step) / (now - since_s)
        self._points.append((now, step, self._tokens))
        parts = [f"{rate:.3g} steps/s"]
        if self._tokens:
            parts.append(f"{(self._tokens - since_tokens) / (now - since_s):,.0f} tokens/s")
        if loss is not None:
            parts.append(f"loss {loss:.4g}")
        text = ", ".join(parts)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step, text=text)
            return
        left = f", {(self._total - step) / rate:,.0f} s left" if self._total and rate else ""
        self._console.print(f"step {step}/{self._total or '?'}: {text}{left}")

    def note(self, text: str) -> None:
        """Print a line."""
        if not self._off:
            self._console.print(text)

    def stop(self, step: int) -> None:
        """End the display at this step."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step)
            self._bar.stop()
            self._bar = None
