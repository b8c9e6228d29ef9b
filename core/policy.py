"""A language model as a policy: samples with their log-probabilities, and the same log-probabilities with gradient.

Shape suffixes: B = samples, T = generated tokens, S = prompt and generated tokens, V = vocabulary, D = model width,
R = rows that are read, P = different prompts.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from core.conversation import Conversation
from core.generate import CausalModel, TokenMask, choose, continue_rows, decoding, ordinary, pad_left, prefill
from core.interfaces import Samples
from core.losses import token_logprobs
from core.sampling import Sampling, choice_logits


class SharingModel(CausalModel, Protocol):
    """A model that reads a prompt once for several samples, with gradient too."""

    def new_prefix(self, key_mask_BS: Tensor | None = None) -> Any: ...


class LanguageModelPolicy:
    """Generates from prompts and scores what was generated, under one temperature and one token mask.

    Args:
        model: the core Transformer, the LSTM or the MLP.
        max_new_tokens: most tokens of a sample.
        eos_id: the token, or tokens, that end a sample; None for samples of fixed length.
        temperature: divides the logits, in sampling and in scoring alike.
    """

    def __init__(
        self,
        model: SharingModel,
        *,
        max_new_tokens: int,
        eos_id: int | Sequence[int] | None = None,
        temperature: float = 1.0,
    ) -> None:
        if temperature <= 0:
            raise ValueError(f"temperature must be > 0 for a policy that is trained, got {temperature}")
        self.model = model
        self.max_new_tokens = max_new_tokens
        self.eos_id = eos_id
        self.sampling = Sampling(temperature=temperature)
        self._remembered: dict[tuple[int, ...], int] | None = None
        """Row of `_logits_PV` by context, while something is remembered."""
        self._logits_PV: Tensor | None = None

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Within the block the weights must not change: a context is read once, however often it comes.

        It serves samples of one token, as actions of small environments are.
        """
        before = self._remembered, self._logits_PV
        self._remembered, self._logits_PV = {}, None
        try:
            yield
        finally:
            self._remembered, self._logits_PV = before

    def sample(
        self,
        contexts: Sequence[Sequence[int]],
        *,
        num_samples: int = 1,
        token_mask: TokenMask | Tensor | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        greedy: bool = False,
    ) -> Samples:
        """Continue each prompt; equal ones are read once. See `core.generate.generate`."""
        contexts = [prompt for prompt in contexts for _ in range(num_samples)]
        if self._remembered is not None and self.max_new_tokens == 1:
            return self._remembering_sample(contexts, token_mask, generator, greedy)
        prompts, prompt_B = _distinct(contexts)
        with decoding(self.model):
            hidden_PD, cache = prefill(
                self.model, prompts, self.max_new_tokens, embed=None, bidirectional=False, options={}
            )
            if len(prompts) < len(prompt_B):
                rows = torch.tensor(prompt_B, device=hidden_PD.device)
                cache.select(rows)
                hidden_PD = hidden_PD[rows]
            samples = continue_rows(
                self.model, hidden_PD, cache, max_new_tokens=self.max_new_tokens, sampling=self._sampling(greedy),
                eos_id=self.eos_id, token_mask=token_mask, generator=generator,
            )  # fmt: skip
        return ordinary(samples)

    def _remembering_sample(
        self,
        contexts: Sequence[Sequence[int]],
        token_mask: TokenMask | Tensor | None,
        generator: torch.Generator | Sequence[torch.Generator] | None,
        greedy: bool,
    ) -> Samples:
        remembered = self._remembered
        assert remembered is not None
        keys = [tuple(context) for context in contexts]
        new = [key for key in dict.fromkeys(keys) if key not in remembered]
        sampling = self._sampling(greedy)
        with decoding(self.model):
            if new:
                hidden_PD, _ = prefill(self.model, new, 1, embed=None, bidirectional=False, options={})
                logits_PV = self.model.logits(hidden_PD)
                old = [] if self._logits_PV is None else [self._logits_PV]
                self._logits_PV = torch.cat((*old, logits_PV))
                remembered.update({key: len(remembered) + place for place, key in enumerate(new)})
            assert self._logits_PV is not None
            device = self._logits_PV.device
            logits_BV = self._logits_PV[torch.tensor([remembered[key] for key in keys], device=device)]
            rows = torch.arange(len(keys), device=device)
            allowed = token_mask
            if token_mask is not None and not isinstance(token_mask, Tensor):
                allowed = token_mask(rows.tolist(), [[] for _ in keys]).to(device)
            logits_BV = choice_logits(logits_BV, sampling, allowed=allowed)  # type: ignore[arg-type]
            token_B, logprob_B = choose(logits_BV, sampling, generator, rows)
            stops = [self.eos_id] if isinstance(self.eos_id, int) else list(self.eos_id or ())
            ends_B = torch.isin(token_B, torch.tensor(stops, dtype=torch.long, device=device))
            one_B1 = torch.ones_like(token_B[:, None], dtype=torch.bool)
        return ordinary(Samples(token_B[:, None], one_B1, logprob_B[:, None], ends_B))

    def answer(
        self,
        conversation: Conversation,
        said: Sequence[Sequence[int]],
        *,
        token_mask: TokenMask | None = None,
        generator: Sequence[torch.Generator] | None = None,
        greedy: bool = False,
    ) -> Samples:
        """The next turn of a conversation with this policy's model; `said` is what came since the last answer."""
        return conversation.sample(
            said, max_new_tokens=self.max_new_tokens, sampling=self._sampling(greedy), eos_id=self.eos_id,
            token_mask=token_mask, generator=generator,
        )  # fmt: skip

    def _sampling(self, greedy: bool) -> Sampling:
        return Sampling(temperature=0) if greedy else self.sampling

    def hidden(self, contexts: Sequence[Sequence[int]], samples: Samples) -> Tensor:
        """hidden_BTD at the positions that predict each sampled token, with gradient: for value heads and scoring.

        What several rows have in common is read once: equal rows, a turn that is the beginning of a later one's
        context, the prompt of several samples.

        Args:
            contexts: the prompt of each sample.
            samples: from `sample`, one per context.

        Returns:
            hidden_BTD; what stands where nothing was sampled means nothing.
        """
        if len(contexts) != len(samples):
            raise ValueError(f"{len(contexts)} contexts for {len(samples)} samples: repeat each prompt per sample")
        # The last sampled token predicts nothing, so it is not read.
        if samples.tokens_BT.shape[1] == 1:
            sampled: list[list[int]] = [[]] * len(samples)
        else:
            sampled = [tokens[:-1] for tokens in samples.lists()]
        rows, row_B = _covering(contexts, sampled)
        device = samples.tokens_BT.device
        row_number_B = torch.tensor(row_B, device=device)
        steps_T = torch.arange(samples.tokens_BT.shape[1], device=device)
        prompts, prompt_R = _distinct([contexts[row] for row in rows])
        # A row that begins another one's context is read with it, which a shared prompt would not show.
        own = all(len(contexts[b]) == len(contexts[rows[r]]) for b, r in enumerate(row_B))
        if own and len(prompts) < len(rows):
            hidden_RSD = self._after_prompts(prompts, prompt_R, [sampled[row] for row in rows], device)
            # Past the end of a row whatever stands there will do.
            return hidden_RSD[row_number_B[:, None], steps_T.clamp(max=hidden_RSD.shape[1] - 1)]
        read_RS = _pad_right([[*contexts[row], *sampled[row]] for row in rows], device)
        last = read_RS.shape[1] - 1
        if own:
            first_R1 = torch.tensor([[len(contexts[row]) - 1] for row in rows], device=device)
            return self.model(read_RS, reads_BR=(first_R1 + steps_T).clamp(max=last))[row_number_B]
        first_B1 = torch.tensor([[len(context) - 1] for context in contexts], device=device)
        return self.model(read_RS)[row_number_B[:, None], (first_B1 + steps_T).clamp(max=last)]

    def _after_prompts(
        self,
        prompts: Sequence[Sequence[int]],
        prompt_R: Sequence[int],
        sampled: Sequence[Sequence[int]],
        device: torch.device,
    ) -> Tensor:
        """hidden_RSD of the last position of each row's prompt and of what was sampled after it."""
        tokens_PT, mask_PT = pad_left(prompts, device)
        cache = self.model.new_prefix(mask_PT)
        padding = {} if mask_PT is None else {"key_mask_BS": mask_PT}
        rows = torch.tensor(prompt_R, device=device)
        last_P1 = torch.full((len(prompts), 1), tokens_PT.shape[1] - 1, device=device)
        last_R1D = self.model(tokens_PT, cache=cache, reads_BR=last_P1, **padding)[rows]
        if not any(sampled):
            return last_R1D
        cache.expand(rows)
        return torch.cat((last_R1D, self.model(_pad_right(sampled, device), cache=cache)), 1)

    def logprobs(
        self, contexts: Sequence[Sequence[int]], samples: Samples, *, allowed_BTV: Tensor | None = None
    ) -> Tensor:
        """logprobs_BT of the samples with gradient; 0 where the mask is False.

        Args:
            contexts: the prompt of each sample.
            samples: from `sample`.
            allowed_BTV: bool; the token mask that was in force at each position, if there was one.
        """
        return self.logprobs_of_hidden(self.hidden(contexts, samples), samples, allowed_BTV=allowed_BTV)

    def logprobs_of_hidden(self, hidden_BTD: Tensor, samples: Samples, *, allowed_BTV: Tensor | None = None) -> Tensor:
        """As `logprobs`, from hidden states that were computed already."""
        logits_BTV = self.distribution(hidden_BTD, allowed_BTV)
        tokens_BT = samples.tokens_BT.masked_fill(~samples.mask_BT, 0)
        return torch.where(samples.mask_BT, token_logprobs(logits_BTV, tokens_BT), 0.0)

    def distribution(self, hidden_BTD: Tensor, allowed_BTV: Tensor | None = None) -> Tensor:
        """float32 logits_BTV of the distribution that tokens are drawn from (temperature and mask applied)."""
        return choice_logits(self.model.logits(hidden_BTD), self.sampling, allowed=allowed_BTV)


