"""The captioner: a language model that reads pictures, sounds and clips with its prompt.

Shape suffixes: B = rows, T = positions of a row, E = examples, L = target tokens, N = media of one kind, P = positions
of a medium, Q = embeddings of a medium, F = features of a position, D = model width, V = vocabulary.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from core.beam import beam_search
from core.generate import TokenMask, generate
from core.interfaces import Samples
from core.losses import token_logprobs
from core.nn.transformer import Transformer
from core.sampling import Sampling, choice_logits
from multimodal.adapters import Adapter
from multimodal.batch import CaptionBatch, Contexts, MediaBatch, caption_batch, places_of
from multimodal.encoders.encoder import Encoder
from multimodal.examples import KINDS, Kind

Placement = Literal["sequence", "memory", "shift"]
"""Where media enter: as positions of the sequence, as the memory of cross-attention, added to every embedding."""


class Captioner(nn.Module):
    """Prompts with media in, text out. A `Policy` whose contexts are `Contexts`.

    The language model reads [prompt with media] [begin] [answer] and predicts the answer, from its first token to
    end-of-sequence. The prompt does not count towards `max_new_tokens`.

    Args:
        model: the language model.
        adapters: by kind, from features to embeddings of the model's width.
        encoders: by kind, those that are trained too; of other kinds the batches hold features.
        placement: where media enter.
        eos_id: token that ends an answer.
        max_new_tokens: longest answer that is generated, end-of-sequence counted.
        bidirectional: the positions of a prompt see one another in both directions; otherwise attention is causal.
        temperature: divides the logits, in sampling and in scoring alike.
        ctc_weight: share of the CTC loss in training, and of its score in answering; see `multimodal.ctc`.
        blank_id: the token that stands for nothing in CTC; no answer may contain it.
    """

    def __init__(
        self,
        model: Transformer,
        adapters: Mapping[Kind, Adapter],
        encoders: Mapping[Kind, Encoder] | None = None,
        *,
        placement: Placement = "sequence",
        eos_id: int,
        max_new_tokens: int = 32,
        bidirectional: bool = True,
        temperature: float = 1.0,
        ctc_weight: float = 0.0,
        blank_id: int = 0,
    ) -> None:
        super().__init__()
        for kind, adapter in adapters.items():
            if adapter.project.out_features != model.width:
                raise ValueError(f"the {kind} adapter is {adapter.project.out_features} wide, the model {model.width}")
        if placement == "memory" and not model.config.cross_attention_every:
            raise ValueError("media as a memory need a model with cross-attention: set model.cross_attention_every")
        self.model = model
        self.adapters = nn.ModuleDict({str(kind): adapter for kind, adapter in adapters.items()})
        self.encoders = nn.ModuleDict({str(kind): encoder for kind, encoder in (encoders or {}).items()})
        self.placement = placement
        self.eos_id = eos_id
        self.max_new_tokens = max_new_tokens
        self.bidirectional = bidirectional
        self.sampling = Sampling(temperature=temperature)
        self.ctc_weight = ctc_weight
        self.blank_id = blank_id

    def forward(self, batch: CaptionBatch) -> Tensor:
        """hidden_ELD that predict each target of the examples."""
        if batch.documents_BT is not None:
            return self.read(batch).flatten(0, 1)[batch.reads_EL]
        # One example a row.
        num_rows, length = batch.tokens_BT.shape
        first_E1 = length * torch.arange(num_rows, device=batch.tokens_BT.device)[:, None]
        return self.read(batch, batch.reads_EL - first_E1)

    def read(self, batch: CaptionBatch, reads_BR: Tensor | None = None) -> Tensor:
        """hidden_BTD, media included; or hidden_BRD of some positions."""
        embedded = self._embed_media(batch.media)
        return self.model(
            embeddings_BTD=self._join(batch.tokens_BT, embedded, batch.media, batch.places),
            documents_BT=batch.documents_BT,
            prefix_BT=batch.prefix_BT,
            reads_BR=reads_BR,
            **self._beside(embedded, batch.media, len(batch.targets_EL)),
        )

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """logits_BTV of hidden states."""
        return self.model.logits(hidden_BTD)

    def num_embeddings(self, kind: Kind, num_positions: int) -> int:
        """Positions of the sequence that a medium with so many encoded positions takes."""
        adapter = self.adapters[kind]
        assert isinstance(adapter, Adapter)
        return adapter.num_embeddings(num_positions)

    @contextmanager
    def blanked(self) -> Iterator[None]:
        """Within the block the features of all media are 0: the control without media; see `multimodal.adapters`."""
        adapters = [adapter for adapter in self.adapters.values() if isinstance(adapter, Adapter)]
        for adapter in adapters:
            adapter.blanked = True
        try:
            yield
        finally:
            for adapter in adapters:
                adapter.blanked = False

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within the block: evaluation mode, without gradient. The modes of all parts are put back afterwards."""
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for module, training in modes:
                module.training = training

    def sample(
        self,
        contexts: Contexts,
        *,
        num_samples: int = 1,
        token_mask: TokenMask | Tensor | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        greedy: bool = False,
        sampling: Sampling | None = None,
        on_token: Callable[[list[int], list[int]], None] | None = None,
    ) -> Samples:
        """Answers drawn from the model, without gradient and without dropout.

        Args:
            contexts: the prompts.
            num_samples: answers per prompt; the result has prompt 0's first.
            token_mask: see `core.generate.generate`.
            generator: source of randomness.
            greedy: take the most likely token each time.
            sampling: another way to choose tokens. `logprobs` scores under the captioner's own temperature only.
            on_token: called after each step with the active rows and the token each one got.
        """
        with self.evaluating():
            return generate(
                self.model, contexts.prompts, num_samples=num_samples, token_mask=token_mask, on_token=on_token,
                sampling=Sampling(temperature=0) if greedy else sampling or self.sampling, generator=generator,
                **self._decoding(contexts),
            )  # fmt: skip

    def beam(self, contexts: Contexts, *, beams: int, length_penalty: float = 1.0) -> Samples:
        """The most likely answer to each prompt that a beam of `beams` finds; 1 is greedy.

        Args:
            contexts: the prompts.
            beams: width of the beam.
            length_penalty: see `core.beam.beam_search`.
        """
        with self.evaluating():
            return beam_search(
                self.model, contexts.prompts, beams=beams, length_penalty=length_penalty, **self._decoding(contexts)
            )

    def hidden(self, contexts: Contexts, samples: Samples) -> Tensor:
        """hidden_BTD at the positions that predict each sampled token, with gradient.

        Args:
            contexts: one prompt per sample.
            samples: from `sample` or `beam`.
        """
        if len(contexts) != len(samples):
            raise ValueError(f"{len(contexts)} prompts for {len(samples)} samples: give one prompt a sample")
        batch = caption_batch(
            contexts.prompts, samples.lists(), contexts.media, bidirectional=self.bidirectional,
            target_length=samples.tokens_BT.shape[1],
        )  # fmt: skip
        return self(batch.to(samples.tokens_BT.device))

    def logprobs(self, contexts: Contexts, samples: Samples, *, allowed_BTV: Tensor | None = None) -> Tensor:
        """logprobs_BT of the samples with gradient; 0 where the mask is False.

        Dropout is on while the captioner is in training mode: switch to `eval()` for the probabilities sampled from.

        Args:
            contexts: one prompt per sample.
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

    def _embed_media(self, media: Mapping[Kind, MediaBatch]) -> dict[Kind, tuple[Tensor, Tensor]]:
        """embedded_NQD and mask_NQ by kind."""
        embedded = {}
        for kind, batch in media.items():
            if kind not in self.adapters:
                raise ValueError(
                    f"this captioner was not made for media of kind {kind}: it reads {list(self.adapters)}"
                )
            if kind in self.encoders:
                features, mask = self.encoders[kind](batch.inputs_NI, batch.lengths_N)
            else:
                features, lengths = batch.inputs_NI, batch.lengths_N.to(batch.inputs_NI.device)
                mask = torch.arange(features.shape[1], device=features.device) < lengths[:, None]
            embedded[kind] = self.adapters[kind](features, mask)
        return embedded

    def _join(
        self,
        tokens_BT: Tensor,
        embedded: Mapping[Kind, tuple[Tensor, Tensor]],
        media: Mapping[Kind, MediaBatch],
        places: Mapping[Kind, Tensor],
    ) -> Tensor:
        """embeddings_BTD of prompts: those of tokens, and of media where they stand."""
        x_BTD = self.model.embed(tokens_BT.clamp(min=0))
        shape = x_BTD.shape
        for kind, place_M in places.items():
            embedded_MD = embedded[kind][0].flatten(0, 1)[media[kind].sources_M]
            if len(embedded_MD) != len(place_M):
                raise ValueError(
                    f"the prompts have {len(place_M)} positions for {kind}s, the {kind}s give {len(embedded_MD)}: "
                    "a prompt was cut, or goes with other media"
                )
            x_BTD = x_BTD.flatten(0, 1).index_copy(0, place_M, embedded_MD.to(x_BTD.dtype)).view(shape)
        return x_BTD

    def _beside(
        self, embedded: Mapping[Kind, tuple[Tensor, Tensor]], media: Mapping[Kind, MediaBatch], num_rows: int
    ) -> dict[str, Tensor]:
        """What the model gets of the media outside the sequence, one row an example."""
        if self.placement == "sequence" or not embedded:
            return {}
        if self.placement == "shift":
            shift_BD: Tensor | None = None
            for kind, (x_NQD, _) in embedded.items():
                rows_N = media[kind].rows_N
                # Of several media of a kind, the mean. The sum over kinds is one projection of their concatenation.
                own_BD = x_NQD.new_zeros(num_rows, x_NQD.shape[2]).index_add(0, rows_N, x_NQD[:, 0])
                counts_B = x_NQD.new_zeros(num_rows).index_add(0, rows_N, torch.ones_like(x_NQD[:, 0, 0]))
                own_BD = own_BD / counts_B.clamp(min=1)[:, None]
                shift_BD = own_BD if shift_BD is None else shift_BD + own_BD
            assert shift_BD is not None
            return {"shift_BD": shift_BD}
        return self._memory(embedded, media, num_rows)

    def _memory(
        self, embedded: Mapping[Kind, tuple[Tensor, Tensor]], media: Mapping[Kind, MediaBatch], num_rows: int
    ) -> dict[str, Tensor]:
        """memory_BMD and its mask: the embeddings of each row's media behind one another."""
        flat, owners = [], []
        for kind in KINDS:
            if kind in embedded:
                x_NQD, mask_NQ = embedded[kind]
                flat.append(x_NQD.flatten(0, 1)[media[kind].sources_M])
                owners.append(media[kind].rows_N[:, None].expand(mask_NQ.shape)[mask_NQ])
        joined_MD, owner_M = torch.cat(flat), torch.cat(owners)
        order = torch.argsort(owner_M, stable=True)
        joined_MD, owner_M = joined_MD[order], owner_M[order]
        counts_B = torch.bincount(owner_M, minlength=num_rows)
        first_B = counts_B.cumsum(0) - counts_B
        slot_M = torch.arange(len(owner_M), device=owner_M.device) - first_B[owner_M]
        size = int(counts_B.max())
        memory = joined_MD.new_zeros(num_rows * size, joined_MD.shape[1])
        memory = memory.index_copy(0, owner_M * size + slot_M, joined_MD).view(num_rows, size, -1)
        mask = torch.arange(size, device=owner_M.device) < counts_B[:, None]
        # A row without media sees one zero vector: without any key its attention would be NaN.
        mask[:, 0] = True
        return {"memory_BMD": memory, "memory_mask_BM": mask}

    def _decoding(self, contexts: Contexts) -> dict[str, Any]:
        """What `generate` and `beam_search` need besides the model and the prompts."""
        embedded = self._embed_media(contexts.media)

        def embed(tokens_BT: Tensor) -> Tensor:
            places = {kind: places_of(tokens_BT, kind) for kind in embedded} if self.placement == "sequence" else {}
            return self._join(tokens_BT, embedded, contexts.media, places)

        return {
            "embed": embed,
            "bidirectional": self.bidirectional,
            "max_new_tokens": self.max_new_tokens,
            "eos_id": self.eos_id,
            **self._beside(embedded, contexts.media, len(contexts)),
        }
