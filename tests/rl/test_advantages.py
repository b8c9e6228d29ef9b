"""Advantages: numbers worked out by hand, and expectations that are enumerated."""

import itertools
from dataclasses import replace

import pytest
import torch

from rl.advantages import (
    Credit,
    gae_advantages,
    generalized_advantages,
    group_deviation,
    normalized,
    return_advantages,
    same_state_advantages,
    turn_discounts,
)
from rl.losses import reinforce_loss


def credit(rewards, values=None, bootstrap=None, ends=None):
    """Episodes given as lists; every token ends its turn unless `ends` says otherwise."""
    width = max(map(len, rewards))

    def padded(rows, fill=0.0):
        return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], dtype=torch.float64)

    mask = padded([[1.0] * len(row) for row in rewards]).bool()
    return Credit(
        reward_EJ=padded(rewards),
        mask_EJ=mask,
        ends_turn_EJ=mask if ends is None else padded(ends).bool() & mask,
        value_EJ=padded(rewards if values is None else values) * (values is not None),
        bootstrap_E=torch.tensor(bootstrap or [0.0] * len(rewards), dtype=torch.float64),
    )


# r = [0, 0, 1], V = [.5, .4, .3], gamma .9. Terminated, lambda .8:
#   delta = [.9*.4 - .5, .9*.3 - .4, 1 - .3] = [-.14, -.13, .7]
#   A = [-.14 + .72 * .374, -.13 + .72 * .7, .7] = [.12928, .374, .7]
@pytest.mark.parametrize(
    ("lam", "bootstrap", "expected"),
    [
        (0.8, 0.0, [0.12928, 0.374, 0.7]),
        (0.8, 0.2, [0.222592, 0.5036, 0.88]),
        (1.0, 0.0, [0.81 - 0.5, 0.9 - 0.4, 1 - 0.3]),
        (0.0, 0.0, [-0.14, -0.13, 0.7]),
    ],
)
def test_generalised_advantages_by_hand(lam, bootstrap, expected):
    found = gae_advantages(0.9, lam)(credit([[0.0, 0.0, 1.0]], [[0.5, 0.4, 0.3]], [bootstrap]))
    expected = torch.tensor([expected], dtype=torch.float64)
    torch.testing.assert_close(found.advantage_EJ, expected)
    torch.testing.assert_close(found.target_EJ, expected + torch.tensor([[0.5, 0.4, 0.3]], dtype=torch.float64))


def test_episodes_of_different_lengths_do_not_touch_one_another():
    rows = [[0.0, 0.0, 1.0], [2.0], [0.5, -1.0]]
    values = [[0.5, 0.4, 0.3], [1.5], [0.1, 0.2]]
    bootstraps = [0.0, 3.0, 0.0]
    together = gae_advantages(0.9, 0.8)(credit(rows, values, bootstraps))
    for e, (row, value, bootstrap) in enumerate(zip(rows, values, bootstraps)):
        alone = gae_advantages(0.9, 0.8)(credit([row], [value], [bootstrap]))
        torch.testing.assert_close(together.advantage_EJ[e, : len(row)], alone.advantage_EJ[0])
        assert (together.advantage_EJ[e, len(row) :] == 0).all()
        assert (together.target_EJ[e, len(row) :] == 0).all()


def test_what_a_critic_says_after_the_end_counts_only_for_a_truncated_episode():
    cut, ended = credit([[1.0]], [[0.0]], [0.5]), credit([[1.0]], [[0.0]], [0.0])
    assert gae_advantages(0.9, 0.95)(cut).advantage_EJ.item() == pytest.approx(1 + 0.9 * 0.5)
    assert gae_advantages(0.9, 0.95)(ended).advantage_EJ.item() == 1


def test_time_passes_between_turns_and_not_between_the_tokens_of_one():
    # Two turns of two tokens each; the reward comes with the last token.
    ends = [[0.0, 1.0, 0.0, 1.0]]
    found = return_advantages(0.5, baseline="none")(credit([[0.0, 0.0, 0.0, 8.0]], ends=ends))
    assert found.advantage_EJ.tolist() == [[4.0, 4.0, 8.0, 8.0]]
    assert turn_discounts(credit([[0.0, 0.0]], ends=[[0.0, 1.0]]), 0.5).tolist() == [[1.0, 0.5]]


