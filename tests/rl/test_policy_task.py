"""The training step, by its invariants."""

import copy
import dataclasses
import math

import pytest
import torch

from core.config import ModelConfig, OptimConfig
from core.training.update import NonFiniteStep
from rl.algorithms import ALGORITHMS
from rl.learner import NothingToLearn, SamplerMismatch

TINY = ModelConfig(width=16, num_layers=1, num_heads=1, max_length=64)
LAKE = {"env": "trillium/FrozenLake-v0", "env_kwargs": {"horizon": 6}}
COUNTING = {"env": "tests/Counting-v0", "env_kwargs": {"length": 3, "longest": 2}}


def parameters(updater):
    return {name: p.detach().clone() for name, p in updater.module.named_parameters()}


def assert_equal(left, right, **tolerance):
    for name in left:
        torch.testing.assert_close(left[name], right[name], **(tolerance or {"atol": 0, "rtol": 0}))


@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
@pytest.mark.parametrize("game", [{}, LAKE, COUNTING])
def test_at_the_first_update_the_policy_is_the_one_that_played(make_task, game, algorithm, seeds):
    task = make_task(algorithm=algorithm, epochs=1, temperature=0.7, normalize_advantages=True, **game)
    metrics = task.train_step(seeds(16, group_size=task.algorithm.group_size))
    assert metrics["ratio/first_error"] <= 1e-5
    assert abs(metrics["ratio"] - 1) <= 1e-5
    assert metrics["kl"] <= 1e-9
    # Where tokens are not clipped one by one, there is no share of clipped ones.
    assert ("clip_fraction" in metrics) == (algorithm in ("ppo", "grpo", "dr_grpo", "dapo", "gigpo"))
    assert metrics.get("clip_fraction", 0) == 0
    # The advantages have mean 0 over tokens, so the policy's loss is that of the entropy bonus.
    if algorithm in ("ppo", "dapo"):
        assert metrics["loss"] == pytest.approx(-0.01 * metrics["entropy"], abs=1e-6)


@pytest.mark.parametrize("changes", [{}, {"kl_coef": 0.1}, {"epochs": 1}], ids=str)
def test_in_bf16_ratios_start_at_1_too(make_task, changes, seeds):
    """The probabilities that the first update finds are the old ones of all epochs, piece by piece."""
    optim = OptimConfig(lr=1e-2, accumulate=2)
    task = make_task(algorithm="grpo", dtype=torch.bfloat16, optim=optim, **COUNTING, **{"epochs": 3, **changes})
    metrics = task.train_step(seeds(16, group_size=8))
    assert metrics["ratio/first_error"] == 0
    assert 0 < metrics["sampler_gap"] <= 0.2
    assert metrics["kl"] > 0 or task.algorithm.epochs == 1


def test_in_bf16_with_minibatches_a_pass_before_them_finds_the_old_probabilities(make_task, seeds):
    task = make_task(algorithm="grpo", dtype=torch.bfloat16, minibatches=2, **COUNTING)
    metrics = task.train_step(seeds(16, group_size=8))
    assert metrics["ratio/first_error"] <= 0.05
    assert 0 < metrics["sampler_gap"] <= 0.2


def test_further_epochs_move_the_ratio_and_clip_it(make_task, seeds):
    metrics = make_task(algorithm="ppo", epochs=6, clip=0.05, **COUNTING).train_step(seeds(8))
    assert metrics["ratio/first_error"] <= 1e-5
    assert metrics["kl"] > 1e-4
    assert metrics["clip_fraction"] > 0


@pytest.mark.parametrize("algorithm", ["reinforce", "ppo"])
def test_what_is_logged(make_task, algorithm, seeds):
    metrics = make_task(algorithm=algorithm, **LAKE).train_step(seeds(8))
    assert {"return", "return/optimum", "return/random", "regret", "valid", "turns", "entropy", "kl"} <= set(metrics)
    assert metrics["regret"] == pytest.approx(metrics["return/optimum"] - metrics["return"])
    assert ("loss/critic" in metrics) == ("explained_variance" in metrics) == (algorithm == "ppo")
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["tokens"] == round(metrics["turns"] * 8)


def test_ppo_without_clipping_and_critic_is_reinforce(make_task, seeds):
    """No limit on the ratio, one epoch, values of 0, lambda 1: the same update to the last bits of rounding."""
    shared = {"normalize_advantages": False, "gamma": 1.0, **COUNTING}
    plain = make_task(algorithm="reinforce", baseline="none", **shared)
    clipped = make_task(algorithm="ppo", epochs=1, clip=0, gae_lambda=1.0, **shared)
    clipped.model.module.load_state_dict(plain.model.module.state_dict())
    plain.train_step(seeds(8))
    clipped.train_step(seeds(8))
    assert_equal(parameters(plain.model), parameters(clipped.model), atol=1e-6, rtol=1e-4)


