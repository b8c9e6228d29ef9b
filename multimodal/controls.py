"""Examples that show less: controls without which a good score means little.

A model that uses its media must fall when these are exchanged or taken away; one that uses their time must fall when
only one frame is left, or the order is gone.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from multimodal.config import MediaChange
from multimodal.examples import Example, Kind, Medium
from multimodal.media.transforms import first_frame, last_frame, reversed_in_time, shuffled_frames

_CHANGED: Mapping[MediaChange, tuple[Kind, ...]] = {
    "first_frame": ("video",),
    "last_frame": ("video",),
    "shuffled_frames": ("video",),
    "reversed": ("audio", "video"),
}
NAMES: Mapping[MediaChange, str] = {
    "first_frame": "first frame only",
    "last_frame": "last frame only",
    "shuffled_frames": "shuffled frames",
    "reversed": "reversed in time",
}
"""How reports call a change."""


def changed(example: Example, change: MediaChange, looked_at: Callable[[int], list[int]] | None = None) -> Example:
    """An example whose clips (and, for `reversed`, sounds) are changed; its pictures stay.

    Frames are shuffled in an order of the example's own, so that no model can learn to undo it.

    Args:
        example: to change.
        change: what is done.
        looked_at: of `shuffled_frames`; see there.
    """
    if change == "none":
        return example
    seed = int.from_bytes(hashlib.sha256(f"{example.key}/{example.targets[0]}".encode()).digest()[:4], "big")
    functions: dict[MediaChange, Callable[[Medium], Medium]] = {
        "first_frame": first_frame,
        "last_frame": last_frame,
        "shuffled_frames": shuffled_frames(seed, looked_at),
        "reversed": reversed_in_time,
    }
    change_medium = functions[change]
    kinds = _CHANGED[change]
    prompt = tuple(
        change_medium(part) if isinstance(part, Medium) and part.kind in kinds else part for part in example.prompt
    )
    return replace(example, prompt=prompt)


def changes_for(kinds: Sequence[Kind]) -> list[MediaChange]:
    """The changes that touch any of these kinds."""
    return [change for change, touched in _CHANGED.items() if set(touched) & set(kinds)]


def shuffled_media(examples: Sequence[Example], seed: int) -> list[Example]:
    """Each example with other media, of an example whose prompt has as many of the same kinds; its text stays.

    An example keeps its own where there are no others.
    """
    groups: dict[tuple[Kind, ...], list[int]] = {}
    for index, example in enumerate(examples):
        groups.setdefault(tuple(medium.kind for medium in example.media), []).append(index)
    exchanged = list(examples)
    generator = torch.Generator().manual_seed(seed)
    for members in groups.values():
        order = [members[place] for place in torch.randperm(len(members), generator=generator).tolist()]
        for place, index in enumerate(order):
            own = [medium.identity for medium in examples[index].media]
            # Several questions may share a picture, so the next example need not have another one.
            others = (examples[source].media for source in order[place + 1 :] + order[:place])
            media = iter(next((m for m in others if [one.identity for one in m] != own), examples[index].media))
            prompt = tuple(next(media) if isinstance(part, Medium) else part for part in examples[index].prompt)
            exchanged[index] = replace(examples[index], prompt=prompt)
    return exchanged