def test_generalised_advantages_with_lambda_1_and_no_critic_are_returns():
    rows = credit([[1.0, 2.0, 3.0], [4.0]])
    with_gae = gae_advantages(0.9, 1.0)(rows).advantage_EJ
    torch.testing.assert_close(with_gae, return_advantages(0.9, baseline="none")(rows).advantage_EJ)


def test_generalised_advantages_keep_the_dtype_of_float32():
    zeros = torch.zeros(1, 2)
    mask = torch.ones(1, 2, dtype=torch.bool)
    found = generalized_advantages(zeros, zeros, mask, torch.zeros(1), discount_EJ=torch.full((1, 2), 0.9), lam=0.9)
    assert found.advantage_EJ.dtype == torch.float32


ROWS = [[1.0], [0.0], [0.0], [1.0]]


# Returns 1, 0, 0, 1: mean 1/2, standard deviation sqrt(4 * 1/4 / 3) = .57735; of the others 1/3 or 2/3.
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"baseline": "none"}, [1.0, 0.0, 0.0, 1.0]),
        ({"baseline": "mean"}, [0.5, -0.5, -0.5, 0.5]),
        ({"baseline": "leave_one_out"}, [2 / 3, -2 / 3, -2 / 3, 2 / 3]),
        ({"baseline": "mean", "scaled": True}, [0.865875, -0.865875, -0.865875, 0.865875]),
    ],
)
@pytest.mark.parametrize("by_turn", [True, False])
def test_comparisons_by_hand(options, expected, by_turn):
    found = return_advantages(1.0, by_turn=by_turn, **options)(credit(ROWS)).advantage_EJ
    torch.testing.assert_close(found[:, 0], torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)


def test_groups_do_not_touch_one_another():
    """Two groups in turn; each is compared within itself, and its sum is 0."""
    rows = replace(credit([[1.0], [10.0], [3.0], [30.0]]), group_E=torch.tensor([0, 1, 0, 1]))
    found = return_advantages(1.0, baseline="leave_one_out")(rows).advantage_EJ[:, 0]
    assert found.tolist() == [-2.0, -20.0, 2.0, 20.0]
    scaled = return_advantages(1.0, baseline="mean", scaled=True)(rows).advantage_EJ[:, 0]
    torch.testing.assert_close(scaled.abs(), torch.full((4,), 0.5**0.5, dtype=torch.float64), atol=1e-4, rtol=0)


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
def test_equal_returns_of_a_group_teach_nothing(baseline, scaled):
    rows = replace(credit([[2.0], [2.0], [2.0], [5.0], [7.0]]), group_E=torch.tensor([0, 0, 0, 1, 1]))
    found = return_advantages(1.0, baseline=baseline, scaled=scaled)(rows).advantage_EJ[:, 0]
    assert found[:3].tolist() == [0.0, 0.0, 0.0]
    assert (found[3:] != 0).all()


@pytest.mark.parametrize("value", [0.1, 0.2, 0.3, 0.7, 1 / 3, -0.9, 12.3])
@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
def test_equal_returns_teach_nothing_whatever_their_value_in_float32(value, baseline):
    """The float32 mean of eight equal numbers need not be that number."""
    rows = credit([[value]] * 16)
    rows = replace(
        rows, reward_EJ=rows.reward_EJ.float(), value_EJ=rows.value_EJ.float(), bootstrap_E=rows.bootstrap_E.float(),
        group_E=torch.arange(2).repeat_interleave(8),
    )  # fmt: skip
    assert (return_advantages(1.0, baseline=baseline, scaled=baseline == "mean")(rows).advantage_EJ == 0).all()
    assert (group_deviation(rows.reward_EJ[:, 0], rows.group_E) == 0).all()


def test_scaling_all_returns_changes_nothing_where_they_are_standardised():
    low, high = (
        return_advantages(1.0, baseline="mean", scaled=True)(credit([[factor * 1.0], [factor * 4.0]])).advantage_EJ
        for factor in (10.0, 1000.0)
    )
    torch.testing.assert_close(low, high, atol=1e-4, rtol=0)