def gradient_of(task, rollout, order=None, pieces=1):
    """Gradient of the policy's loss on some turns in some order, split into pieces."""
    from rl.means import Means

    step = task.learner._credit(rollout, Means())
    turns = torch.arange(len(rollout.turns)) if order is None else order
    task.model.module.zero_grad()
    total = 0
    for part in turns.tensor_split(pieces):
        loss, count = task.learner._policy_loss(step, part, Means())
        loss.backward()
        total += count
    return {name: p.grad / total for name, p in task.model.module.named_parameters()}


@pytest.mark.parametrize("network", ["transformer", "lstm"])
def test_order_and_splitting_leave_the_gradient_alone(make_task, network, seeds):
    task = make_task(**COUNTING, context="history", network=network)
    rollout = task.play(seeds(8))
    whole = gradient_of(task, rollout)
    shuffled = torch.randperm(len(rollout.turns), generator=torch.Generator().manual_seed(0))
    assert_equal(whole, gradient_of(task, rollout, shuffled), atol=1e-6, rtol=1e-4)
    assert_equal(whole, gradient_of(task, rollout, shuffled, pieces=5), atol=1e-6, rtol=1e-4)


def test_accumulation_leaves_the_update_alone(make_task, seeds):
    """With Adam, rounding would decide about parameters whose gradient is next to nothing."""
    whole, split = (
        make_task(algorithm="ppo", optim=OptimConfig(lr=1e-2, optimizer="sgd", accumulate=pieces), **COUNTING)
        for pieces in (1, 3)
    )
    for task in (whole, split):
        task.train_step(seeds(8))
    assert_equal(parameters(whole.model), parameters(split.model), atol=1e-5, rtol=1e-3)
    assert_equal(parameters(whole.critic), parameters(split.critic), atol=1e-5, rtol=1e-3)


def test_only_sampled_tokens_carry_loss(make_task, seeds):
    """The loss reads the hidden states that predict sampled tokens, and no others; padding is never read."""
    task = make_task(**COUNTING, context="history", normalize_advantages=False)
    rollout = task.play(seeds(8))
    read, seen = [], []

    def keep_tokens(module, inputs, output):
        read.append(inputs[0])

    def keep_hidden(module, inputs, output):
        output.retain_grad()
        seen.append(output)

    handles = [
        task.model.module.model.embed_tokens.register_forward_hook(keep_tokens),
        task.model.module.model.norm.register_forward_hook(keep_hidden),
    ]
    before = gradient_of(task, rollout)
    for handle in handles:
        handle.remove()
    ((tokens,), (hidden,)) = read, seen
    touched = hidden.grad.abs().sum(-1) > 0
    # Every episode is one row: turns are read as parts of it, and not again for each of them.
    assert len(tokens) <= 8 < len(rollout.contexts)
    predicting = set()
    for context, sampled in zip(rollout.contexts, rollout.samples.lists()):
        for t in range(len(sampled)):
            predicting.add((*context, *sampled[:t]))
    found = {tuple(row[: t + 1].tolist()) for row, where in zip(tokens, touched) for t in where.nonzero().flatten()}
    assert found <= predicting
    assert len(found) > 8
    # Other values in the padding of the samples change nothing.
    garbage = torch.where(rollout.mask_NT, rollout.samples.tokens_BT, 3)
    other = dataclasses.replace(rollout, samples=dataclasses.replace(rollout.samples, tokens_BT=garbage))
    assert_equal(before, gradient_of(task, other))


@pytest.mark.parametrize(
    ("algorithm", "network"),
    [(name, "transformer") for name in ALGORITHMS]
    + [(name, network) for name in ("reinforce", "ppo", "grpo", "gspo") for network in ("lstm", "mlp")],
)
def test_every_algorithm_learns_with_every_network(make_task, algorithm, network, config, seeds):
    """Three actions of which one is right: some steps make it likelier."""
    optim = dataclasses.replace(config.optim, lr=1e-2)
    game = {"env_kwargs": {"length": 1, "alphabet": "abc"}, "max_noop_steps": 0}
    task = make_task(algorithm=algorithm, network=network, optim=optim, noise=0.05, entropy_coef=0.0, **game)
    size = task.algorithm.group_size
    returns = [task.train_step(seeds(64, first=64 * n, group_size=size))["return"] for n in range(40)]
    assert returns[0] < 0.5
    assert sum(returns[-5:]) / 5 > 0.7


