"""Scores of generated captions beside the floors and controls without which they mean little.

Shape suffixes: N = pictures, P = positions of a picture, F = features of a position.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from core.training.runtime import Runtime
from multimodal.captioner import Captioner
from multimodal.floors import most_common_caption, nearest_captions
from multimodal.metrics import CaptionScores, caption_scores

SHOWN = ("exact_match", "bleu_4", "cider_d", "rouge_l", "bleu_1", "bleu_2", "bleu_3")
"""The scores in the order in which tables show them."""


def generate_captions(
    captioner: Captioner,
    features_NPF: Tensor,
    decode: Callable[[Sequence[int]], str],
    runtime: Runtime,
    *,
    beams: int = 1,
    batch_size: int = 128,
) -> list[str]:
    """The captioner's own caption for every picture.

    Args:
        captioner: the model.
        features_NPF: encoded pictures.
        decode: token ids to text, special tokens left out.
        runtime: device and precision.
        beams: width of the beam; 1 is greedy.
        batch_size: pictures at a time.
    """
    captions: list[str] = []
    for part_BPF in features_NPF.split(batch_size):
        contexts = part_BPF.to(runtime.device)
        with runtime.autocast():
            samples = captioner.sample(contexts, greedy=True) if beams == 1 else captioner.beam(contexts, beams=beams)
        captions += [decode(ids) for ids in samples.lists()]
    return captions


class CaptionEvaluation:
    """Held-out pictures, their references, and what the model says of them.

    Args:
        generate: features_NPF to captions.
        features_NPF: the held-out pictures.
        references: the references of each.
        blank: number of pictures to the features of "no picture".
        seed: of the shuffled pictures and the confidence intervals.
    """

    def __init__(
        self,
        generate: Callable[[Tensor], list[str]],
        features_NPF: Tensor,
        references: Sequence[Sequence[str]],
        *,
        blank: Callable[[int], Tensor],
        seed: int = 0,
    ) -> None:
        self.generate = generate
        self.features_NPF = features_NPF
        self.references = references
        self.blank = blank
        self.seed = seed
        self.captions: list[str] = []
        """What the model said when it was scored last."""
        self._scores: CaptionScores | None = None

    def score(self) -> Mapping[str, float]:
        """Scores of the model as it is."""
        self.captions = self.generate(self.features_NPF)
        self._scores = self._score(self.captions)
        return {name: self._scores.corpus[name] for name in SHOWN}

    @property
    def signature(self) -> str:
        """All choices that change the numbers."""
        return self._scores.signature if self._scores else ""

    def rows(self, train_NPF: Tensor, train_captions: Sequence[str]) -> list[dict[str, Any]]:
        """The model, its controls and the floors with confidence intervals, as rows of `eval.json`.

        Controls: no picture (the average one), and every picture exchanged for another; a model that looks must fall.
        Floors: the most common caption, and that of the nearest training picture. Last, the references themselves.

        Args:
            train_NPF: the training pictures.
            train_captions: one caption of each.
        """
        count = len(self.features_NPF)
        if self._scores is None:
            self.score()
        assert self._scores is not None
        nearest = nearest_captions(_flat(train_NPF), _flat(self.features_NPF), train_captions, cosine=True)
        said = {
            "no picture": self.generate(self.blank(1)) * count,
            "shuffled pictures": self._shuffled(),
            "most common caption": [most_common_caption(train_captions)] * count,
            "nearest picture's caption": nearest,
            "the references themselves": [own[0] for own in self.references],
        }
        scored = {"model": self._scores, **{name: self._score(captions) for name, captions in said.items()}}
        return [{"name": name, **_with_intervals(scores)} for name, scores in scored.items()]

    def _shuffled(self) -> list[str]:
        """What the model says when each picture is exchanged for that of another item; the captions just move."""
        order = torch.randperm(len(self.references), generator=torch.Generator().manual_seed(self.seed)).tolist()
        moved = [""] * len(order)
        for place, source in zip(order, order[1:] + order[:1]):
            moved[place] = self.captions[source]
        return moved

    def _score(self, captions: Sequence[str]) -> CaptionScores:
        return caption_scores(captions, self.references, seed=self.seed)


def _with_intervals(scores: CaptionScores) -> dict[str, dict[str, float]]:
    return {name: {key: getattr(scores.intervals[name], key) for key in ("value", "low", "high")} for name in SHOWN}


def _flat(features_NPF: Tensor) -> Tensor:
    """One vector a picture: the mean over its positions."""
    return features_NPF.mean(1, dtype=torch.float32)
