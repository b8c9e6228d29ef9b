"""Generator and discriminator by their invariants, on both kinds of network."""

import pytest
import torch
from torch import Tensor

from adversarial.config import GANConfig
from adversarial.discriminators.ratio import RatioDiscriminator
from adversarial.generator import (
    Generator,
    Sentences,
    build_generator,
    draw_samples,
    next_token_logits,
    straight_through,
)
from adversarial.losses import gradient_penalty
from core.config import ModelConfig
from core.generate import generate
from core.losses import token_logprobs

V, BOS, EOS = 11, 1, 2


@pytest.fixture(params=["transformer", "lstm"])
def model(request: pytest.FixtureRequest) -> Generator:
    torch.manual_seed(0)
    config = GANConfig(
        network=request.param, model=ModelConfig(width=16, num_layers=2, num_heads=2, max_length=16), max_tokens=8
    )
    model = build_generator(config, V)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))  # away from the zeros of a fresh Transformer
    return model


@pytest.fixture
def judge(model: Generator) -> RatioDiscriminator:
    judge = RatioDiscriminator(model, BOS)
    with torch.no_grad():
        judge.judge.weight.normal_()
    return judge


def batch() -> Sentences:
    return Sentences.from_lists([[5, 6, 7, EOS], [8, EOS]], torch.device("cpu"))


def test_straight_through_is_one_hot_to_the_bit_and_has_the_gradient_of_the_softmax() -> None:
    torch.manual_seed(1)
    logits = torch.randn(2, 3, V, requires_grad=True)
    tokens = torch.randint(V, (2, 3))
    onehot = straight_through(logits, tokens)
    assert torch.equal(onehot, torch.nn.functional.one_hot(tokens, V).float())
    worth_BTV = torch.randn(2, 3, V)
    (onehot * worth_BTV).sum().backward()
    # for a linear worth: the gradient of its expectation, d/dz sum_v p_v w_v = p * (w - sum_v p_v w_v)
    p = logits.detach().softmax(-1)
    torch.testing.assert_close(logits.grad, p * (worth_BTV - (p * worth_BTV).sum(-1, keepdim=True)))


def test_straight_through_at_a_low_temperature_moves_only_likely_tokens() -> None:
    logits = torch.tensor([[[3.0, 2.9, -3.0]]], requires_grad=True)
    straight_through(logits, torch.tensor([[0]]), 0.1)[..., 2].sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-6


def test_sentences_are_padded_joined_and_cut() -> None:
    both = Sentences.join(batch(), Sentences.from_lists([[EOS]], torch.device("cpu")).padded(2))
    assert both.tokens_BT.tolist() == [[5, 6, 7, EOS], [8, EOS, 0, 0], [EOS, 0, 0, 0]]
    assert both.mask_BT.sum(1).tolist() == [4, 2, 1]
    assert len(both) == 3


def test_samples_end_at_end_of_sequence_and_nothing_stands_after_it(model: Generator) -> None:
    drawn = Sentences.of(draw_samples(model, 40, max_tokens=8, bos_id=BOS, eos_id=EOS))
    assert drawn.tokens_BT.shape[1] <= 8
    assert (drawn.tokens_BT[~drawn.mask_BT] == 0).all()
    lengths = drawn.mask_BT.sum(1)
    assert drawn.tokens_BT.shape[1] == lengths.max()
    for row, length in zip(drawn.tokens_BT.tolist(), lengths.tolist()):
        assert EOS not in row[: length - 1]
        assert row[length - 1] == EOS or length == 8


def test_one_pass_gives_the_probabilities_that_sampling_used(model: Generator) -> None:
    drawn = generate(
        model, [[BOS]], max_new_tokens=8, num_samples=20, eos_id=EOS, generator=torch.Generator().manual_seed(3)
    )
    sentences = Sentences(drawn.tokens_BT.masked_fill(~drawn.mask_BT, 0), drawn.mask_BT)
    logprobs = token_logprobs(next_token_logits(model, sentences, BOS), sentences.tokens_BT)
    torch.testing.assert_close(logprobs[drawn.mask_BT], drawn.logprobs_BT[drawn.mask_BT], atol=1e-5, rtol=1e-5)


def test_a_fresh_discriminator_has_no_opinion_and_leaves_its_model_alone(model: Generator) -> None:
    judge = RatioDiscriminator(model, BOS)
    logits, features = judge(judge.embed(batch().tokens_BT), batch().mask_BT)
    assert torch.equal(logits, torch.zeros(2))
    assert features.shape == (2, 16)


def test_one_hot_vectors_are_judged_like_their_tokens_and_features_add_up(judge: RatioDiscriminator) -> None:
    sentences = batch()
    logits, features = judge(judge.embed(sentences.tokens_BT), sentences.mask_BT)
    onehot = torch.nn.functional.one_hot(sentences.tokens_BT, V).float()
    soft_logits, _ = judge(judge.embed(onehot), sentences.mask_BT)
    torch.testing.assert_close(soft_logits, logits)
    torch.testing.assert_close(features.sum(1), logits)
    assert logits.abs().min() > 0.01


def test_padding_changes_no_verdict_and_no_penalty(judge: RatioDiscriminator) -> None:
    def all_of(sentences: Sentences) -> tuple[Tensor, Tensor]:
        embedded = judge.embed(sentences.tokens_BT)
        logits, _ = judge(embedded, sentences.mask_BT, twice=True)
        return logits, gradient_penalty(logits, embedded)

    logits, penalty = all_of(batch())
    longer_logits, longer_penalty = all_of(batch().padded(9))
    torch.testing.assert_close(longer_logits, logits)
    torch.testing.assert_close(longer_penalty, penalty)


def test_the_verdict_is_linear_in_the_last_token(judge: RatioDiscriminator) -> None:
    # so the slope at the sampled token says exactly what every other last token would have scored
    sentences = Sentences.from_lists([[5, 6, 7]], torch.device("cpu"))
    onehot = torch.nn.functional.one_hot(sentences.tokens_BT, V).float().requires_grad_()
    logit, _ = judge(judge.embed(onehot), sentences.mask_BT)
    (slope,) = torch.autograd.grad(logit.sum(), onehot)
    for token in range(V):
        other, _ = judge(judge.embed(torch.tensor([[5, 6, token]])), sentences.mask_BT)
        torch.testing.assert_close(other[0], logit[0] + slope[0, 2, token] - slope[0, 2, 7], atol=1e-4, rtol=1e-4)


def test_the_penalty_reaches_body_head_and_embeddings(judge: RatioDiscriminator) -> None:
    sentences = batch()
    embedded = judge.embed(sentences.tokens_BT)
    logits, _ = judge(embedded, sentences.mask_BT, twice=True)
    gradient_penalty(logits, embedded).backward()
    reached = {name for name, p in judge.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert "judge.weight" in reached
    assert any("embed_tokens" in name for name in reached)
    assert any("q_proj" in name or "weight_hh" in name for name in reached)
