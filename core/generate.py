"""The one decoding loop: ragged prompts, several samples a prompt, masks, streaming.

Shape suffixes: B = rows, T = positions, D = model width, V = vocabulary, M = memory positions, E = tokens that end a
sample.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from core.interfaces import Samples
from core.nn.linear import Linear
from core.nn.transformer import Transformer
from core.sampling import Sampling, choice_logits, draw, draw_projected, uniforms

TokenMask = Callable[[list[int], list[list[int]]], Tensor]
"""Called before every step with the original indices of the active rows and what each generated so far; returns
bool BV (or V), True = the token may come next."""

Embed = Callable[[Tensor], Tensor]
"""From the ids of prompts, padded on the left with 0, to embeddings_BTD: for prompts in which some ids, negative ones,
are no tokens but stand for a captioner's media."""


class Cache(Protocol):
    """What decoding needs of a model's memory of the positions read."""

    def select(self, rows: Tensor) -> None: ...
    def repeat(self, times: int) -> None: ...


class CausalModel(Protocol):
    """What decoding needs of a model: the core Transformer and the LSTM both have it."""

    training: bool

    def __call__(
        self, tokens_BT: Tensor | None = None, embeddings_BTD: Tensor | None = None, **options: Any
    ) -> Tensor: ...
    def embed(self, tokens_BT: Tensor) -> Tensor: ...
    def logits(self, hidden_BTD: Tensor) -> Tensor: ...
    def new_cache(self, batch: int, capacity: int) -> Any: ...
    def train(self, mode: bool = True) -> Any: ...
    def parameters(self) -> Iterator[Tensor]: ...


def pad_left(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """tokens_BT padded on the left with 0, and mask_BT (True = real), which is None when no row needs padding."""
    longest = max(len(row) for row in rows)
    tokens_BT = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows], dtype=torch.long, device=device)
    if all(len(row) == longest for row in rows):
        return tokens_BT, None
    lengths_B = torch.tensor([len(row) for row in rows], device=device)
    return tokens_BT, torch.arange(longest, device=device) >= (longest - lengths_B)[:, None]


@contextmanager
def decoding(model: CausalModel) -> Iterator[None]:
    """Evaluation and inference mode, and whatever the model prepares for decoding; undone afterwards."""
    was_training = model.training
    if was_training:  # walking through all modules costs as much as a step of a small model
        model.train(False)
    try:
        with torch.inference_mode(), model.decoding() if isinstance(model, Transformer) else nullcontext():
            yield
    finally:
        if was_training:
            model.train()


def prefill(
    model: CausalModel,
    prompts: Sequence[Sequence[int]],
    num_new: int,
    *,
    embed: Embed | None,
    bidirectional: bool,
    options: dict[str, Any],
) -> tuple[Tensor, Any]:
    """Read the prompts once. Returns the last position's hidden_BD and the cache, with room for `num_new` tokens."""
    if num_new < 1:
        raise ValueError(f"max_new_tokens must be >= 1, got {num_new}")
    if not prompts:
        raise ValueError("there are no prompts: give at least one")
    if any(len(prompt) == 0 for prompt in prompts):
        raise ValueError("a prompt is empty: start it with a begin-of-sequence token")
    device = next(iter(model.parameters())).device
    tokens_BT, mask_BT = pad_left(prompts, device)
    num_prompt = tokens_BT.shape[1]
    inputs = {"tokens_BT": tokens_BT} if embed is None else {"embeddings_BTD": embed(tokens_BT)}
    if bidirectional:
        options = {**options, "prefix_BT": torch.ones_like(tokens_BT, dtype=torch.bool)}
    if mask_BT is not None:
        options = {**options, "key_mask_BS": mask_BT}
    cache = model.new_cache(len(prompts), num_prompt + num_new - 1)  # the last token is not read again
    last_B1 = torch.full((len(prompts), 1), num_prompt - 1, device=device)
    hidden_B1D = model(**inputs, cache=cache, reads_BR=last_B1, **options)
    return hidden_B1D[:, 0], cache