def test_groups_without_differences_are_replaced(make_task, seeds):
    """Groups of two: where both were right or both were wrong, another start is played."""
    task = make_task(algorithm="dapo", group_size=2, env_kwargs={"length": 1, "alphabet": "ab"}, noise=0.05)
    metrics = task.train_step(seeds(16, group_size=2))
    assert metrics["replaced_groups"] > 0
    assert metrics["equal_groups"] == 0
    assert metrics["tokens"] == 16
    plain = make_task(
        algorithm="dapo", group_size=2, dynamic_sampling="off", env_kwargs={"length": 1, "alphabet": "ab"}
    )
    assert plain.train_step(seeds(16, group_size=2))["equal_groups"] > 0


def test_a_replaced_group_is_a_start_of_its_own(make_task, seeds):
    """In the first batch training and replacement groups have the same numbers; they are still other starts."""
    task = make_task(algorithm="dapo", group_size=2, env_kwargs={"length": 1, "alphabet": "ab"}, noise=0.05)
    batch = seeds(16, group_size=2)
    rollout, played = task._with_differences(task.play(batch), batch)
    assert played > 0
    starts = {}
    for episode, group in enumerate(rollout.group_E.tolist()):
        starts.setdefault(group, set()).add(rollout.seeds[episode].environment)
    assert all(len(found) == 1 for found in starts.values())
    assert torch.bincount(rollout.group_E).tolist() == [2] * len(starts)


def test_dynamic_sampling_needs_groups(make_task):
    with pytest.raises(ValueError, match="group_size of at least 2"):
        make_task(algorithm="ppo", dynamic_sampling="on")


def test_a_step_that_fails_leaves_nothing_changed(make_task, seeds):
    task = make_task(kl_coef=0.5, kl_target=0.01, **COUNTING)
    task.train_step(seeds(8))
    before = copy.deepcopy(task.state_dict())
    with torch.no_grad():
        task.model.module.lm_head.weight[0] = float("nan")
    with pytest.raises((NonFiniteStep, SamplerMismatch, ValueError)):
        task.train_step(seeds(8, first=8))
    after = task.state_dict()
    assert after["step"] == before["step"] == 1
    assert after["learner"]["kl_coef"] == before["learner"]["kl_coef"]


def test_the_greedy_baseline_is_discounted_as_returns_are(make_task, seeds):
    task = make_task(algorithm="remax", gamma=0.9, env="tests/Counting-v0", env_kwargs={"legal": "+"})
    rollout = task.play(seeds(4))
    assert task._greedy_returns(rollout).tolist() == pytest.approx([1 + 0.9 + 0.81] * 4)
    # One legal action: sampled play is greedy play, and there is nothing to learn.
    assert task.train_step(seeds(4))["grad_norm"] == pytest.approx(0, abs=1e-6)


def test_the_divergence_from_the_start_costs_reward_or_loss_and_follows_its_target(make_task, seeds):
    """At the start it is 0; after some updates it is not, and its coefficient moves by at most 2 % a step."""
    for kind in ("reward", "loss"):
        task = make_task(kl_coef=0.5, kl=kind, kl_target=0.01, **COUNTING)
        first = task.train_step(seeds(8))
        assert first["kl_to_start"] == pytest.approx(0, abs=1e-5)
        assert first["kl_coef"] == 0.5
        assert task.learner.kl_coef == pytest.approx(0.49)
        for n in range(1, 4):
            later = task.train_step(seeds(8, first=8 * n))
        assert later["kl_to_start/k3"] > 1e-3
        assert task.state_dict()["learner"]["kl_coef"] == task.learner.kl_coef != 0.49


def test_a_strong_divergence_cost_keeps_the_policy_at_its_start(make_task, seeds):
    moved = {}
    for coef in (0.0, 10.0):
        task = make_task(kl_coef=coef, kl="loss", entropy_coef=0.0, algorithm="ppo", **COUNTING)
        for n in range(6):
            task.train_step(seeds(8, first=8 * n))
        moved[coef] = task.evaluate()["kl_from_start"]
    assert moved[10.0] < moved[0.0] / 3


def test_responses_that_are_nearly_too_long_lose_reward(make_task, seeds):
    """Two letters and the end token are the longest: with room for two, lengths 1, 2, 3 cost 0, 1/2 and 1."""
    task = make_task(overlong_tokens=2, **COUNTING)
    rollout = task.play(seeds(30))
    penalty = task.learner._overlong(rollout).sum(1)
    assert penalty.tolist() == [(count - 1) / 2 for count in rollout.mask_NT.sum(1).tolist()]


