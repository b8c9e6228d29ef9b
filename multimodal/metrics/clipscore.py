"""CLIPScore: how well captions fit their pictures by the angle of CLIP features, by either of two definitions.

Shape suffixes: N = captions, F = features, P = references of all captions one after the other.

The features come from a CLIP model of your choice (`open_clip` is installed). Scores of different models, or of
captions with and without a prompt before them ("A photo depicts" in Hessel et al.), cannot be compared.

References:
    Hessel et al. 2021, "CLIPScore: A Reference-free Evaluation Metric for Image Captioning", arXiv:2104.08718.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from core.metrics.bootstrap import BootstrapSettings, bootstrap_mean
from multimodal.metrics.scores import Scores

Definition = Literal["hessel", "torchmetrics"]

_REVISION = 1
_WEIGHTS: dict[Definition, float] = {"hessel": 2.5, "torchmetrics": 100.0}


@dataclass(frozen=True, kw_only=True)
class ClipScores(Scores):
    """Scores of a list of captions; the keys are clip_score and, with references, ref_clip_score."""

    definition: Definition
    """`hessel`: 2.5 max(cos, 0), as published; `torchmetrics`: 100 max(cos, 0), as that library computes it."""


def clip_scores(
    captions_NF: Tensor,
    pictures_NF: Tensor,
    references: Sequence[Tensor] | None = None,
    *,
    definition: Definition = "hessel",
    level: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> ClipScores:
    """Score one caption per picture.

        CLIPScore    = w max(cos(caption, picture), 0)          w = 2.5, or 100 as torchmetrics has it
        RefCLIPScore = harmonic mean of CLIPScore and max over references of max(cos(caption, reference), 0)

    Args:
        captions_NF: text features of the captions, of any length.
        pictures_NF: picture features by the same model.
        references: for each caption the text features of its references, (1 or more, F); only with `hessel`.
        definition: which CLIPScore.
        level: of the confidence intervals.
        num_resamples: bootstrap resamples of the captions.
        seed: of the bootstrap.

    Raises:
        ValueError: for shapes that do not fit, features without a direction (zeros, or not finite), an unknown
            definition, or references where the definition has none.
    """
    if definition not in _WEIGHTS:
        raise ValueError(f"definition must be {' or '.join(_WEIGHTS)}, got {definition!r}")
    if captions_NF.ndim != 2 or captions_NF.shape != pictures_NF.shape or not len(captions_NF):
        raise ValueError(
            "captions and pictures must both be (N, F), one picture per caption, got "
            f"{tuple(captions_NF.shape)} and {tuple(pictures_NF.shape)}"
        )
    captions_NF = _directed(captions_NF, "captions")
    agreement_N = cosine_similarity(captions_NF, _directed(pictures_NF, "pictures")).clamp(min=0)
    per_item = {"clip_score": _WEIGHTS[definition] * agreement_N}
    if references is not None:
        if definition != "hessel":
            raise ValueError(
                "RefCLIPScore is defined by Hessel et al. only: pass definition='hessel', or no references"
            )
        closeness_N = _best_reference(captions_NF, references)
        total_N = per_item["clip_score"] + closeness_N
        # Where both are 0, so is their harmonic mean.
        product_N = 2 * per_item["clip_score"] * closeness_N
        per_item["ref_clip_score"] = torch.where(total_N > 0, product_N / total_N, torch.zeros_like(total_N))
    arrays = {name: values_N.cpu().numpy() for name, values_N in per_item.items()}
    settings: BootstrapSettings = {"level": level, "num_resamples": num_resamples, "seed": seed}
    return ClipScores(
        per_item=arrays,
        intervals={name: bootstrap_mean(values_N, **settings) for name, values_N in arrays.items()},
        definition=definition,
        signature=(
            f"clipscore:{definition}|{_WEIGHTS[definition]:g} max(cos, 0)|features:{captions_NF.shape[1]}"
            f"|rev:{_REVISION}"
        ),
    )


def _best_reference(captions_NF: Tensor, references: Sequence[Tensor]) -> Tensor:
    """The highest cosine of each caption and its references, 0 at least."""
    num_captions, width = captions_NF.shape
    if len(references) != num_captions:
        raise ValueError(f"{num_captions} captions but references for {len(references)}")
    for index, own in enumerate(references):
        if own.ndim != 2 or not len(own) or own.shape[1] != width:
            raise ValueError(f"references of caption {index} must be (1 or more, {width}), got {tuple(own.shape)}")
    references_PF = _directed(torch.cat([own.to(captions_NF.device) for own in references]), "references")
    numbers = torch.tensor([len(own) for own in references], device=captions_NF.device)
    owners_P = torch.arange(num_captions, device=captions_NF.device).repeat_interleave(numbers)
    cosines_P = cosine_similarity(captions_NF[owners_P], references_PF)
    return torch.zeros_like(captions_NF[:, 0]).scatter_reduce(0, owners_P, cosines_P, "amax")


def _directed(features_PF: Tensor, what: str) -> Tensor:
    """The features as double precision, after a look at whether each has a direction."""
    features_PF = features_PF.detach().double()
    lengths_P = features_PF.norm(dim=1)
    if not bool(((lengths_P > 0) & lengths_P.isfinite()).all()):
        raise ValueError(f"features of the {what} have rows of zeros or non-finite numbers, which have no cosine")
    return features_PF
