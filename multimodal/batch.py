"""Prompts with media as padded batches.

A prompt is a list of token ids in which a position of a medium is a negative id, one per kind. Media of a kind come in
reading order, so that the k-th such position belongs to the k-th embedding of that kind.

Shape suffixes: B = rows, T = positions of a row, E = examples, L = target tokens, N = media of one kind, I = input
steps of a medium, M = embeddings of all media of one kind.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor

from multimodal.encoders.encoder import pad_inputs
from multimodal.examples import KINDS, Kind

PLACEHOLDERS: Mapping[Kind, int] = {kind: -1 - index for index, kind in enumerate(KINDS)}
"""The id that stands for one embedding of a medium of each kind."""


@dataclass(frozen=True)
class MediaBatch:
    """All media of one kind in a batch, in reading order."""

    inputs_NI: Tensor
    """What the encoder takes, or for a frozen one its features; padded with 0; further dimensions follow."""
    lengths_N: Tensor
    """int64 on the CPU; steps (or positions of features) of each."""
    rows_N: Tensor
    """int64; which example each belongs to."""
    sources_M: Tensor
    """int64; where the real embeddings are among the N * Q of the adapter's output."""


@dataclass(frozen=True)
class Prompt:
    """What is read before the answer: ids ending in the begin token, and the media that they mention."""

    ids: list[int]
    media: tuple[tuple[Kind, int], ...] = ()
    """Kind and index in the store of each medium, in reading order."""


@dataclass(frozen=True)
class Contexts:
    """Prompts to answer: what a captioner as a `Policy` takes."""

    prompts: list[list[int]]
    media: dict[Kind, MediaBatch]

    def __len__(self) -> int:
        return len(self.prompts)

    def to(self, device: torch.device) -> "Contexts":
        """The media on a device."""
        return Contexts(self.prompts, _moved(self.media, device))


