"""Decoding in turns: what was read and said stays in the cache from one turn to the next.

Shape suffixes: B = rows, T = generated tokens, D = model width.
"""

from collections.abc import Sequence
from typing import Any

import torch

from core.generate import CausalModel, TokenMask, continue_rows, decoding, ordinary, pad_left, prefill
from core.interfaces import Samples
from core.sampling import Sampling


class Conversation:
    """Rows of text that a model reads and continues by turns. Nothing is read twice.

    Args:
        model: the core Transformer, the LSTM, or anything with their surface.
    """

    def __init__(self, model: CausalModel) -> None:
        self.model = model
        self._cache: Any = None
        self._unread: list[list[int]] = []
        """Of each row the token that was sampled last: nothing has asked for what follows it yet."""

    def sample(
        self,
        said: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        sampling: Sampling,
        eos_id: int | Sequence[int] | None = None,
        token_mask: TokenMask | None = None,
        generator: Sequence[torch.Generator] | None = None,
    ) -> Samples:
        """Read what was said to each row, and answer. Arguments as of `core.generate.generate`.

        Args:
            said: token ids, in the first turn the whole prompt, afterwards what came since the last answer.
            max_new_tokens: most tokens of an answer.
            sampling: how tokens are chosen.
            eos_id: the token, or tokens, that end an answer; they stay part of the row.
            token_mask: which tokens may come next.
            generator: one per row.
        """
        with decoding(self.model):
            if self._cache is None:
                hidden_BD, self._cache = prefill(
                    self.model, said, max_new_tokens, embed=None, bidirectional=False, options={}
                )
            else:
                device = next(iter(self.model.parameters())).device
                tokens_BT, mask_BT = pad_left([last + list(new) for last, new in zip(self._unread, said)], device)
                self._cache.reserve(tokens_BT.shape[1] + max_new_tokens)
                padding = {} if mask_BT is None else {"key_mask_BS": mask_BT}
                hidden_BD = self.model(tokens_BT, cache=self._cache, **padding)[:, -1]
            samples = continue_rows(
                self.model, hidden_BD, self._cache, max_new_tokens=max_new_tokens, sampling=sampling, eos_id=eos_id,
                token_mask=token_mask, generator=generator, keep=True,
            )  # fmt: skip
        self._unread = [tokens[-1:] for tokens in samples.lists()]
        return ordinary(samples)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone, in this order."""
        if len(rows) == len(self._unread) and list(rows) == list(range(len(rows))):
            return
        device = next(iter(self.model.parameters())).device
        with torch.inference_mode():
            self._cache.select(torch.tensor(rows, dtype=torch.long, device=device))
        self._unread = [self._unread[row] for row in rows]
