"""What a language model gives whole completions: log-probabilities, with gradient, of the completion's tokens alone.

Padding is known from the lengths of the rows and never looked for among the ids.

Shape suffixes: B = completions, T = tokens of a completion.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from core.losses import lm_loss
from core.policy import LanguageModelPolicy
from core.training import distributed
from core.training.runtime import Runtime
from rl.preferences.encoding import Completion, as_samples

AT_ONCE = 64
"""Completions in one forward pass without gradient."""


def completion_logprobs(policy: LanguageModelPolicy, completions: Sequence[Completion]) -> tuple[Tensor, Tensor]:
    """(logprob_B, length_B): the log-probability of each completion given its prompt, and its number of tokens.

    Args:
        policy: scores them, at its temperature.
        completions: of any lengths.
    """
    samples, own_BT = as_samples(completions, _device(policy))
    logprobs_BT = policy.logprobs([completion.prompt for completion in completions], samples)
    return torch.where(own_BT, logprobs_BT, 0.0).sum(1), own_BT.sum(1)


def completion_loss(policy: LanguageModelPolicy, completions: Sequence[Completion]) -> tuple[Tensor, Tensor]:
    """(loss_sum, count): cross-entropy over the completions' tokens, for supervised fine-tuning."""
    samples, own_BT = as_samples(completions, _device(policy))
    hidden_BTD = policy.hidden([completion.prompt for completion in completions], samples)
    vocab_size = policy.model.vocab_size  # type: ignore[attr-defined]
    return lm_loss(policy.model.logits, hidden_BTD, samples.tokens_BT, own_BT, vocab_size=vocab_size)


@contextmanager
def frozen(module: Any) -> Iterator[None]:
    """Evaluation mode without gradient; the mode is as before afterwards."""
    was_training = module.training
    module.train(False)
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(was_training)


def frozen_logprobs(
    policy: LanguageModelPolicy, completions: Sequence[Completion], runtime: Runtime, *, shared: bool = False
) -> Tensor:
    """float32 logprob_B of any number of completions on the CPU, in evaluation mode.

    Args:
        policy: scores them.
        completions: all of them, in every process.
        runtime: device and precision.
        shared: the processes share the work, so all of them must call this.
    """
    rank, world = (distributed.rank(), distributed.world()) if shared else (0, 1)
    logprob_B = torch.zeros(len(completions))
    # Neighbours in length waste little on padding.
    order = sorted(range(len(completions)), key=lambda index: len(completions[index]))
    for start in range(AT_ONCE * rank, len(order), AT_ONCE * world):
        part = order[start : start + AT_ONCE]
        with frozen(policy.model), runtime.autocast():
            logprob_B[part] = completion_logprobs(policy, [completions[index] for index in part])[0].cpu()
    return distributed.all_reduce_sum(logprob_B) if shared else logprob_B


def _device(policy: LanguageModelPolicy) -> torch.device:
    return next(iter(policy.model.parameters())).device
