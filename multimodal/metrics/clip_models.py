"""Features for CLIPScore: by an open_clip model of your choice, or by a retrieval run of ours.

Shape suffixes: N = captions or pictures, V = numbers of a vector.

A run's towers have seen the captions of one data set only; their score tells apart what that data set tells apart.
Scores by different models cannot be compared, which is why the signature names the model.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from core.errors import UserError
from multimodal.examples import Medium
from multimodal.media.image import load_image
from multimodal.metrics.clipscore import ClipScores, Definition, clip_scores

Item = TypeVar("Item")

HESSEL_PROMPT = "A photo depicts "
"""What Hessel et al. put before every caption."""
BATCH = 32


@dataclass(frozen=True)
class ClipModel:
    """A model that gives texts and pictures vectors of one space."""

    name: str
    """With the identity of its weights; part of a score's signature."""
    texts: Callable[[Sequence[str]], Tensor]
    """Texts to (N, V)."""
    pictures: Callable[[Sequence[Path]], Tensor]
    """Picture files to (N, V). Raises `MediaError` for a damaged one."""


def load_clip_model(model: str | Path, *, device: str = "cpu") -> ClipModel:
    """A model by name.

    Args:
        model: `open_clip:NAME:WEIGHTS`, where the weights are a file or a tag of open_clip (fetched from its hub); or
            the folder of a retrieval run.
        device: where to compute.

    Raises:
        UserError: open_clip has no such model or tag, or the weights cannot be had.
        RunError: not a retrieval run.
    """
    if str(model).startswith("open_clip:"):
        _, name, *weights = str(model).split(":", 2)
        if not weights:
            raise UserError(f"{model} names no weights: write open_clip:{name}:FILE, or a tag in place of FILE")
        return _open_clip(name, weights[0], torch.device(device))
    from multimodal.retrieval.retriever import Retriever

    retriever = Retriever.load(model, device=device)

    def pictures(files: Sequence[Path]) -> Tensor:
        vectors_NV, _, bad = retriever.media([Medium("image", file) for file in files])
        if bad:
            raise bad[0]
        return vectors_NV

    return ClipModel(f"run {Path(model).name} {retriever.name.split()[0]}", retriever.texts, pictures)


def model_clip_scores(
    model: ClipModel,
    captions: Sequence[str],
    pictures: Sequence[Path],
    references: Sequence[Sequence[str]] | None = None,
    *,
    prompt: str = "",
    definition: Definition = "hessel",
    seed: int = 0,
) -> ClipScores:
    """CLIPScore of one caption per picture, and with references RefCLIPScore, by a model.

    Args:
        model: from `load_clip_model`.
        captions: one per picture.
        pictures: files.
        references: for each caption one or more.
        prompt: put before captions and references; `HESSEL_PROMPT` is that of the paper.
        definition: see `multimodal.metrics.clipscore.clip_scores`.
        seed: of the bootstrap.

    Returns:
        Scores whose signature names model and prompt.

    Raises:
        ValueError: as `clip_scores`.
        MediaError: a picture cannot be used.

    References:
        Hessel et al. 2021, "CLIPScore: A Reference-free Evaluation Metric for Image Captioning", arXiv:2104.08718.
    """
    if len(captions) != len(pictures) or not captions:
        raise ValueError(f"{len(captions)} captions and {len(pictures)} pictures: give one caption per picture")
    own = None
    if references is not None:
        flat = model.texts([prompt + text for texts in references for text in texts])
        own = list(flat.split([len(texts) for texts in references]))
    scores = clip_scores(
        model.texts([prompt + text for text in captions]),
        model.pictures(pictures),
        own,
        definition=definition,
        seed=seed,
    )
    return dataclasses.replace(scores, signature=f"{scores.signature}|model:{model.name}|prompt:{prompt!r}")


def _open_clip(name: str, weights: str, device: torch.device) -> ClipModel:
    import open_clip

    if name not in open_clip.list_models():
        raise UserError(f"open_clip has no model {name!r}: see open_clip.list_models()")
    tags = open_clip.list_pretrained_tags_by_model(name)
    file = Path(weights)
    if not file.is_file() and weights not in tags:
        raise UserError(f"{weights!r} is neither a file nor a tag of {name}; its tags: {', '.join(tags) or 'none'}")
    try:
        network, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=weights, device=device)
    except Exception as error:
        # A hub that cannot be reached, a damaged or a foreign file: the library raises what it likes.
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the weights {weights} of open_clip's {name} cannot be had ({reason}): give a file") from error
    network.eval()
    tokenize = open_clip.get_tokenizer(name)
    identity = hashlib.sha256(file.read_bytes()).hexdigest()[:12] if file.is_file() else weights

    @torch.no_grad()
    def texts(given: Sequence[str]) -> Tensor:
        parts = [network.encode_text(tokenize(list(part)).to(device)).float().cpu() for part in _parts(given)]
        return torch.cat(parts)

    @torch.no_grad()
    def pictures(files: Sequence[Path]) -> Tensor:
        parts = []
        for part in _parts(files):
            images = [Image.fromarray(load_image(one).permute(1, 2, 0).numpy()) for one in part]
            batch = torch.stack([preprocess(image) for image in images])
            parts.append(network.encode_image(batch.to(device)).float().cpu())
        return torch.cat(parts)

    return ClipModel(f"open_clip {name} {identity}", texts, pictures)


def _parts(items: Sequence[Item]) -> list[Sequence[Item]]:
    return [items[start : start + BATCH] for start in range(0, len(items), BATCH)]