def _distinct(rows: Sequence[Sequence[int]]) -> tuple[list[Sequence[int]], list[int]]:
    """The different rows, and the number of its kind for each row."""
    numbers: dict[tuple[int, ...], int] = {}
    inverse = [numbers.setdefault(tuple(row), len(numbers)) for row in rows]
    return list(numbers), inverse


def _covering(contexts: Sequence[Sequence[int]], sampled: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """Rows of which every row, a context and what was sampled after it, is one or a beginning.

    Returns:
        (rows, inverse): the numbers of such rows, and for each row the place in `rows` of one that begins with it.
    """
    # Of equal rows, of which small environments have many, one is enough.
    numbers: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
    kinds = [numbers.setdefault(key, len(numbers)) for key in zip(map(tuple, contexts), map(tuple, sampled))]
    firsts = [0] * len(numbers)
    for row in range(len(kinds) - 1, -1, -1):
        firsts[kinds[row]] = row
    reads = [[*context, *tokens] for context, tokens in numbers]
    # Sorted, all rows that begin with a row follow it at once.
    order = sorted(range(len(reads)), key=lambda kind: reads[kind])
    rows: list[int] = []
    inverse = [0] * len(reads)
    for place in range(len(order) - 1, -1, -1):
        kind = order[place]
        if not rows or reads[order[place + 1]][: len(reads[kind])] != reads[kind]:
            rows.append(firsts[kind])
        inverse[kind] = len(rows) - 1
    return rows, [inverse[kind] for kind in kinds]


def _pad_right(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """tokens_BT padded on the right with 0: causal attention never lets a real token see it."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], dtype=torch.long, device=device)


class ValueHead(nn.Module):
    """A state value from a hidden state; starts at 0 everywhere.

    Args:
        width: D of the hidden states.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        """value_BT in float32."""
        with torch.autocast(hidden_BTD.device.type, enabled=False):
            found: Tensor = self.linear(hidden_BTD.float())
        return found.squeeze(-1)
