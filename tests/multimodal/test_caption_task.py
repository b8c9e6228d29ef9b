"""The captioning objective: what is supervised, and that it can be learnt.

Shape suffixes: B = captions, T = tokens, P = positions of a picture, F = features.
"""

import math

import pytest
import torch
import torch.nn.functional as F

from core.config import ModelConfig, OptimConfig
from core.nn.transformer import Transformer
from core.training.runtime import Runtime
from multimodal.captioner import Captioner
from multimodal.fusion import PrefixFusion
from multimodal.task import CaptionBatch, CaptioningTask, CaptionLoss, caption_batch

VOCAB, FEATURES, POSITIONS, BOS, EOS = 11, 6, 4, 1, 2
RUNTIME = Runtime(torch.device("cpu"))


def make(*, zero_projections: bool = True, dropout: float = 0.0) -> Captioner:
    torch.manual_seed(0)
    model = Transformer(
        ModelConfig(vocab_size=VOCAB, width=32, num_layers=2, num_heads=2, max_length=32, dropout=dropout)
    )
    if not zero_projections:
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    return Captioner(model, PrefixFusion(FEATURES, POSITIONS, 32), bos_id=BOS, eos_id=EOS, max_new_tokens=8)


def make_task(captioner: Captioner, **optim: object) -> CaptioningTask:
    config = OptimConfig(**{"lr": 3e-3, "schedule": "constant", **optim})  # type: ignore[arg-type]
    return CaptioningTask(captioner, config, RUNTIME, 100)


def batch(captions: list[list[int]] | None = None, length: int | None = None) -> CaptionBatch:
    captions = captions or [[3, 4], [5], [6, 7, 8, 9], []]
    pictures = torch.randn(len(captions), POSITIONS, FEATURES, generator=torch.Generator().manual_seed(7))
    return caption_batch(pictures, captions, bos_id=BOS, eos_id=EOS, length=length)


def test_a_batch_is_framed_and_padded() -> None:
    framed = batch([[3, 4], []])
    assert framed.tokens_BT.tolist() == [[BOS, 3, 4, EOS], [BOS, EOS, EOS, EOS]]
    assert framed.mask_BT.tolist() == [[True] * 4, [True, True, False, False]]
    assert batch([[3]], length=6).tokens_BT.shape == (1, 6)
    with pytest.raises(ValueError, match="5 tokens, begin and end included, does not fit into 4"):
        batch([[3, 4, 5]], length=4)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_naive_one(smoothing: float) -> None:
    captioner, given = make(zero_projections=False), batch()
    loss_sum, count = CaptionLoss(captioner, label_smoothing=smoothing)(*vars(given).values())
    naive, tokens = torch.tensor(0.0), 0
    for row in range(len(given.tokens_BT)):
        real = given.tokens_BT[row][given.mask_BT[row]]
        logits = captioner.logits(captioner(given.features_BPF[row : row + 1], real[None, :-1]))[0]
        naive = naive + F.cross_entropy(logits, real[1:], label_smoothing=smoothing, reduction="sum")
        tokens += len(real) - 1
    assert count.item() == tokens == 2 + 1 + 4 + 0 + 4  # the captions' tokens and their four ends
    torch.testing.assert_close(loss_sum, naive, atol=1e-4, rtol=1e-5)


def test_the_first_token_and_the_end_are_supervised_and_nothing_else() -> None:
    captioner, given = make(zero_projections=False), batch()
    losses = CaptionLoss(captioner)
    reached = torch.zeros_like(given.mask_BT[:, 1:])
    for row, column in [(r, c) for r in range(4) for c in range(reached.shape[1])]:
        changed = given.tokens_BT.clone()
        changed[row, column + 1] = 10
        # Teacher forcing feeds the changed token to later positions, so they are left out of the comparison.
        mask = given.mask_BT.clone()
        mask[row, column + 2 :] = False
        mask[:row], mask[row + 1 :] = False, False
        before = losses(given.features_BPF, given.tokens_BT, mask)[0]
        reached[row, column] = bool(losses(given.features_BPF, changed, mask)[0] != before)
    assert torch.equal(reached, given.mask_BT[:, 1:])


def test_padding_is_free_even_though_it_has_the_end_s_id() -> None:
    captioner = make(zero_projections=False)
    losses = CaptionLoss(captioner)
    tight, loose = batch(), batch(length=16)
    torch.testing.assert_close(losses(*vars(tight).values()), losses(*vars(loose).values()))
    other = torch.where(loose.mask_BT, loose.tokens_BT, 10)
    torch.testing.assert_close(losses(loose.features_BPF, other, loose.mask_BT), losses(*vars(tight).values()))


def test_a_batch_without_labels_gives_0_and_changes_nothing() -> None:
    task = make_task(make())
    given = batch()
    empty = CaptionBatch(given.features_BPF, given.tokens_BT, torch.zeros_like(given.mask_BT))
    before = {name: value.clone() for name, value in task.captioner.state_dict().items()}
    metrics = task.train_step(empty)
    assert metrics["loss"] == 0
    assert metrics["grad_norm"] == 0
    for name, value in task.captioner.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert task.loss([empty]) == 0


def test_the_gradient_does_not_depend_on_accumulation() -> None:
    whole, parts = make_task(make(zero_projections=False)), make_task(make(zero_projections=False), accumulate=3)
    for _ in range(3):
        first, second = whole.train_step(batch()), parts.train_step(batch())
    assert first["loss"] == pytest.approx(second["loss"], rel=1e-4)
    for (name, a), b in zip(whole.captioner.named_parameters(), parts.captioner.parameters()):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-3, msg=name)


def test_a_single_batch_is_overfitted_and_the_picture_decides_the_caption() -> None:
    captioner = make()
    task = make_task(captioner)
    given = batch([[3, 4, 5], [3, 4, 6], [7], [8, 9, 3, 4]])
    metrics = [task.train_step(given) for _ in range(150)]
    assert metrics[0]["loss"] == pytest.approx(math.log(VOCAB), abs=0.3)
    assert task.loss([given]) < 0.05
    said = [
        [token for token in row if token != EOS] for row in captioner.sample(given.features_BPF, greedy=True).lists()
    ]
    assert said == [[3, 4, 5], [3, 4, 6], [7], [8, 9, 3, 4]]
    clean = captioner.sample(given.features_BPF, greedy=True).lists()
    shuffled = captioner.sample(given.features_BPF.roll(1, 0), greedy=True).lists()
    assert shuffled == [clean[-1], *clean[:-1]]
    blank = captioner.sample(captioner.fusion.blank(4), greedy=True).lists()
    assert all(row == blank[0] for row in blank)


def test_evaluation_has_neither_dropout_nor_smoothing() -> None:
    captioner = make(zero_projections=False, dropout=0.5)
    task = CaptioningTask(
        captioner, OptimConfig(), RUNTIME, 10, label_smoothing=0.3,
        score=lambda: {"exact_match": 0.25}, held_out=lambda: [batch()],
    )  # fmt: skip
    scores = task.evaluate()
    captioner.eval()
    loss_sum, count = CaptionLoss(captioner).eval()(*vars(batch()).values())
    assert scores == {"exact_match": 0.25, "loss": pytest.approx((loss_sum / count).item(), rel=1e-5)}
