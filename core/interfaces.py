"""The protocols by which the packages meet. They are structural: nobody registers and nobody inherits.

Shape suffixes: B = samples, T = generated tokens.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Samples:
    """What a policy generated: new tokens only, padded on the right."""

    tokens_BT: Tensor
    """int64 token ids; the value where the mask is False means nothing."""
    mask_BT: Tensor
    """bool; True for every sampled token, up to and including end-of-sequence."""
    logprobs_BT: Tensor
    """float32 log-probability of each token under the distribution it was drawn from; 0 where the mask is False."""
    finished_B: Tensor
    """bool; True where end-of-sequence was drawn, False where the length limit cut the sample."""

    def __len__(self) -> int:
        return len(self.tokens_BT)

    def lists(self) -> list[list[int]]:
        """The sampled ids of each row, without padding (end-of-sequence included)."""
        return [row[:count] for row, count in zip(self.tokens_BT.tolist(), self.mask_BT.sum(1).tolist())]


class Policy(Protocol):
    """Anything that generates tokens and can score them with gradient: an LM, a captioner, a GAN generator."""

    def sample(self, contexts: Any, *, generator: torch.Generator | None = None) -> Samples:
        """Draw one sample per context, without gradient."""
        ...

    def logprobs(self, contexts: Any, samples: Samples) -> Tensor:
        """logprobs_BT of the samples with gradient, under the same mask and temperature as in `sample`."""
        ...


class RewardFn(Protocol):
    """Scores samples. May be a metric, a reward model, a discriminator or an environment."""

    def __call__(self, samples: Samples, contexts: Any) -> Tensor:
        """reward_B, or reward_BT for a reward per token."""
        ...


class Task(Protocol):
    """One training objective, with its modules and its updaters."""

    def train_step(self, batch: Any) -> Mapping[str, float]:
        """Do one optimiser step (or round of steps) and return scalars to log."""
        ...

    def evaluate(self) -> Mapping[str, float]:
        """Score the current weights; leaves no trace in the training state."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Nested dict of tensors and JSON values: all that training on needs."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        ...


class BatchSource(Protocol):
    """An endless iterable of batches that can be stopped and continued anywhere."""

    def __iter__(self) -> Iterator[Any]: ...

    def state_dict(self) -> dict[str, Any]:
        """JSON values that fix the next batch."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken."""
        ...