def generate(
    model: CausalModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    num_samples: int = 1,
    sampling: Sampling | None = None,
    eos_id: int | Sequence[int] | None = None,
    embed: Embed | None = None,
    bidirectional: bool = False,
    token_mask: TokenMask | Tensor | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    on_token: Callable[[list[int], list[int]], None] | None = None,
    **inputs: Tensor,
) -> Samples:
    """Continue each prompt, reading it once however many samples are wanted.

    Args:
        model: the core Transformer, the LSTM, or anything with their surface.
        prompts: token ids of each prompt, of any lengths.
        max_new_tokens: most tokens to generate per sample, end-of-sequence counted.
        num_samples: samples per prompt; the result has prompt 0's samples first.
        sampling: temperature and truncation; by default the model's own distribution at temperature 1.
        eos_id: the token, or tokens, that end a sample; None generates `max_new_tokens` everywhere.
        embed: how prompts are embedded; by default as the model does it.
        bidirectional: the positions of a prompt see one another in both directions (prefix language model).
        token_mask: which tokens may come next: a bool V tensor, or a function of rows and sequences so far.
        generator: source of randomness: one for all, or one for each of the len(prompts) * num_samples rows.
        on_token: called after each step with the active rows and the token each one got.
        inputs: `memory_BMD` and `memory_mask_BM` for cross-attention, `shift_BD`; one row a prompt.

    Returns:
        Samples with log-probabilities under the distribution that was drawn from (mask and temperature included);
        greedy tokens have the model's own log-probability under the mask.
    """
    sampling = sampling or Sampling()
    if num_samples < 1:
        raise ValueError(f"num_samples must be >= 1, got {num_samples}")
    with decoding(model):
        hidden_BD, cache = prefill(
            model, prompts, max_new_tokens, embed=embed, bidirectional=bidirectional, options=inputs
        )
        cache.repeat(num_samples)
        hidden_BD = hidden_BD.repeat_interleave(num_samples, dim=0)
        seen = None
        if sampling.repetition_penalty != 1:
            seen = _seen(prompts, num_samples, model, hidden_BD)
        samples = continue_rows(
            model, hidden_BD, cache, max_new_tokens=max_new_tokens, sampling=sampling, eos_id=eos_id,
            token_mask=token_mask, generator=generator, on_token=on_token, seen=seen,
        )  # fmt: skip
    return ordinary(samples)


def choose(
    logits_BV: Tensor,
    sampling: Sampling,
    generator: torch.Generator | Sequence[torch.Generator] | None,
    rows: Tensor,
) -> tuple[Tensor, Tensor]:
    """(tokens_B, logprobs_B): the likeliest token of each row at temperature 0, else one that is drawn.

    Args:
        logits_BV: from `choice_logits`.
        sampling: what they were made with.
        generator: source of randomness, see `generate`.
        rows: int64 original index of each row.
    """
    if sampling.temperature == 0:
        chosen_B = logits_BV.argmax(-1)
    else:
        chosen_B = draw(logits_BV, uniforms(generator, rows, logits_BV.device))
    return chosen_B, logits_BV.log_softmax(-1).gather(-1, chosen_B[:, None]).squeeze(-1)


def ordinary(samples: Samples) -> Samples:
    """Copies, because tensors that were made within `decoding` can't take part in a loss."""
    return Samples(
        samples.tokens_BT.clone(), samples.mask_BT.clone(), samples.logprobs_BT.clone(), samples.finished_B.clone()
    )


