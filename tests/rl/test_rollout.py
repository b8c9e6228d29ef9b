"""Playing and recording."""

import gymnasium
import pytest
import torch

from rl.collect import collect
from rl.episodes import EVALUATION, TRAINING, EpisodeSeeds, derived_seed

LAKE = {"env": "trillium/FrozenLake-v0", "env_kwargs": {"horizon": 6}}
COUNTING = {"env": "tests/Counting-v0", "env_kwargs": {"length": 4, "longest": 2}}


def rescored(task, rollout):
    """Teacher-forced log-probabilities of all turns at once: contexts of different lengths stand side by side."""
    return task.policy.logprobs(rollout.contexts, rollout.samples, allowed_BTV=rollout.allowed_NTV())


@pytest.mark.parametrize("network", ["transformer", "lstm", "mlp"])
@pytest.mark.parametrize("context", ["observation", "history"])
@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
@pytest.mark.parametrize("game", [LAKE, COUNTING, {}])
def test_sampled_probabilities_are_those_that_training_computes(make_task, game, temperature, context, network, seeds):
    task = make_task(temperature=temperature, context=context, network=network, **game)
    rollout = task.play(seeds(12))
    torch.testing.assert_close(rollout.samples.logprobs_BT, rescored(task, rollout), atol=1e-5, rtol=0)


def test_a_masked_distribution_is_renormalised(make_task, seeds):
    task = make_task(**LAKE)
    rollout = task.play(seeds(6))
    actions = task.player.interface.tokenizer.encode("LDRU")
    hidden = task.policy.hidden(rollout.contexts, rollout.samples)
    probability = task.policy.distribution(hidden, rollout.allowed_NTV()).softmax(-1)[:, 0]
    torch.testing.assert_close(probability[:, actions].sum(-1), torch.ones(len(rollout.turns)))
    assert all(turn.valid for turn in rollout.turns)
    # Without the mask a fresh policy hardly ever hits one of the four letters.
    free = make_task(**LAKE, mask_illegal=False).play(seeds(6))
    assert free.allowed_NTV() is None
    assert sum(turn.valid for turn in free.turns) < len(free.turns) / 2


def test_the_record_of_a_game(make_task, seeds):
    rollout = make_task(**LAKE).play(seeds(5))
    task = make_task(**LAKE)
    env = gymnasium.make("trillium/FrozenLake-v0", horizon=6)
    for episode in range(5):
        turns = [t for t, e in zip(rollout.turns, rollout.episode_N.tolist()) if e == episode]
        observation, info = env.reset(seed=seeds(5)[episode].environment)
        for number, turn in enumerate(turns):
            assert (turn.observation, turn.state_key) == (observation, info["state_key"])
            observation, reward, terminated, truncated, info = env.step(turn.action)
            assert (turn.reward, turn.terminated, turn.truncated) == (reward, terminated, truncated)
            assert (terminated or truncated) == (number == len(turns) - 1)
        assert rollout.final_observations[episode] == observation
        assert rollout.final_contexts[episode] == task.player.interface.start(observation)
        assert rollout.truncated_E[episode] == turns[-1].truncated
    lengths = torch.bincount(rollout.episode_N).tolist()
    assert rollout.turn_N.tolist() == [n for length in lengths for n in range(length)]
    assert rollout.transcript(0)[0] == {"role": "environment", "text": "r0c0:"}


def test_rewards_stand_on_the_last_token_of_their_turn_the_end_token_included(make_task, seeds):
    task = make_task(**COUNTING)
    rollout = task.play(seeds(30))
    mask, rewards = rollout.mask_NT, rollout.reward_NT
    last = mask.sum(1) - 1
    assert mask.sum(1).unique().tolist() == [1, 2, 3]
    torch.testing.assert_close(rewards[torch.arange(len(mask)), last], rollout.reward_N)
    torch.testing.assert_close(rewards.sum(1), rollout.reward_N)
    ended = rollout.samples.tokens_BT[torch.arange(len(mask)), last] == task.player.interface.stop_id
    assert ended.equal(rollout.samples.finished_B)
    assert ended.any()
    assert (rollout.samples.logprobs_BT[torch.arange(len(mask)), last] < 0).all()


