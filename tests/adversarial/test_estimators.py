"""Gradient estimators on vocabularies so small that everything can be enumerated."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adversarial.config import GANConfig
from adversarial.estimators.clipped import CLIP, clipped_step
from adversarial.estimators.game import Game
from adversarial.estimators.reinforce import (
    dense_step,
    discounted,
    importance_step,
    mean_baseline,
    reinforce_loss,
    reward_of,
    rollout_rewards,
    rollout_step,
)
from adversarial.estimators.relaxed import gumbel_sentences, gumbel_step, straight_through_step
from adversarial.fakes import FakePool
from adversarial.generator import Generator, Sentences, build_generator, draw_samples
from adversarial.relational import RelationalMemory
from core.config import ModelConfig

V, BOS, EOS, LENGTH = 4, 1, 2, 3


class Counting(nn.Module):
    """Likes token 3: the logit is how often it occurs, per token or in all."""

    def __init__(self, *, per_token: bool = False) -> None:
        super().__init__()
        self.per_token = per_token
        self.worth = nn.Parameter(torch.tensor([0.0, 0.0, 0.0, 1.0]))

    def embed(self, tokens: Tensor) -> Tensor:
        onehot = nn.functional.one_hot(tokens, V).float() if tokens.dim() == 2 else tokens
        return onehot

    def forward(self, embeddings_BTE: Tensor, mask_BT: Tensor, *, twice: bool = False) -> tuple[Tensor, Tensor]:
        terms_BT = (embeddings_BTE @ self.worth) * mask_BT
        return (terms_BT if self.per_token else terms_BT.sum(1)), terms_BT.sum(1, keepdim=True)


@pytest.fixture(params=["transformer", "lstm", "relational"])
def model(request: pytest.FixtureRequest) -> Generator:
    torch.manual_seed(0)
    shape = ModelConfig(width=16, num_layers=1, num_heads=2, max_length=16)
    config = GANConfig(network=request.param, model=shape, max_tokens=LENGTH)
    small = request.param == "relational"
    model = RelationalMemory(V, 8, head_width=8) if small else build_generator(config, V)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def game(model: Generator, *, player: Any = None, eos_id: int | None = EOS, **changes: Any) -> Game:
    def sample(count: int) -> Any:
        return Sentences.of(draw_samples(model, count, max_tokens=LENGTH, bos_id=BOS, eos_id=eos_id))

    def baseline(_: Tensor, rewards_BT: Tensor, mask_BT: Tensor) -> Tensor:
        return mean_baseline(rewards_BT, mask_BT)

    config = GANConfig(adversarial_weight=1.0, feature_weight=0.0, **changes)
    return Game(model, player or Counting(), baseline, config, BOS, eos_id, LENGTH, sample, 0.5, {})


def every_sentence() -> Sentences:
    """All sentences of at most three tokens: those that end, and those cut at three."""
    rows = [
        list(row)
        for length in (1, 2, 3)
        for row in itertools.product(range(V), repeat=length)
        if EOS not in row[:-1] and (row[-1] == EOS or length == LENGTH)
    ]
    return Sentences.from_lists(rows, torch.device("cpu"))


def probabilities(model: Generator, sentences: Sentences) -> Tensor:
    begin = torch.full_like(sentences.tokens_BT[:, :1], BOS)
    logits = model.logits(model(torch.cat((begin, sentences.tokens_BT[:, :-1]), 1)))
    chosen = logits.log_softmax(-1).gather(-1, sentences.tokens_BT[..., None]).squeeze(-1)
    return (chosen * sentences.mask_BT).sum(1).exp()


def gradients(model: Generator, loss: Tensor) -> Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in model.parameters()]
    )


def test_all_sentences_have_probability_1_in_sum(model: Generator) -> None:
    assert probabilities(model, every_sentence()).sum().item() == pytest.approx(1, abs=1e-5)


def test_roll_outs_give_the_expected_reward_of_each_prefix(model: Generator) -> None:
    model.eval()
    players = game(model)
    everything = every_sentence()
    with torch.no_grad():
        p_B = probabilities(model, everything)
        worth_B = torch.sigmoid(players.score(everything)[0])
    first = Sentences.from_lists([[3, 0, 3], [0, EOS], [EOS]], torch.device("cpu"))
    found = rollout_rewards(players, first, 3000, reward_of(players, first))
    for row, prefix in ((0, [3]), (0, [3, 0]), (1, [0])):
        known = len(prefix)
        begins_B = (everything.tokens_BT[:, :known] == torch.tensor(prefix)).all(1)
        expected = float((p_B * worth_B)[begins_B].sum() / p_B[begins_B].sum())
        assert found[row, known - 1].item() == pytest.approx(expected, abs=0.02)
    # complete sentences have their own reward: two of token 3, none, none
    finals = torch.stack([found[0, 2], found[1, 1], found[2, 0]])
    torch.testing.assert_close(finals, torch.sigmoid(torch.tensor([2.0, 0.0, 0.0])))


def test_the_policy_gradient_is_that_of_the_expected_reward(model: Generator) -> None:
    """With all sentences weighted by their probability instead of drawn, nothing is left to chance."""
    everything = every_sentence()
    players = game(model)
    p_B = probabilities(model, everything)
    worth_B = players.score(everything)[0].detach()
    exact = gradients(model, -(p_B * worth_B).sum())
    weights_BT = (p_B.detach() * worth_B)[:, None].expand(everything.tokens_BT.shape)
    loss, _ = reinforce_loss(
        replace(players, baseline=lambda hidden, rewards_BT, mask: torch.zeros_like(rewards_BT)), weights_BT, everything
    )
    torch.testing.assert_close(gradients(model, loss * everything.mask_BT.sum()), exact, rtol=1e-3, atol=1e-5)


def test_equal_rewards_teach_nothing(model: Generator) -> None:
    players = game(model)
    sentences = players.sample(20)
    loss, metrics = reinforce_loss(players, torch.full(sentences.tokens_BT.shape, 0.7), sentences)
    assert metrics["advantage_std"] == pytest.approx(0, abs=1e-6)
    assert gradients(model, loss).abs().max().item() < 1e-6


def test_returns_are_discounted_sums() -> None:
    rewards = torch.tensor([[1.0, 2.0, 4.0]])
    torch.testing.assert_close(discounted(rewards, 0.5), torch.tensor([[3.0, 4.0, 4.0]]))
    torch.testing.assert_close(discounted(rewards, 0.0), rewards)


def test_the_mean_baseline_leaves_padding_out() -> None:
    rewards = torch.tensor([[1.0, 5.0], [3.0, 100.0]])
    mask = torch.tensor([[True, True], [True, False]])
    torch.testing.assert_close(mean_baseline(rewards, mask), torch.tensor([[2.0, 5.0], [2.0, 5.0]]))


@pytest.mark.parametrize(
    ("step", "changes"),
    [
        (rollout_step, {"estimator": "rollouts", "num_rollouts": 4}),
        (dense_step, {"estimator": "dense", "judge": "tokens"}),
        (importance_step, {"estimator": "importance"}),
        (clipped_step, {"estimator": "clipped"}),
        (straight_through_step, {}),
        (gumbel_step, {"estimator": "gumbel", "inverse_temperature": 4.0}),
    ],
)
@pytest.mark.parametrize("eos_id", [EOS, None])
def test_every_estimator_makes_the_rewarded_token_more_frequent(
    model: Generator, step: Any, changes: Any, eos_id: int | None
) -> None:
    judge = Counting(per_token=changes.get("judge") == "tokens")
    judge.requires_grad_(False)
    players = game(model, player=judge, eos_id=eos_id, **changes)
    real = Sentences.from_lists([[3, 3, 3]] * 64, torch.device("cpu"))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)

    def frequency() -> float:
        drawn = players.sample(1000)
        return float(((drawn.tokens_BT == 3) & drawn.mask_BT).sum(1).float().mean())

    before = frequency()
    for _ in range(25):
        loss, metrics = step(replace(players, kept={}), real)
        assert all(isinstance(value, float) for value in metrics.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert frequency() > before + 0.4


def test_importance_weights_by_hand(model: Generator) -> None:
    players = game(model)
    drawn = Sentences.from_lists([[3, 3, EOS], [0, EOS]], torch.device("cpu"))
    fixed = replace(players, sample=lambda count: drawn)
    loss, metrics = importance_step(fixed, drawn)
    weights = torch.softmax(torch.tensor([2.0, 0.0]), 0)
    expected = -((weights - 0.5) * probabilities(model, drawn).log()).sum() / 2.5
    torch.testing.assert_close(loss, expected)
    assert metrics["effective_samples"] == pytest.approx(float(1 / weights.square().sum()))


def test_a_token_that_has_moved_far_enough_is_left_alone(model: Generator) -> None:
    players = game(model, estimator="clipped")
    drawn = Sentences.from_lists([[3, 3, EOS], [0, EOS]], torch.device("cpu"))
    players = replace(players, sample=lambda count: drawn)
    first = gradients(model, clipped_step(players, drawn)[0])
    # At the first step every ratio is 1, so that it is REINFORCE with standardised rewards: +-1/sqrt(2).
    log_p_B = probabilities(model, drawn).log()
    expected = gradients(model, -(torch.tensor([1.0, -1.0]) / 2**0.5 * log_p_B).sum() / 5)
    torch.testing.assert_close(first, expected, rtol=1e-3, atol=1e-5)
    # As if all tokens had been a third as likely when they were drawn: what was rewarded has moved far enough, what was
    # punished must come back.
    players.kept["drawn"] -= torch.tensor(3.0).log()
    loss, metrics = clipped_step(players, drawn)
    expected = gradients(model, probabilities(model, drawn)[1].log() * 3 / 2**0.5 / 5)
    torch.testing.assert_close(gradients(model, loss), expected, rtol=1e-3, atol=1e-5)
    assert metrics["clipped"] == 1.0
    assert float(loss.detach()) == pytest.approx((-(1 + CLIP) * 3 + 3 * 2) / 2**0.5 / 5, rel=1e-4)


def test_soft_sentences_add_up_to_1_and_harden_as_the_temperature_falls(model: Generator) -> None:
    players = game(model, eos_id=None)
    soft, mask = gumbel_sentences(players, 50, 1.0)
    hard, _ = gumbel_sentences(players, 50, 0.01)
    torch.testing.assert_close(soft.sum(-1), torch.ones(50, LENGTH))
    assert mask.all()
    assert hard.detach().amax(-1).mean() > 0.98 > soft.detach().amax(-1).mean()


def test_soft_sentences_at_a_low_temperature_are_distributed_like_samples() -> None:
    torch.manual_seed(0)
    model = build_generator(GANConfig(network="lstm", model=ModelConfig(width=8, max_length=16), max_tokens=LENGTH), V)
    players = game(model)
    hard, mask = gumbel_sentences(players, 4000, 0.01)
    drawn = players.sample(4000)
    ours = (nn.functional.one_hot(hard.argmax(-1), V) * mask[..., None]).sum((0, 1)) / 4000
    theirs = (nn.functional.one_hot(drawn.tokens_BT, V) * drawn.mask_BT[..., None]).sum((0, 1)) / 4000
    torch.testing.assert_close(ours, theirs, atol=0.06, rtol=0)


def test_the_pool_hands_out_every_sentence_once_and_then_again() -> None:
    rows = Sentences.from_lists([[number, EOS] for number in range(3, 13)], torch.device("cpu"))
    pool = FakePool(0.0)
    pool.renew(lambda count: rows.part(0, count), 10)
    assert pool.unique == 1.0
    first = torch.cat([pool.take(5).tokens_BT[:, 0] for _ in range(2)])
    assert sorted(first.tolist()) == list(range(3, 13))
    assert set(pool.take(10).tokens_BT[:, 0].tolist()) == set(range(3, 13))


def test_old_sentences_are_replayed_and_survive_a_checkpoint() -> None:
    def draw(token: int) -> Any:
        return lambda count: Sentences.from_lists([[token, EOS]] * count, torch.device("cpu"))

    pool = FakePool(0.5)
    pool.renew(draw(5), 8)
    assert set(pool.take(8).tokens_BT[:, 0].tolist()) == {5}
    pool.renew(draw(6), 8)
    assert sorted(pool.take(8).tokens_BT[:, 0].tolist()) == [5] * 4 + [6] * 4
    resumed = FakePool(0.5)
    resumed.load_state_dict(pool.state_dict())
    resumed.renew(draw(7), 8)
    taken = resumed.take(8).tokens_BT[:, 0].tolist()
    assert taken.count(7) == 4
    assert set(taken) <= {5, 6, 7}
