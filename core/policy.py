"""A language model as a policy: samples with their log-probabilities, and the same log-probabilities with gradient.

Shape suffixes: B = samples, T = generated tokens, S = prompt and generated tokens, V = vocabulary, D = model width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from core.generate import CausalModel, TokenMask, generate, pad_left
from core.interfaces import Samples
from core.losses import token_logprobs
from core.sampling import Sampling, choice_logits


class LanguageModelPolicy:
    """Generates from prompts and scores what was generated, under one temperature and one token mask.

    Args:
        model: the core Transformer or the LSTM.
        max_new_tokens: most tokens of a sample.
        eos_id: the token that ends a sample; None for samples of fixed length.
        temperature: divides the logits, in sampling and in scoring alike.
    """

    def __init__(
        self, model: CausalModel, *, max_new_tokens: int, eos_id: int | None = None, temperature: float = 1.0
    ) -> None:
        if temperature <= 0:
            raise ValueError(f"temperature must be > 0 for a policy that is trained, got {temperature}")
        self.model = model
        self.max_new_tokens = max_new_tokens
        self.eos_id = eos_id
        self.sampling = Sampling(temperature=temperature)

    def sample(
        self,
        contexts: Sequence[Sequence[int]],
        *,
        num_samples: int = 1,
        token_mask: TokenMask | Tensor | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        greedy: bool = False,
    ) -> Samples:
        """Continue each prompt. See `core.generate.generate`."""
        return generate(
            self.model, contexts, max_new_tokens=self.max_new_tokens, num_samples=num_samples, eos_id=self.eos_id,
            sampling=Sampling(temperature=0) if greedy else self.sampling, token_mask=token_mask, generator=generator,
        )  # fmt: skip

    def hidden(self, contexts: Sequence[Sequence[int]], samples: Samples) -> Tensor:
        """hidden_BTD at the positions that predict each sampled token, with gradient: for value heads and scoring.

        Args:
            contexts: the prompt of each sample.
            samples: from `sample`, one per context.
        """
        if len(contexts) != len(samples):
            raise ValueError(f"{len(contexts)} contexts for {len(samples)} samples: repeat each prompt per sample")
        device = samples.tokens_BT.device
        prompts_BT, prompt_mask = pad_left(contexts, device)
        num_new = samples.tokens_BT.shape[1]
        # The last sampled token predicts nothing, so it is not read.
        tokens_BS = torch.cat((prompts_BT, samples.tokens_BT[:, :-1]), dim=1)
        # Positions after the end hold nothing; causal attention keeps them from the others, so only the prompt's
        # padding needs a mask.
        mask_BS = None
        if prompt_mask is not None:
            rest = torch.ones(len(contexts), num_new - 1, dtype=torch.bool, device=device)
            mask_BS = torch.cat((prompt_mask, rest), dim=1)
        hidden_BSD = self.model(tokens_BS, key_mask_BS=mask_BS)
        return hidden_BSD[:, prompts_BT.shape[1] - 1 :]

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
        return self.linear(hidden_BTD).squeeze(-1).float()