def test_an_answer_cut_by_the_length_limit_does_not_end_the_game(make_task, seeds):
    rollout = make_task(**COUNTING).play(seeds(30))
    cut = [n for n in range(len(rollout.turns)) if not rollout.samples.finished_B[n]]
    assert cut
    assert {rollout.turns[n].terminated for n in cut} == {
        rollout.turns[n].terminated for n in range(len(rollout.turns))
    }


def test_tokens_by_turn_and_by_episode_are_the_same_tokens(make_task, seeds):
    rollout = make_task(**COUNTING).play(seeds(9))
    numbers = torch.arange(1, rollout.mask_NT.numel() + 1).view(rollout.mask_NT.shape)
    by_episode = rollout.by_episode(numbers)
    for episode in range(9):
        mine = rollout.episode_N == episode
        expected = numbers[mine][rollout.mask_NT[mine]]
        assert by_episode[episode][rollout.mask_EJ[episode]].equal(expected)
        assert rollout.mask_EJ[episode].sum() == len(expected)
    assert rollout.by_turn(by_episode).equal(numbers * rollout.mask_NT)
    torch.testing.assert_close(rollout.by_episode(rollout.reward_NT).sum(1), rollout.returns_E)


def test_history_only_ever_grows(make_task, seeds):
    task = make_task(**COUNTING, context="history")
    rollout = task.play(seeds(6))
    answers = rollout.samples.lists()
    for n in range(1, len(rollout.turns)):
        if rollout.episode_N[n] != rollout.episode_N[n - 1]:
            continue
        seen = rollout.contexts[n - 1] + answers[n - 1]
        assert rollout.contexts[n] == seen + task.player.interface.tokenizer.encode(rollout.turns[n].observation)


def test_a_turn_limit_truncates(make_task, seeds):
    rollout = make_task(env="tests/Counting-v0", max_turns=2).play(seeds(4))
    assert torch.bincount(rollout.episode_N).tolist() == [2] * 4
    assert rollout.truncated_E.all()
    assert not any(turn.terminated for turn in rollout.turns)
    # On its last turn the game ends by itself: that is no truncation.
    ended = make_task(env="tests/Counting-v0", max_turns=3).play(seeds(4))
    assert not ended.truncated_E.any()


@pytest.mark.parametrize("game", [LAKE, COUNTING])
def test_an_episode_does_not_depend_on_those_beside_it(make_task, game, seeds):
    together = make_task(**game).play(seeds(6))
    for number in range(6):
        alone = make_task(**game).play(seeds(1, first=number))
        assert alone.transcript(0) == together.transcript(number)
        assert alone.returns_E[0] == together.returns_E[number]


def test_greedy_play_takes_the_most_likely_token(make_task, seeds):
    task = make_task(**LAKE)
    rollout = task.play(seeds(3), greedy=True)
    logits = task.policy.distribution(task.policy.hidden(rollout.contexts, rollout.samples), rollout.allowed_NTV())
    assert rollout.samples.tokens_BT.equal(logits.argmax(-1))


def test_legal_actions_of_several_tokens(make_task, seeds):
    rollout = make_task(env="tests/Counting-v0", env_kwargs={"longest": 3, "legal": "++- -"}).play(seeds(20))
    assert {turn.action for turn in rollout.turns} == {"++-", "-"}


def test_collecting_needs_episodes(make_task):
    task = make_task()
    with pytest.raises(ValueError, match="give at least one seed"):
        collect(task.policy, task.player.interface, task.player.pool, [], max_turns=1)


def test_seeds_of_different_purposes_and_numbers_differ():
    made = {derived_seed(seed, purpose, n) for seed in (0, 1) for purpose in (TRAINING, EVALUATION) for n in range(50)}
    assert len(made) == 200
    assert all(0 <= seed < 2**63 for seed in made)


def test_the_source_of_episodes_goes_on_where_it_stopped():
    source = EpisodeSeeds(seed=3, batch_size=4)
    stream = iter(source)
    first, second = next(stream), next(stream)
    assert [seed.number for seed in first + second] == list(range(8))
    again = EpisodeSeeds(seed=3, batch_size=4)
    again.load_state_dict({"next": 4})
    assert next(iter(again)) == second
