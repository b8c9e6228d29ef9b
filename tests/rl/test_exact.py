"""Exact returns and gradients, and what each algorithm's update is on average."""

import json
import math

import numpy as np
import pytest
import torch

from core.cli import main
from core.policy import LanguageModelPolicy
from rl.algorithms import ALGORITHMS
from rl.config import PolicyConfig
from rl.envs.tabular import table_of
from rl.episodes import EVALUATION, EpisodeSeed
from rl.exact import TabularPolicy, agreements, compare
from rl.networks import build_policy

GUESS = ("trillium/GuessNumber-v0", {"numbers": 3, "turns": 2})


def policy_in(env, kwargs, network="mlp", noise=0.5):
    torch.manual_seed(0)
    model, _, player = build_policy(PolicyConfig(env=env, env_kwargs=kwargs, network=network), critic=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=noise)
    policy = LanguageModelPolicy(model, max_new_tokens=player.max_new_tokens, eos_id=player.stop_id)
    return policy, player, TabularPolicy(policy, player.interface, table_of(player.env))


@pytest.mark.parametrize(
    ("env", "kwargs"),
    [GUESS, ("trillium/FrozenLake-v0", {"slippery": True, "horizon": 12}), ("trillium/MiniWordle-v0", {"turns": 2})],
)
def test_exact_returns_are_what_play_gives_on_average(env, kwargs):
    policy, player, tabular = policy_in(env, kwargs, noise=0.1)
    probability = tabular.probabilities(tabular.logprobs()).detach()
    live = torch.from_numpy(tabular.table.legal_SA.any(1))
    torch.testing.assert_close(
        probability.sum(1)[live], torch.ones(int(live.sum()), dtype=torch.float64), atol=1e-5, rtol=0
    )
    played = player.play(policy, [EpisodeSeed.derive(0, EVALUATION, n) for n in range(1500)]).returns_E.numpy()
    error = np.std(played, ddof=1) / math.sqrt(len(played))
    assert abs(played.mean() - tabular.scores().sampled) < 3 * error + 1e-9
    greedy = player.play(policy, [EpisodeSeed.derive(0, EVALUATION, n) for n in range(400)], greedy=True).returns_E
    error = np.std(greedy.numpy(), ddof=1) / math.sqrt(len(greedy))
    if player.max_new_tokens == 1:
        assert abs(float(greedy.mean()) - tabular.scores().greedy) < 3 * error + 1e-9


def test_the_exact_gradient_is_that_of_finite_differences():
    policy, _, tabular = policy_in(*GUESS)
    gradient = tabular.gradient()
    parameter = policy.model.lm_head.bias
    place = int(gradient.abs()[-len(parameter) :].argmax())
    values = []
    for step in (1e-2, -1e-2):
        with torch.no_grad():
            parameter[place] += step
        values.append(tabular.scores().sampled)
        with torch.no_grad():
            parameter[place] -= step
    assert (values[0] - values[1]) / 2e-2 == pytest.approx(float(gradient[-len(parameter) + place]), rel=1e-2)


def test_reinforce_and_rloo_are_exact_and_the_others_are_what_their_definitions_say():
    """Two turns with chance in between, groups of two: ratio 1 in every coordinate, and (n - 1) / n for Dr. GRPO."""
    names = [name for name in ALGORITHMS if name != "remax"]
    found = agreements(*GUESS, names, group_size=2, aggregate="constant", credit="turn", seed=0)
    for name in ("reinforce", "rloo"):
        assert found[name].least == pytest.approx(1, abs=2e-3)
        assert found[name].most == pytest.approx(1, abs=2e-3)
        assert found[name].cosine == pytest.approx(1, abs=1e-6)
    assert found["dr_grpo"].least == pytest.approx(0.5, abs=2e-3)
    assert found["dr_grpo"].most == pytest.approx(0.5, abs=2e-3)
    assert found["ppo"].cosine < 0.9999  # a critic of 0 and lambda below 1


def test_the_standard_deviation_of_a_group_turns_the_gradient():
    """Coordinates shrink by different factors, where without it all shrink by (n - 1) / n."""
    pulls = ("trillium/Bandit-v0", {"arms": 2, "pulls": 2, "markov": True})
    found = agreements(*pulls, ["dr_grpo", "grpo"], group_size=3, aggregate="constant", credit="turn", seed=1)
    assert found["dr_grpo"].most - found["dr_grpo"].least < 0.01
    assert found["dr_grpo"].ratio == pytest.approx(2 / 3, abs=1e-3)
    assert found["grpo"].most - found["grpo"].least > 0.3


def test_comparing_by_hand():
    found = compare(torch.tensor([2.0, 2.0, 5.0]), torch.tensor([1.0, 4.0, 0.0]))
    assert found.ratio == pytest.approx((2 + 8) / 17)
    assert (found.least, found.most) == (0.5, 2.0)
    assert found.cosine == pytest.approx(10 / math.sqrt(33 * 17))


def test_the_command(capsys):
    kwargs = json.dumps(GUESS[1])
    assert main(["exact", GUESS[0], "--env-kwargs", kwargs, "--algorithms", "rloo", "grpo", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["algorithm"] for row in rows] == ["rloo", "grpo"]
    assert rows[0]["ratio"] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trillium/Copy-v0"], "cannot be enumerated"),
        (["trillium/TicTacToe-v0"], "more than 4,096 episodes"),
        ([GUESS[0], "-g", "9"], "too many to enumerate"),
        ([GUESS[0], "--algorithms", "sarsa"], "invalid choice"),
    ],
)
def test_what_cannot_be_done_is_one_line(capsys, arguments, said):
    assert main(["exact", *arguments]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1
    assert said in errors[0]