def test_an_episode_alone_has_nothing_to_be_compared_with():
    with pytest.raises(ValueError, match="at least two episodes"):
        return_advantages(1.0, baseline="leave_one_out")(credit([[1.0]]))


def test_greedy_play_is_a_baseline():
    rows = replace(credit([[1.0, 2.0], [4.0]]), greedy_E=torch.tensor([2.0, 5.0], dtype=torch.float64))
    found = return_advantages(1.0, baseline="greedy", by_turn=False)(rows).advantage_EJ
    assert found.tolist() == [[1.0, 1.0], [-1.0, 0.0]]


def test_turns_are_compared_with_the_same_turn_of_the_others():
    """Returns to go: [6, 5, 3], [5, 4], [2]. In turn 3 nobody else is left, so that the baseline of turn 2 stays."""
    rows = credit([[1.0, 2.0, 3.0], [1.0, 4.0], [2.0]])
    found = return_advantages(1.0, baseline="leave_one_out")(rows).advantage_EJ
    assert found.tolist() == [[6 - 3.5, 5 - 4.0, 3 - 4.0], [5 - 4.0, 4 - 5.0, 0.0], [2 - 5.5, 0.0, 0.0]]
    whole = return_advantages(1.0, baseline="leave_one_out", by_turn=False)(rows).advantage_EJ
    assert whole.tolist() == [[2.5, 2.5, 2.5], [1.0, 1.0, 0.0], [-3.5, 0.0, 0.0]]


def test_equal_returns_whose_rewards_came_at_other_times_stay_in_scale():
    """Both episodes are worth 1: the group's deviation of returns is 0, that of its turns is not."""
    found = return_advantages(1.0, baseline="mean", scaled=True)(credit([[1.0, 0.0], [0.0, 1.0]])).advantage_EJ
    # Second turns: 0 and 1 are compared with 1/2; of the four turns' -0, -1/2, 0, 1/2 the deviation is sqrt(1/6).
    side = 0.5 / ((1 / 6) ** 0.5 + 1e-4)
    torch.testing.assert_close(found, torch.tensor([[0.0, -side], [0.0, side]], dtype=torch.float64))


def test_tokens_of_a_turn_are_compared_alike():
    """Two turns of two tokens against two of one: what matters is the turn, not the place of the token."""
    rows = credit([[0.0, 1.0, 0.0, 2.0], [3.0, 4.0]], ends=[[0.0, 1.0, 0.0, 1.0], [1.0, 1.0]])
    found = return_advantages(1.0, baseline="leave_one_out")(rows).advantage_EJ
    assert found.tolist() == [[-4.0, -4.0, -2.0, -2.0], [4.0, 2.0, 0.0, 0.0]]


def test_turns_from_one_state_are_compared_with_one_another():
    """GiGPO: group 0 has returns to go [3, 2] and [6, 1]. State 7 is met in three turns, in state 9 by one alone."""
    rows = credit([[1.0, 2.0], [5.0, 1.0]])
    rows = replace(rows, group_E=torch.tensor([0, 0]), state_EJ=torch.tensor([[7, 7], [7, 9]]))
    found = same_state_advantages(1.0, 1.0, scaled=False)(rows).advantage_EJ
    mean = (3 + 2 + 6) / 3
    expected = torch.tensor([[-1.5 + 3 - mean, -1.5 + 2 - mean], [1.5 + 6 - mean, 1.5]], dtype=torch.float64)
    torch.testing.assert_close(found, expected)
    apart = replace(rows, group_E=torch.tensor([0, 1]))
    alone = same_state_advantages(1.0, 1.0, scaled=False)(apart).advantage_EJ
    torch.testing.assert_close(alone, torch.tensor([[0.5, -0.5], [0.0, 0.0]], dtype=torch.float64))


def test_a_constant_added_to_all_returns_changes_nothing():
    low, high = (
        return_advantages(1.0, baseline="leave_one_out")(credit(rows)) for rows in ([[1.0], [3.0]], [[11.0], [13.0]])
    )
    torch.testing.assert_close(low.advantage_EJ, high.advantage_EJ)


