"""Generated sentences that the discriminator learns from: this round's, and some of earlier rounds.

A discriminator that sees only the newest forgets what it has beaten, and the generator comes round to it again.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from adversarial.generator import Sentences

KEPT = 10_000
"""Most sentences kept of earlier rounds."""
_AT_ONCE = 2000
_LOOKED_AT = 1000


class FakePool:
    """Sentences of the present round, handed out in random order, mixed with old ones.

    Args:
        replay: share of old sentences in what is handed out, 0 for none.

    References:
        Shrivastava et al. 2017, "Learning from Simulated and Unsupervised Images", arXiv:1612.07828 (the history).
    """

    def __init__(self, replay: float) -> None:
        self.replay = replay
        self.old: Sentences | None = None
        self._new: Sentences | None = None
        self._order = torch.empty(0, dtype=torch.long)

    def renew(self, draw: Callable[[int], Sentences], count: int) -> None:
        """Begin a round with `count` fresh sentences; the last round's become old."""
        if self.replay and self._new is not None:
            self.old = self._new if self.old is None else Sentences.join(self.old, self._new)
            if len(self.old) > KEPT:
                self.old = self.old.rows(torch.randperm(len(self.old))[:KEPT].to(self.old.tokens_BT.device))
        parts = [draw(min(_AT_ONCE, count - start)) for start in range(0, count, _AT_ONCE)]
        self._new = Sentences.join(*parts)
        self._order = self._order[:0]

    @property
    def unique(self) -> float:
        """Share of the round's sentences that differ, among the first thousand."""
        assert self._new is not None
        some = self._new.part(0, _LOOKED_AT)
        return len(torch.unique(some.tokens_BT * some.mask_BT, dim=0)) / len(some)

    def take(self, count: int) -> Sentences:
        """`count` sentences; none comes again before all of the round have come."""
        assert self._new is not None
        num_old = round(self.replay * count) if self.old is not None else 0
        while len(self._order) < count - num_old:
            self._order = torch.cat((self._order, torch.randperm(len(self._new))))
        chosen, self._order = self._order[: count - num_old], self._order[count - num_old :]
        device = self._new.tokens_BT.device
        fresh = self._new.rows(chosen.to(device))
        if not num_old:
            return fresh
        assert self.old is not None
        return Sentences.join(fresh, self.old.rows(torch.randint(len(self.old), (num_old,)).to(device)))

    def state_dict(self) -> dict[str, Any]:
        """The old sentences and the last round's; between two rounds nothing is left to hand out."""
        parts = {"old": self.old, "new": self._new} if self.replay else {}
        return {
            name: None if part is None else {"tokens": part.tokens_BT, "mask": part.mask_BT}
            for name, part in parts.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.old, self._new = (
            None if state.get(name) is None else Sentences(state[name]["tokens"], state[name]["mask"])
            for name in ("old", "new")
        )
