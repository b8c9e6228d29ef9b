"""Windows of a token stream: the order, exact resume, several processes, evaluation."""

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.text.dataset import TokenWindows, sequential_windows

TOKENS = np.arange(1000, dtype=np.uint16)


def take(source, count):
    return list(itertools.islice(iter(source), count))


def same(first, second):
    return all(torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("order", ["random", "epoch"])
def test_targets_are_the_inputs_one_token_later(order):
    for inputs, targets in take(TokenWindows(TOKENS, 16, 8, order=order), 40):
        assert inputs.shape == targets.shape == (8, 16)
        assert inputs.dtype == targets.dtype == torch.int64
        assert (targets == inputs + 1).all()  # TOKENS counts up
        assert (inputs.diff(dim=1) == 1).all()
        assert targets.max() < 1000


@pytest.mark.parametrize("order", ["random", "epoch"])
@pytest.mark.parametrize("cut", [0, 1, 7, 30])
def test_resume_in_the_middle_of_an_epoch_is_exact(order, cut):
    whole = take(TokenWindows(TOKENS, 16, 8, seed=5, order=order), 40)
    source = TokenWindows(TOKENS, 16, 8, seed=5, order=order)
    take(source, cut)
    state = json.loads(json.dumps(source.state_dict()))
    again = TokenWindows(TOKENS, 16, 8, seed=5, order=order)
    again.load_state_dict(state)
    assert same(take(again, 40 - cut), whole[cut:])


@pytest.mark.parametrize("order", ["random", "epoch"])
def test_seeds_differ_and_repeat(order):
    first, again, other = (take(TokenWindows(TOKENS, 16, 8, seed=s, order=order), 3) for s in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)


@pytest.mark.parametrize("order", ["random", "epoch"])
@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_the_batch_of_one_process(order, world):
    single = take(TokenWindows(TOKENS, 16, 8, order=order), 10)
    parts = [take(TokenWindows(TOKENS, 16, 8, order=order, rank=rank, world=world), 10) for rank in range(world)]
    joined = [tuple(torch.cat(tensors) for tensors in zip(*step, strict=True)) for step in zip(*parts, strict=True)]
    assert same(joined, single)


def test_every_start_is_drawn_and_none_is_out_of_range():
    source = TokenWindows(np.arange(20), 4, 64)
    starts = np.concatenate([source.starts(step) for step in range(20)])
    assert set(starts) == set(range(16))  # the last window is 15..18 with target 19


def test_an_epoch_visits_each_window_once_and_the_next_begins_at_another_phase():
    length, per_epoch = 10, (1000 - 10) // 10
    source = TokenWindows(TOKENS, length, per_epoch, order="epoch")
    epochs = [np.sort(source.starts(step)) for step in range(6)]
    for starts in epochs:
        assert (np.diff(starts) == length).all()
        assert starts[-1] + length + 1 <= 1000
    assert len({int(starts[0]) for starts in epochs}) > 1


def test_epochs_go_on_across_batches():
    per_epoch = (100 - 10) // 10
    source = TokenWindows(np.arange(100), 10, 4, order="epoch")
    starts = np.concatenate([source.starts(step) for step in range(9)])[: 4 * per_epoch]
    for epoch in starts.reshape(4, per_epoch):
        assert len(set(epoch % 10)) == 1
        assert len(set(epoch)) == per_epoch


@pytest.mark.parametrize("tokens", [list(range(50)), torch.arange(50), np.arange(50, dtype=np.uint32)])
def test_lists_tensors_and_arrays_are_alike(tokens):
    assert same(take(TokenWindows(tokens, 4, 3), 5), take(TokenWindows(np.arange(50), 4, 3), 5))
    assert same(list(sequential_windows(tokens, 7)), list(sequential_windows(np.arange(50), 7)))


def test_memory_mapped_file(tmp_path):
    file = tmp_path / "tokens.bin"
    TOKENS.tofile(file)
    assert same(take(TokenWindows(np.memmap(file, np.uint16, "r"), 16, 4), 3), take(TokenWindows(TOKENS, 16, 4), 3))


@given(st.integers(2, 60), st.integers(1, 70), st.integers(1, 5))
@settings(max_examples=150, deadline=None)
def test_evaluation_scores_every_position_exactly_once(num_tokens, length, batch_size):
    batches = list(sequential_windows(np.arange(num_tokens), length, batch_size))
    targets = [t for _, y in batches for t in y.flatten().tolist()]
    assert targets == list(range(1, num_tokens))
    for inputs, outputs in batches:
        assert (outputs == inputs + 1).all()
        assert inputs.shape[1] <= length
        assert len(inputs) <= batch_size


def test_tail_is_a_shorter_last_window():
    shapes = [tuple(x.shape) for x, _ in sequential_windows(np.arange(1000), 64, 10)]
    assert shapes == [(10, 64), (5, 64), (1, 39)]


@pytest.mark.parametrize(
    ("tokens", "length", "batch", "options", "message"),
    [
        ([], 4, 2, {}, "need at least 5 tokens, the data has 0"),
        ([1], 4, 2, {}, "need at least 5 tokens, the data has 1"),
        (range(4), 4, 2, {}, "the data has 4; give more text or a shorter length"),
        (range(7), 4, 2, {"order": "epoch"}, "need at least 8 tokens"),
        (range(9), 0, 2, {}, "length and batch_size must be >= 1, got 0 and 2"),
        (range(9), 2, 0, {}, "must be >= 1"),
        (range(9), 2, 2, {"order": "sorted"}, "order must be one of random, epoch"),
        ([[1, 2], [3, 4]], 1, 1, {}, r"one flat row of ids, got shape \(2, 2\)"),
        ([0.5, 1.5, 2.5], 1, 1, {}, "must be integers"),
    ],
)
def test_data_or_sizes_that_cannot_work_are_refused(tokens, length, batch, options, message):
    with pytest.raises(ValueError, match=message):
        TokenWindows(list(tokens), length, batch, **options)


def test_smallest_data_that_works():
    inputs, targets = take(TokenWindows([7, 8], 1, 2), 1)[0]
    assert (inputs.tolist(), targets.tolist()) == ([[7], [7]], [[8], [8]])
    assert [tuple(x.shape) for x, _ in sequential_windows([7, 8], 256)] == [(1, 1)]
    with pytest.raises(ValueError, match="at least 2 tokens"):
        sequential_windows([7], 4)


def test_changed_data_is_noticed_on_resume():
    state = TokenWindows(TOKENS, 16, 8).state_dict()
    with pytest.raises(ValueError, match="made with 1000 tokens, the data now has 999"):
        TokenWindows(TOKENS[:-1], 16, 8).load_state_dict(state)


def test_batch_that_the_processes_cannot_share_is_refused():
    with pytest.raises(ValueError, match="batch_size 8 cannot be shared by 3 processes"):
        take(TokenWindows(TOKENS, 16, 8, rank=0, world=3), 1)
    with pytest.raises(ValueError, match="rank must be in"):
        take(TokenWindows(TOKENS, 16, 8, rank=2, world=2), 1)