def test_normalised_advantages_have_mean_0_and_deviation_1_over_real_tokens():
    rows = credit([[1.0, 2.0, 6.0], [3.0]])
    found = normalized(rows.reward_EJ, rows.mask_EJ)
    kept = found[rows.mask_EJ]
    assert kept.mean().abs() < 1e-12
    assert kept.std(correction=0).item() == pytest.approx(1, abs=1e-6)
    assert (found[~rows.mask_EJ] == 0).all()
    assert (normalized(torch.full((2, 1), 5.0), torch.ones(2, 1, dtype=torch.bool)) == 0).all()


THETA, REWARDS = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64), torch.tensor([1.0, 0.2, 0.0], dtype=torch.float64)


GOLDEN = {"none": [1.0] * 3, "leave_one_out": [1.0] * 3, "mean": [0.75] * 3, "scaled": [1.495, 0.620, 1.711]}


@pytest.mark.parametrize("kind", list(GOLDEN))
def test_the_expected_gradient_on_a_bandit(kind):
    """Three arms, four pulls a step: the estimate is averaged over all 81 outcomes with their probabilities.

    REINFORCE and RLOO are exact, the mean shrinks by (n - 1) / n, and GRPO's standard deviation turns the direction.
    """
    advantages = return_advantages(1.0, baseline="mean" if kind == "scaled" else kind, scaled=kind == "scaled")
    theta = THETA.clone().requires_grad_()
    (exact,) = torch.autograd.grad(theta.softmax(0) @ REWARDS, theta)
    expected = torch.zeros(3, dtype=torch.float64)
    for arms in itertools.product(range(3), repeat=4):
        pulls = torch.tensor(arms)
        logp = theta.log_softmax(0)[pulls]
        rows = credit([[reward] for reward in REWARDS[pulls].tolist()])
        advantage = advantages(rows).advantage_EJ
        (gradient,) = torch.autograd.grad(-reinforce_loss(logp[:, None], advantage).mean(), theta)
        expected += logp.detach().sum().exp() * gradient
    golden = torch.tensor(GOLDEN[kind], dtype=torch.float64)
    torch.testing.assert_close(expected / exact, golden, atol=1e-12 if kind != "scaled" else 1e-3, rtol=0)
    if kind == "scaled":
        assert torch.cosine_similarity(expected, exact, dim=0).item() == pytest.approx(0.9935, abs=1e-4)


@pytest.mark.parametrize("baseline", [0.0, 0.7])
def test_the_expected_gradient_on_a_decision_process_is_exact(baseline):
    """Two turns: action 0 ends with reward .1, action 1 leads to one of two states with probabilities .6 and .4."""
    theta = torch.tensor([[0.2, -0.3], [0.5, 0.1], [-0.4, 0.8]], dtype=torch.float64, requires_grad=True)
    gamma, last = 0.9, torch.tensor([[1.0, 0.0], [-0.5, 0.3]], dtype=torch.float64)
    policy = theta.softmax(1)
    later = (policy[1:] * last).sum(1)
    value = policy[0, 0] * 0.1 + policy[0, 1] * gamma * (0.6 * later[0] + 0.4 * later[1])
    (exact,) = torch.autograd.grad(value, theta, retain_graph=True)

    episodes = [(1.0, [(0, 0)], [0.1])]
    for state, chance in ((1, 0.6), (2, 0.4)):
        episodes += [(chance, [(0, 1), (state, a)], [0.0, float(last[state - 1, a])]) for a in (0, 1)]
    found = return_advantages(gamma, baseline="none")(credit([rewards for _, _, rewards in episodes]))
    expected = torch.zeros_like(exact)
    for e, (chance, taken, _) in enumerate(episodes):
        logp = torch.stack([theta.log_softmax(1)[state, action] for state, action in taken])
        # The return from turn t on, counted from t, is discounted to the start for the gradient of the start's value.
        weight = gamma ** torch.arange(len(taken), dtype=torch.float64)
        advantage = weight * (found.advantage_EJ[e, : len(taken)] - baseline)
        (gradient,) = torch.autograd.grad(-reinforce_loss(logp, advantage).sum(), theta, retain_graph=True)
        expected += chance * logp.detach().sum().exp() * gradient
    torch.testing.assert_close(expected, exact, atol=1e-15, rtol=1e-12)