@dataclass(frozen=True)
class CaptionBatch:
    """Prompts with their answers, to learn."""

    tokens_BT: Tensor
    """int64; negative where a medium stands; 0 where a row is padded."""
    documents_BT: Tensor | None
    """int64; which example a position belongs to, in packed rows; None when every row is one example."""
    prefix_BT: Tensor | None
    """bool; True = part of a prompt; None for causal attention."""
    reads_EL: Tensor
    """int64; the position, among all B * T, whose hidden state predicts each target."""
    targets_EL: Tensor
    """int64; the answer and its end-of-sequence."""
    mask_EL: Tensor
    """bool; True = a real target. Only these are supervised."""
    media: dict[Kind, MediaBatch]
    places: dict[Kind, Tensor]
    """int64 M; the positions, among all B * T, of each kind's embeddings."""

    def to(self, device: torch.device) -> "CaptionBatch":
        """The batch on a device."""
        moved = {
            name: value.to(device, non_blocking=True) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        places = {kind: place.to(device) for kind, place in self.places.items()}
        return replace(self, **moved, media=_moved(self.media, device), places=places)


def media_batches(
    prompts: Sequence[Prompt], inputs: Mapping[Kind, Sequence[Tensor]], num_embeddings: Callable[[Kind, int], int]
) -> dict[Kind, MediaBatch]:
    """The media of prompts.

    Args:
        prompts: the examples.
        inputs: by kind, the stored input of every medium.
        num_embeddings: kind and index of a medium to the embeddings that it becomes.
    """
    batches: dict[Kind, MediaBatch] = {}
    for kind in KINDS:
        found = [(row, index) for row, prompt in enumerate(prompts) for own, index in prompt.media if own == kind]
        if not found:
            continue
        padded, lengths_N = pad_inputs([inputs[kind][index] for _, index in found])
        counts = torch.tensor([num_embeddings(kind, index) for _, index in found])
        real_NQ = torch.arange(int(counts.max())) < counts[:, None]
        batches[kind] = MediaBatch(
            padded, lengths_N, torch.tensor([row for row, _ in found]), real_NQ.flatten().nonzero().squeeze(1)
        )
    return batches


def caption_batch(
    prompts: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    media: dict[Kind, MediaBatch],
    *,
    bidirectional: bool = True,
    pack_to: int | None = None,
    length: int | None = None,
    target_length: int | None = None,
) -> CaptionBatch:
    """Lay out prompts and answers.

    Args:
        prompts: ids of each, ending in the begin token.
        targets: ids of each answer, end-of-sequence included.
        media: of the prompts.
        bidirectional: the positions of a prompt see one another in both directions.
        pack_to: put examples behind one another in rows of at most this length.
        length: T; the longest row when absent.
        target_length: L; the longest answer when absent.

    Raises:
        ValueError: an example does not fit.
    """
    # The last target is predicted, never read.
    rows = [[*prompt, *target[:-1]] for prompt, target in zip(prompts, targets, strict=True)]
    longest = max(len(row) for row in rows)
    if pack_to is not None and longest > pack_to:
        raise ValueError(f"an example of {longest} positions does not fit into rows of {pack_to}: raise pack_to")
    bins = [[index] for index in range(len(rows))] if pack_to is None else _packed([len(row) for row in rows], pack_to)
    needed = max(sum(len(rows[index]) for index in members) for members in bins)
    num_positions = needed if length is None else length
    if needed > num_positions:
        raise ValueError(f"a row of {needed} positions does not fit into {num_positions}: raise length")
    # Where each example begins among all B * T positions.
    starts = [0] * len(rows)
    for number, members in enumerate(bins):
        start = number * num_positions
        for index in members:
            starts[index] = start
            start += len(rows[index])
    starts_E, lengths_E, prompts_E, answers_E = (
        torch.tensor(numbers)
        for numbers in (starts, *([len(one) for one in many] for many in (rows, prompts, targets)))
    )
    # X = the positions of all examples, one after another.
    example_X = torch.arange(len(rows)).repeat_interleave(lengths_E)
    step_X = torch.arange(len(example_X)) - (lengths_E.cumsum(0) - lengths_E)[example_X]
    place_X = starts_E[example_X] + step_X
    tokens_BT = torch.zeros(len(bins), num_positions, dtype=torch.long)
    documents_BT = torch.full_like(tokens_BT, -1)
    prefix_BT = torch.zeros_like(tokens_BT, dtype=torch.bool)
    tokens_BT.view(-1)[place_X] = torch.tensor(list(chain.from_iterable(rows)))
    documents_BT.view(-1)[place_X] = example_X
    prefix_BT.view(-1)[place_X] = step_X < prompts_E[example_X]
    longest_target = max(len(target) for target in targets) if target_length is None else target_length
    steps_L = torch.arange(longest_target)
    mask_EL = steps_L < answers_E[:, None]
    targets_EL = torch.zeros(len(targets), longest_target, dtype=torch.long)
    targets_EL[mask_EL] = torch.tensor(list(chain.from_iterable(targets)))
    first_E1 = (starts_E + prompts_E - 1)[:, None]
    return CaptionBatch(
        tokens_BT=tokens_BT,
        documents_BT=None if pack_to is None else documents_BT,
        prefix_BT=prefix_BT if bidirectional else None,
        reads_EL=torch.where(mask_EL, first_E1 + steps_L, first_E1),
        targets_EL=targets_EL,
        mask_EL=mask_EL,
        media=media,
        places=_places(tokens_BT, documents_BT, pack_to is not None),
    )


def places_of(tokens_BT: Tensor, kind: Kind) -> Tensor:
    """int64 M: the positions of a kind's embeddings, row by row."""
    return (tokens_BT == PLACEHOLDERS[kind]).flatten().nonzero().squeeze(1)


def _places(tokens_BT: Tensor, documents_BT: Tensor, packed: bool) -> dict[Kind, Tensor]:
    """As `places_of`, in the order of the examples, which packed rows do not keep."""
    found = {kind: places_of(tokens_BT, kind) for kind in KINDS}
    if packed:
        document = documents_BT.flatten()
        found = {kind: place[torch.argsort(document[place], stable=True)] for kind, place in found.items()}
    return {kind: place for kind, place in found.items() if len(place)}


def _packed(lengths: Sequence[int], size: int) -> list[list[int]]:
    """First fit, longest first: which examples share a row."""
    bins: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        for number, free in enumerate(room):
            if lengths[index] <= free:
                bins[number].append(index)
                room[number] -= lengths[index]
                break
        else:
            bins.append([index])
            room.append(size - lengths[index])
    return bins


def _moved(media: dict[Kind, MediaBatch], device: torch.device) -> dict[Kind, MediaBatch]:
    return {
        kind: replace(
            batch,
            inputs_NI=batch.inputs_NI.to(device, non_blocking=True),
            rows_N=batch.rows_N.to(device),
            sources_M=batch.sources_M.to(device),
        )
        for kind, batch in media.items()
    }