def continue_rows(
    model: CausalModel,
    hidden_BD: Tensor,
    cache: Any,
    *,
    max_new_tokens: int,
    sampling: Sampling,
    eos_id: int | Sequence[int] | None = None,
    token_mask: TokenMask | Tensor | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    on_token: Callable[[list[int], list[int]], None] | None = None,
    seen: Tensor | None = None,
    keep: bool = False,
) -> Samples:
    """The loop itself, from what has been read; to be called within `decoding`, and so are its tensors made.

    Args:
        model: see `generate`, as for the other arguments.
        hidden_BD: hidden states of the last position read.
        cache: of the positions read; the sampled tokens but the last one of each row are read into it.
        max_new_tokens: most tokens to generate per row.
        sampling: how tokens are chosen.
        eos_id: the token, or tokens, that end a row.
        token_mask: which tokens may come next.
        generator: source of randomness.
        on_token: called after each step.
        seen: bool seen_BV for the repetition penalty; it is written.
        keep: finished rows stay in the cache, which is used again; else they leave it, and it is spent.
    """
    total, device = len(hidden_BD), hidden_BD.device
    stops = [eos_id] if isinstance(eos_id, int) else list(eos_id or ())
    if isinstance(generator, Sequence) and len(generator) != total:
        raise ValueError(f"give one generator per row ({total}), got {len(generator)}")
    tokens_BT = torch.zeros(total, max_new_tokens, dtype=torch.long, device=device)
    mask_BT = torch.zeros(total, max_new_tokens, dtype=torch.bool, device=device)
    logprobs_BT = torch.zeros(total, max_new_tokens, device=device)
    finished_B = torch.zeros(total, dtype=torch.bool, device=device)
    rows = torch.arange(total, device=device)
    stops_E = torch.tensor(stops, dtype=torch.long, device=device)
    head = _plain_head(model) if sampling.plain and token_mask is None else None
    for step in range(max_new_tokens):
        if token_mask is None or isinstance(token_mask, Tensor):
            allowed = token_mask
        else:
            allowed = token_mask(rows.tolist(), tokens_BT[rows, :step].tolist()).to(device)
        if head is not None:
            chosen, logprob_B = draw_projected(
                hidden_BD, head, uniforms(generator, rows, device), temperature=sampling.temperature
            )
        else:
            logits_BV = choice_logits(
                model.logits(hidden_BD), sampling, allowed=allowed, seen_BV=None if seen is None else seen[rows]
            )
            chosen, logprob_B = choose(logits_BV, sampling, generator, rows)
        tokens_BT[rows, step], mask_BT[rows, step] = chosen, True
        logprobs_BT[rows, step] = logprob_B
        if seen is not None:
            seen[rows, chosen] = True
        if on_token is not None:
            on_token(rows.tolist(), chosen.tolist())
        if step + 1 == max_new_tokens:
            break
        if stops and bool((ends := (chosen[:, None] == stops_E).any(-1)).any()):
            stay = (~ends).nonzero().squeeze(-1)
            finished_B[rows[ends]] = True
            if len(stay) == 0:
                break
            rows, chosen = rows[stay], chosen[stay]
            if not keep:
                cache.select(stay)
        if keep and len(rows) < total:
            # Rows that have finished read padding.
            next_B1 = torch.zeros(total, 1, dtype=torch.long, device=device)
            next_B1[rows, 0] = chosen
            real_B1 = torch.zeros(total, 1, dtype=torch.bool, device=device)
            real_B1[rows] = True
            hidden_BD = model(next_B1, cache=cache, key_mask_BS=real_B1)[rows, -1]
        else:
            hidden_BD = model(chosen[:, None], cache=cache)[:, -1]
    finished_B |= ((tokens_BT[..., None] == stops_E).any(-1) & mask_BT).any(1)
    return Samples(tokens_BT, mask_BT, logprobs_BT, finished_B)


def _plain_head(model: CausalModel) -> nn.Linear | None:
    """The model's output projection, where it is a linear layer and nothing else."""
    head = getattr(model, "lm_head", None)
    return head if type(head) in (nn.Linear, Linear) else None


def _seen(prompts: Sequence[Sequence[int]], num_samples: int, model: CausalModel, hidden_BD: Tensor) -> Tensor:
    """bool seen_BV: the tokens of each prompt, repeated for its samples."""
    vocab_size = model.logits(hidden_BD[:1]).shape[-1]
    seen_BV = torch.zeros(len(prompts), vocab_size, dtype=torch.bool, device=hidden_BD.device)
    for row, prompt in enumerate(prompts):
        seen_BV[row, [token for token in prompt if token >= 0]] = True
    return seen_BV.repeat_interleave(num_samples, dim=0)
