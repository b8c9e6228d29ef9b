"""The contrastive losses of CLIP and SigLIP, in which pairs that say the same are not compared.

Shape suffixes: N = pairs of a medium and a text, V = numbers of a vector.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from core.training import distributed


def contrastive_loss(
    media_NV: Tensor,
    texts_NV: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    *,
    kind: Literal["clip", "siglip"],
    same_NN: Tensor | None = None,
) -> Tensor:
    """Loss of a batch in which row n of the media belongs to row n of the texts.

        clip:    (CE(scale M T', diagonal) + CE(scale T M', diagonal)) / 2, means over the batch
        siglip:  -1/N sum over n, m of log sigmoid(z (scale M T' + bias)), z = 1 on the diagonal, -1 elsewhere

    It is open_clip's. Where `same_NN` says so, the logit of a wrong pair is -inf: with the softmax it is no
    alternative, with the sigmoid its term is 0. Otherwise a caption that two pictures of a batch share would be pushed
    away from each of them.

    Args:
        media_NV: unit vectors, float32.
        texts_NV: unit vectors, float32.
        scale: factor of the products (not its logarithm).
        bias: addend, or None.
        kind: which loss.
        same_NN: bool; True = medium n and text m (n != m) are not compared; the diagonal does not matter.

    Returns:
        The scalar loss.

    References:
        Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", arXiv:2103.00020.
        Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training", arXiv:2303.15343.
    """
    if media_NV.shape != texts_NV.shape or media_NV.ndim != 2:
        raise ValueError(
            f"media and texts must both be (N, V), one text per medium, got {tuple(media_NV.shape)} and "
            f"{tuple(texts_NV.shape)}"
        )
    from open_clip.loss import ClipLoss, SigLipLoss

    loss: Any = ClipLoss() if kind == "clip" else SigLipLoss()
    if same_NN is not None:
        loss.get_logits = _masking(loss.get_logits, same_NN)
    return loss(media_NV, texts_NV, scale, bias)


def equal_pairs(media_N: Tensor, texts_N: Tensor) -> Tensor:
    """same_NN, bool: pairs n and m share their medium or their text, given the numbers of these."""
    return (media_N[:, None] == media_N) | (texts_N[:, None] == texts_N)


def gathered(media_NV: Tensor, texts_NV: Tensor, numbers_2N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The vectors and numbers of all processes, in the order of their rank; with one process, what was given.

    The gradient goes back to every process. Each computes the loss of the whole batch, so that after averaging the
    gradients over the processes they are those of one process with all of it.
    """
    if not distributed.active():
        return media_NV, texts_NV, numbers_2N
    from open_clip.loss import gather_features

    media_NV, texts_NV = gather_features(
        media_NV, texts_NV, gather_with_grad=True, rank=distributed.rank(), world_size=distributed.world()
    )
    parts = [torch.empty_like(numbers_2N) for _ in range(distributed.world())]
    torch.distributed.all_gather(parts, numbers_2N.contiguous())
    return media_NV, texts_NV, torch.cat(parts, dim=1)


def _masking(get_logits: Callable[..., Any], same_NN: Tensor) -> Callable[..., Any]:
    """A loss's method that gives its logits (CLIP's: by medium, and by text), with those of wrong equal pairs -inf."""
    hidden_NN = same_NN & ~torch.eye(len(same_NN), dtype=torch.bool, device=same_NN.device)

    def masked(*arguments: Any, **options: Any) -> Any:
        logits = get_logits(*arguments, **options)
        if isinstance(logits, tuple):
            by_medium_NN, by_text_NN = logits
            return by_medium_NN.masked_fill(hidden_NN, -torch.inf), by_text_NN.masked_fill(hidden_NN.T, -torch.inf)
        return logits.masked_fill(hidden_NN, -torch.inf)

    return masked
