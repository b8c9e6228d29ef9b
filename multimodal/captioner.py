"""The captioner: a language model that reads a picture as a prefix.

Shape suffixes: B = captions, T = caption tokens, P = positions of a picture, F = features of a position,
D = model width, V = vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from core.beam import beam_search
from core.generate import TokenMask, generate
from core.interfaces import Samples
from core.losses import token_logprobs
from core.nn.transformer import Transformer
from core.sampling import Sampling, choice_logits
from multimodal.fusion import PrefixFusion


class Captioner(nn.Module):
    """Picture features in, captions out. A `Policy` whose contexts are features_BPF.

    The language model reads [picture positions] [begin] [caption] and predicts the caption, from its first token to
    end-of-sequence. The prefix does not count towards `max_new_tokens`.

    Args:
        model: the language model.
        fusion: turns features into its prefix.
        bos_id: token that begins a caption; it is never predicted.
        eos_id: token that ends it.
        max_new_tokens: longest caption that is generated, end-of-sequence counted.
        bidirectional: the picture's positions and the begin token see one another in both directions; otherwise
            attention is causal throughout.
        temperature: divides the logits, in sampling and in scoring alike.
    """

    def __init__(
        self,
        model: Transformer,
        fusion: PrefixFusion,
        *,
        bos_id: int,
        eos_id: int,
        max_new_tokens: int = 32,
        bidirectional: bool = True,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if fusion.project.out_features != model.width:
            raise ValueError(f"the fusion is {fusion.project.out_features} wide, the model {model.width}")
        self.model = model
        self.fusion = fusion
        self.bos_id = bos_id
        self.eos_id = eos_id
        self.max_new_tokens = max_new_tokens
        self.bidirectional = bidirectional
        self.sampling = Sampling(temperature=temperature)

    def forward(self, features_BPF: Tensor, tokens_BT: Tensor) -> Tensor:
        """hidden_BTD that predict the token after each given one, the first being the begin token.

        Padding on the right needs no mask: attention is causal there, so it changes nothing before it.

        Args:
            features_BPF: encoded pictures.
            tokens_BT: int64; the begin token and the caption.
        """
        if len(features_BPF) != len(tokens_BT):
            raise ValueError(f"{len(features_BPF)} pictures for {len(tokens_BT)} captions: give one picture a caption")
        prefix_BPD = self.fusion(features_BPF)
        embedded_BTD = self.model.embed(tokens_BT)
        num_prefix = prefix_BPD.shape[1]
        prefix_B = None
        if self.bidirectional:
            prefix_B = torch.full((len(tokens_BT),), num_prefix + 1, device=tokens_BT.device)
        hidden_BSD = self.model(
            embeddings_BTD=torch.cat((prefix_BPD.to(embedded_BTD.dtype), embedded_BTD), dim=1), prefix_B=prefix_B
        )
        return hidden_BSD[:, num_prefix:]

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """logits_BTV of hidden states."""
        return self.model.logits(hidden_BTD)

    def sample(
        self,
        contexts: Tensor,
        *,
        num_samples: int = 1,
        token_mask: TokenMask | Tensor | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        greedy: bool = False,
        sampling: Sampling | None = None,
    ) -> Samples:
        """Captions drawn from the model, without gradient and without dropout.

        Args:
            contexts: features_BPF.
            num_samples: captions per picture; the result has picture 0's captions first.
            token_mask: see `core.generate.generate`.
            generator: source of randomness.
            greedy: take the most likely token each time.
            sampling: another way to choose tokens. `logprobs` scores under the captioner's own temperature only.
        """
        with self._evaluating():
            return generate(
                self.model, self._prompts(contexts), num_samples=num_samples, token_mask=token_mask,
                sampling=Sampling(temperature=0) if greedy else sampling or self.sampling, generator=generator,
                **self._decoding(contexts),
            )  # fmt: skip

    def beam(self, contexts: Tensor, *, beams: int, length_penalty: float = 1.0) -> Samples:
        """The most likely caption of each picture that a beam of `beams` finds; 1 is greedy.

        Args:
            contexts: features_BPF.
            beams: width of the beam.
            length_penalty: see `core.beam.beam_search`.
        """
        with self._evaluating():
            return beam_search(
                self.model, self._prompts(contexts), beams=beams, length_penalty=length_penalty,
                **self._decoding(contexts),
            )  # fmt: skip

    def hidden(self, contexts: Tensor, samples: Samples) -> Tensor:
        """hidden_BTD at the positions that predict each sampled token, with gradient.

        Args:
            contexts: features_BPF, one row per sample.
            samples: from `sample` or `beam`.
        """
        begin_B1 = torch.full((len(samples), 1), self.bos_id, device=samples.tokens_BT.device)
        tokens_BT = samples.tokens_BT.masked_fill(~samples.mask_BT, 0)
        # The last sampled token predicts nothing, so it is not read.
        return self(contexts, torch.cat((begin_B1, tokens_BT[:, :-1]), dim=1))

    def logprobs(self, contexts: Tensor, samples: Samples, *, allowed_BTV: Tensor | None = None) -> Tensor:
        """logprobs_BT of the samples with gradient; 0 where the mask is False.

        Dropout is on while the captioner is in training mode: switch to `eval()` for the probabilities sampled from.

        Args:
            contexts: features_BPF, one row per sample.
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
        return choice_logits(self.logits(hidden_BTD), self.sampling, allowed=allowed_BTV)

    def _prompts(self, contexts: Tensor) -> list[list[int]]:
        return [[self.bos_id]] * len(contexts)

    def _decoding(self, contexts: Tensor) -> dict[str, Any]:
        """What `generate` and `beam_search` need besides the model and the prompts."""
        return {
            "prefix_BPD": self.fusion(contexts),
            "bidirectional": self.bidirectional,
            "max_new_tokens": self.max_new_tokens,
            "eos_id": self.eos_id,
        }

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Evaluation mode without gradient; the modes of all parts are put back afterwards."""
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for module, training in modes:
                module.training = training