def test_steps_that_teach_nothing_stop_the_run_when_they_last(make_task, seeds):
    task = make_task(env="tests/Counting-v0", env_kwargs={"legal": "+"}, max_noop_steps=3)
    task.train_step(seeds(4))
    task.train_step(seeds(4))
    with pytest.raises(NothingToLearn, match="for 3 steps all episodes had the same return"):
        task.train_step(seeds(4))
    # At a known optimum there is nothing left to learn, and nothing wrong.
    solved = make_task(env_kwargs={"length": 1, "alphabet": "a"}, max_noop_steps=2)
    for n in range(4):
        solved.train_step(seeds(4, first=4 * n))
    assert solved.learner.noop_steps == 0


def test_greedy_play_from_the_same_start_is_the_baseline_of_remax(make_task, seeds):
    task = make_task(algorithm="remax", **LAKE)
    rollout = task.play(seeds(6))
    greedy = task._greedy_returns(rollout)
    alone = [task.play([seed], greedy=True).returns_E.item() for seed in rollout.seeds]
    assert greedy.tolist() == alone


def test_an_update_without_gradient_is_counted(make_task, seeds):
    """One legal action: its probability is 1 whatever the weights are, so there is nothing to learn."""
    task = make_task(env="tests/Counting-v0", env_kwargs={"legal": "+"}, entropy_coef=0.0)
    before = parameters(task.model)
    assert task.train_step(seeds(4))["noop_updates"] == 1
    assert task.train_step(seeds(4))["noop_updates"] == 2
    assert task.state_dict()["learner"]["noop_updates"] == 2
    assert_equal(before, parameters(task.model))
    assert make_task(**COUNTING).train_step(seeds(4))["noop_updates"] == 0


def test_equal_returns_give_no_update(make_task, seeds):
    """Nothing of an environment that rewards all the same is learned, with a leave-one-out baseline."""
    task = make_task(env_kwargs={"max_invalid": 1, "invalid_penalty": 0.0}, entropy_coef=0.0)
    rollout = task.play(seeds(6))
    assert rollout.returns_E.unique().numel() == 1
    assert task.train_step(seeds(6))["grad_norm"] == 0


def test_equal_seeds_give_equal_training(make_task, seeds):
    runs = []
    for _ in range(2):
        task = make_task(algorithm="ppo", minibatches=3, **COUNTING)
        runs.append([task.train_step(seeds(8, first=8 * n)) for n in range(3)])
    assert runs[0] == runs[1]


def test_a_model_that_misjudges_its_own_samples_stops_the_run(make_task, seeds):
    task = make_task(**COUNTING)
    drawn = task.play(seeds(4))
    shifted = dataclasses.replace(drawn.samples, logprobs_BT=drawn.samples.logprobs_BT - 0.01)
    task.play = lambda *a, **k: dataclasses.replace(drawn, samples=shifted)
    with pytest.raises(SamplerMismatch, match=r"ratio is 0\.01 away from 1"):
        task.train_step(seeds(4))


def test_at_the_start_the_policy_is_the_reference(make_task, seeds):
    task = make_task(**LAKE)
    scores = task.evaluate()
    assert abs(scores["kl_from_start"]) < 1e-6
    assert scores["entropy"] > 0.5
    for n in range(3):
        task.train_step(seeds(8, first=8 * n))
    assert task.evaluate()["kl_from_start"] > 1e-3
    assert task.evaluate() == task.evaluate()


def test_evaluation_leaves_no_trace(make_task, seeds):
    plain, evaluated = make_task(**LAKE), make_task(**LAKE)
    for n in range(2):
        plain.train_step(seeds(8, first=8 * n))
        evaluated.train_step(seeds(8, first=8 * n))
        evaluated.evaluate()
    assert_equal(parameters(plain.model), parameters(evaluated.model))


def test_state_goes_through_save_and_load(make_task, seeds):
    first = make_task(algorithm="ppo", **COUNTING)
    first.train_step(seeds(8))
    second = make_task(algorithm="ppo", noise=0.0, **COUNTING)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert first.train_step(seeds(8, first=8)) == second.train_step(seeds(8, first=8))


@pytest.mark.parametrize(("algorithm", "steps"), [("reinforce", 100), ("ppo", 30)])
def test_it_learns(make_task, algorithm, steps, config, seeds):
    """Two letters, one to copy: from below chance to almost always."""
    optim = dataclasses.replace(config.optim, lr=1e-2, schedule="linear")
    task = make_task(
        noise=0.0,
        algorithm=algorithm,
        env_kwargs={"length": 1, "alphabet": "ab"},
        optim=optim,
        normalize_advantages=True,
        mask_illegal=False,
    )
    before = task.evaluate()["return"]
    for n in range(steps):
        task.model.follow(n, steps)
        task.train_step(seeds(32, first=32 * n))
    assert before < 0.3
    assert task.evaluate()["return"] > 0.95
