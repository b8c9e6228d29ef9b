"""Prompts and completions as token ids: text, chat messages, or ids that a policy sampled.

Shape suffixes: B = completions, T = tokens of a completion.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from core.interfaces import Samples
from core.text.chat import encode_chat
from core.text.huggingface import HFTokenizer

Text = str | Sequence[Mapping[str, Any]]
"""Plain text, or chat messages {"role", "content"}."""


@dataclass(frozen=True)
class Completion:
    """A completion of a prompt."""

    prompt: list[int]
    """Ids that are read only; at least one."""
    tokens: list[int]
    """Ids of the completion, its end-of-sequence included; at least one."""
    mask: list[bool]
    """True for the tokens that the policy has to write; False for what others say within a longer exchange."""

    def __len__(self) -> int:
        return len(self.prompt) + len(self.tokens)

    def cut(self, length: int) -> "Completion":
        """The same in at most `length` tokens, at the cost of the prompt's beginning, then of the completion's end."""
        kept = self.prompt[-max(1, length - len(self.tokens)) :]
        return replace(
            self, prompt=kept, tokens=self.tokens[: length - len(kept)], mask=self.mask[: length - len(kept)]
        )


def start_of(tokenizer: HFTokenizer, prompt: str) -> list[int]:
    """Ids of a plain prompt, begun as environments' observations are; an empty one is what begins a text."""
    ids = tokenizer.encode(prompt, add_bos=tokenizer.bos_id is not None)
    if ids:
        return ids
    if tokenizer.eos_id is None:
        raise ValueError("an empty prompt needs a tokenizer with a begin- or end-of-sequence token")
    return [tokenizer.eos_id]  # what ended the text before


def encode_context(tokenizer: HFTokenizer, prompt: Text) -> list[int]:
    """Ids of a prompt up to where the completion begins."""
    if isinstance(prompt, str):
        return start_of(tokenizer, prompt)
    return encode_chat(tokenizer, prompt, add_generation_prompt=True).ids


def encode_completion(tokenizer: HFTokenizer, prompt: Text, completion: Text) -> Completion:
    """A prompt with its completion as ids.

    Args:
        tokenizer: of the model; it needs an end-of-sequence token.
        prompt: plain text, or chat messages, which the tokenizer's template puts into one text.
        completion: plain text, the assistant's answer to messages, or messages that go on from them.

    Returns:
        The ids. Plain text ends with end-of-sequence, an assistant's turn with what the template ends it with; both are
        to be written by the policy.

    Raises:
        ValueError: messages after a plain prompt, malformed messages, or a tokenizer without end-of-sequence.
    """
    if tokenizer.eos_id is None:
        raise ValueError("completions need a tokenizer with an end-of-sequence token, or they would never end")
    if isinstance(prompt, str):
        if not isinstance(completion, str):
            raise ValueError("a prompt that is plain text needs a completion that is plain text too")
        tokens = tokenizer.encode(completion, add_eos=True)
        return Completion(start_of(tokenizer, prompt), tokens, [True] * len(tokens))
    answer = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else list(completion)
    if not answer or answer[-1].get("role") != "assistant":
        raise ValueError("a completion of chat messages must end with one of the assistant's")
    ids, whole = encode_context(tokenizer, prompt), encode_chat(tokenizer, [*prompt, *answer])
    if whole.ids[: len(ids)] != ids:
        raise ValueError("the chat template renders the prompt otherwise once it is answered; use another template")
    # What a template writes after the assistant's last turn is nobody's.
    stop = max((place for place, own in enumerate(whole.mask) if own), default=-1) + 1
    if stop <= len(ids):
        raise ValueError("the chat template leaves nothing for the assistant to write; use another template")
    return Completion(ids, whole.ids[len(ids) : stop], whole.mask[len(ids) : stop])


def as_samples(completions: Sequence[Completion], device: torch.device) -> tuple[Samples, Tensor]:
    """Completions as if a policy had sampled them, and own_BT, True = a token that the policy has to write.

    They are padded on the right, and their log-probabilities are 0.
    """
    longest = max(len(completion.tokens) for completion in completions)

    def padded(rows: Sequence[Sequence[int | bool]], dtype: torch.dtype) -> Tensor:
        return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], dtype=dtype, device=device)

    tokens_BT = padded([completion.tokens for completion in completions], torch.long)
    lengths_B = torch.tensor([len(completion.tokens) for completion in completions], device=device)
    samples = Samples(
        tokens_BT,
        torch.arange(longest, device=device) < lengths_B[:, None],
        torch.zeros(tokens_BT.shape, device=device),
        torch.ones_like(lengths_B, dtype=torch.bool),
    )
    return samples, padded([completion.mask for completion in completions], torch.bool)


def readable(text: Text) -> str:
    """A prompt or completion for people."""
    return text if isinstance(text, str) else "\n".join(f"{turn.get('role')}: {turn.get('content')}" for turn in text)
