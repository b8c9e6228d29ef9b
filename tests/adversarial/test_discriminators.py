"""Every discriminator by the invariants of their common surface."""

from typing import Any, get_args

import pytest
import torch

from adversarial.config import GANConfig, Judge
from adversarial.discriminators.build import build_discriminator
from adversarial.generator import Sentences
from adversarial.judging import judge_loss
from adversarial.losses import discriminator_loss, gradient_penalty
from core.config import ModelConfig

V, BOS, EOS, LENGTH = 13, 1, 2, 8


def build(judge: str, **changes: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    config = GANConfig(
        judge=judge, judge_width=8, max_tokens=LENGTH, network=changes.pop("network", "transformer"),
        model=ModelConfig(width=16, num_layers=2, num_heads=2, max_length=16, dropout=0.5), **changes,
    )  # fmt: skip
    built = build_discriminator(config, V, LENGTH, BOS)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))  # away from zeros
    return built


def sentences() -> Sentences:
    return Sentences.from_lists([[5, 6, 7, 9, EOS], [8, EOS], [3, 3, 4, EOS]], torch.device("cpu"))


@pytest.fixture(params=[judge for judge in get_args(Judge) if judge != "mediator"])
def judge(request: pytest.FixtureRequest) -> Any:
    return build(request.param)


def test_a_sentence_has_one_verdict_whatever_its_padding_and_neighbours(judge: Any) -> None:
    batch = sentences()
    logits, features = judge(judge.embed(batch.tokens_BT), batch.mask_BT)
    assert logits.dtype == features.dtype == torch.float32
    assert len(logits) == len(features) == 3
    longer = batch.padded(LENGTH)
    padded, padded_features = judge(judge.embed(longer.tokens_BT), longer.mask_BT)
    alone = batch.part(1, 2)
    single, _ = judge(judge.embed(alone.tokens_BT), alone.mask_BT)
    if judge.per_token:
        assert logits.shape == (3, 5)
        padded, logits = padded[:, :5] * batch.mask_BT, logits * batch.mask_BT
        single = single * alone.mask_BT
    torch.testing.assert_close(padded, logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(padded_features, features, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(single[0], logits[1], rtol=1e-4, atol=1e-5)


def test_one_hot_vectors_are_judged_like_their_tokens_and_carry_a_gradient(judge: Any) -> None:
    batch = sentences()
    logits, _ = judge(judge.embed(batch.tokens_BT), batch.mask_BT)
    onehot = torch.nn.functional.one_hot(batch.tokens_BT, V).float().requires_grad_()
    soft, _ = judge(judge.embed(onehot), batch.mask_BT)
    torch.testing.assert_close(soft, logits, rtol=1e-4, atol=1e-5)
    (soft * (batch.mask_BT if judge.per_token else 1)).sum().backward()
    assert (onehot.grad.abs().sum(-1)[batch.mask_BT] > 0).all()
    assert (onehot.grad[~batch.mask_BT] == 0).all()


def test_the_penalty_is_finite_and_reaches_the_weights(judge: Any) -> None:
    batch = sentences()
    embedded = judge.embed(batch.tokens_BT)
    logits, _ = judge(embedded, batch.mask_BT, twice=True)
    plain, _ = judge(embedded, batch.mask_BT)
    torch.testing.assert_close(logits, plain, rtol=1e-4, atol=1e-5)
    summed = logits if logits.dim() == 1 else (logits * batch.mask_BT if judge.per_token else logits).sum(1)
    penalty = gradient_penalty(summed, embedded)
    penalty.backward()
    assert penalty.item() > 0
    reached = [name for name, p in judge.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert len(reached) >= 3
    assert all(torch.isfinite(p.grad).all() for p in judge.parameters() if p.grad is not None)


def test_a_token_is_judged_by_what_stands_before_it_alone() -> None:
    judge: Any = build("tokens")
    one = torch.tensor([[5, 6, 7, 9]])
    other = torch.tensor([[5, 6, 7, 3]])
    mask = torch.ones(1, 4, dtype=torch.bool)
    first, _ = judge(judge.embed(one), mask)
    second, _ = judge(judge.embed(other), mask)
    torch.testing.assert_close(first[:, :3], second[:, :3])
    assert first[0, 3] != second[0, 3]


def test_spectral_normalisation_holds_every_linear_layer_at_norm_1() -> None:
    judge = build("cnn", spectral_norm=True)
    judge.train()
    for _ in range(50):  # the power iteration needs a few passes
        judge(judge.embed(sentences().tokens_BT), sentences().mask_BT)
    norms = [
        torch.linalg.matrix_norm(module.weight, 2).item()
        for module in judge.modules()
        if isinstance(module, torch.nn.Linear)
    ]
    assert norms
    assert norms == pytest.approx([1.0] * len(norms), rel=0.02)


def test_dropout_of_the_generator_s_shape_is_not_taken_over() -> None:
    judge: Any = build("ratio", network="lstm").train()
    batch = sentences()
    first, _ = judge(judge.embed(batch.tokens_BT), batch.mask_BT)
    second, _ = judge(judge.embed(batch.tokens_BT), batch.mask_BT)
    torch.testing.assert_close(first, second)
    noisy: Any = build("cnn", judge_dropout=0.5).train()
    first, _ = noisy(noisy.embed(batch.tokens_BT), batch.mask_BT)
    assert not torch.equal(first, noisy(noisy.embed(batch.tokens_BT), batch.mask_BT)[0])


def test_a_batch_judged_in_one_pass_has_the_loss_of_two_passes(judge: Any) -> None:
    real, fake = sentences(), Sentences.from_lists([[4, EOS], [9, 9, 9, 9, 9, 9, EOS], [5, EOS]], torch.device("cpu"))
    judge.eval()
    loss, metrics = judge_loss(judge, GANConfig(penalty=0.0, loss="hinge"), real, fake)
    logits = []
    for some in (real, fake):
        found, _ = judge(judge.embed(some.tokens_BT), some.mask_BT)
        logits.append(found[some.mask_BT] if judge.per_token else found)
    torch.testing.assert_close(loss, discriminator_loss("hinge", *logits), rtol=1e-4, atol=1e-5)
    assert metrics["accuracy/real"] == pytest.approx(float((logits[0] > 0).float().mean()))
    assert "penalty" not in metrics
    with_penalty, _ = judge_loss(judge, GANConfig(penalty=0.5, fake_penalty=0.25, loss="hinge"), real, fake)
    assert with_penalty > loss
