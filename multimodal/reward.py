"""Rewards for captions: what self-critical training maximises.

Shape suffix: B = samples.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from core.interfaces import Samples
from multimodal.metrics.captions import CiderD, caption_words

END = "<end>"
"""The word that stands for end-of-sequence when captions are compared."""
BAD_ENDINGS = frozenset("a an the in on of with and at by for from to or is are as it its her his their".split())
"""Words that no caption should end with."""


class CiderReward:
    """CIDEr-D of sampled captions, with end-of-sequence as a word: a `RewardFn` whose contexts are reference texts.

    Without the end among the scored words, captions learn to stop early, at "with a": the missing words would cost
    n-grams, a missing end nothing. A caption ends at its first end-of-sequence; what follows is not scored. One that
    the length limit cut has no end, and so scores less than the same caption with it.

    Args:
        corpus: for each training picture its references: where document frequencies come from.
        decode: token ids to text, special tokens left out.
        eos_id: end-of-sequence.

    References:
        Rennie et al. 2016, "Self-critical Sequence Training for Image Captioning", arXiv:1612.00563.
    """

    def __init__(self, corpus: Sequence[Sequence[str]], decode: Callable[[Sequence[int]], str], eos_id: int) -> None:
        self.cider = CiderD([[_words(text) for text in own] for own in corpus])
        self.decode = decode
        self.eos_id = eos_id

    def __call__(self, samples: Samples, contexts: Sequence[Sequence[str]]) -> Tensor:
        """reward_B in [0, 10].

        Args:
            samples: captions.
            contexts: for each its references.
        """
        if len(samples) != len(contexts):
            raise ValueError(f"{len(samples)} captions but references for {len(contexts)}")
        said = [self.words(ids) for ids in samples.lists()]
        scores = self.cider.scores(said, [[_words(text) for text in own] for own in contexts])
        return torch.from_numpy(scores).float().to(samples.tokens_BT.device)

    def words(self, ids: Sequence[int]) -> list[str]:
        """The words of a sample up to its first end-of-sequence, which is the last of them where there is one."""
        ids = list(ids)
        if self.eos_id in ids:
            return _words(self.decode(ids[: ids.index(self.eos_id)]))
        return caption_words(self.decode(ids))


def bad_ending_rate(texts: Sequence[str]) -> float:
    """Share of captions that end with an article, a preposition or the like: a sign of a reward without an end."""
    if not texts:
        raise ValueError("the bad endings of no captions were asked for")
    return sum(bool(text.split()) and text.split()[-1] in BAD_ENDINGS for text in texts) / len(texts)


def _words(text: str) -> list[str]:
    return [*caption_words(text), END]
