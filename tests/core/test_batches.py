import json

import pytest
import torch

from core.training.batches import ShuffledBatches


def source(num_items: int = 10, batch_size: int = 4, seed: int = 0, shuffle: bool = True) -> ShuffledBatches[list[int]]:
    return ShuffledBatches(num_items, batch_size, seed, lambda items: list(items), shuffle=shuffle)


def take(batches: ShuffledBatches[list[int]], count: int) -> list[list[int]]:
    stream = iter(batches)
    return [next(stream) for _ in range(count)]


def test_every_item_once_an_epoch_in_a_new_order() -> None:
    stream = [item for batch in take(source(), 15) for item in batch]
    epochs = [stream[i : i + 10] for i in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_seed_fixes_the_order() -> None:
    assert take(source(seed=3), 5) == take(source(seed=3), 5)
    assert take(source(seed=3), 5) != take(source(seed=4), 5)


def test_unshuffled_goes_in_order() -> None:
    assert take(source(shuffle=False), 3) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1]]


@pytest.mark.parametrize("done", [0, 1, 2, 3, 7])
def test_state_continues_exactly_anywhere(done: int) -> None:
    expected = take(source(), 12)
    first = source()
    take(first, done)
    state = json.loads(json.dumps(first.state_dict()))
    second = source(seed=0)
    second.load_state_dict(state)
    assert take(second, 12 - done) == expected[done:]


def test_batch_larger_than_the_data() -> None:
    (batch,) = take(source(num_items=3, batch_size=7), 1)
    assert sorted(batch[:3]) == sorted(batch[3:6]) == [0, 1, 2]


def test_processes_share_one_global_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = take(source(), 6)
    parts = []
    for rank in range(2):
        monkeypatch.setattr("core.training.distributed.world", lambda: 2)
        monkeypatch.setattr("core.training.distributed.rank", lambda rank=rank: rank)
        parts.append(take(source(), 6))
    assert [a + b for a, b in zip(*parts)] == expected


def test_bad_sizes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="empty"):
        source(num_items=0)
    monkeypatch.setattr("core.training.distributed.world", lambda: 3)
    with pytest.raises(ValueError, match="multiple of the 3 processes, got 4"):
        source()


def test_other_data_is_refused() -> None:
    state = source(num_items=10).state_dict()
    with pytest.raises(ValueError, match="11 items, the checkpoint was trained on 10"):
        source(num_items=11).load_state_dict(state)


LENGTHS = torch.randint(1, 60, (203,), generator=torch.Generator().manual_seed(0)).tolist()


def bucketed(batch_size: int = 8, seed: int = 0, num_items: int = 203) -> ShuffledBatches[list[int]]:
    return ShuffledBatches(num_items, batch_size, seed, lambda items: list(items), lengths=LENGTHS[:num_items])


def padding(batches: list[list[int]]) -> int:
    return sum(
        max(LENGTHS[item] for item in batch) * len(batch) - sum(LENGTHS[item] for item in batch) for batch in batches
    )


@pytest.mark.parametrize(("num_items", "batch_size"), [(203, 8), (203, 1), (40, 8), (7, 9), (1, 3), (130, 8)])
def test_bucketing_draws_every_item_once_an_epoch_in_a_new_order(num_items: int, batch_size: int) -> None:
    count = 3 * num_items // batch_size + 1
    stream = [item for batch in take(bucketed(batch_size, num_items=num_items), count) for item in batch]
    epochs = [stream[start : start + num_items] for start in range(0, 3 * num_items, num_items)]
    assert all(sorted(epoch) == list(range(num_items)) for epoch in epochs)
    if num_items > 9:
        assert len({tuple(epoch) for epoch in epochs}) == 3


def test_bucketing_pads_less_and_is_still_shuffled() -> None:
    plain, grouped = ShuffledBatches(203, 8, 0, list), bucketed()
    before, after = take(plain, 100), take(grouped, 100)
    assert padding(after) < 0.35 * padding(before)
    longest = [max(LENGTHS[item] for item in batch) for batch in after[:16]]
    assert longest != sorted(longest)
    assert take(bucketed(seed=1), 100) != after


@pytest.mark.parametrize("done", [0, 1, 16, 25, 26, 60])
def test_bucketing_continues_exactly_anywhere(done: int) -> None:
    expected = take(bucketed(), 70)
    first, second = bucketed(), bucketed()
    take(first, done)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert take(second, 70 - done) == expected[done:]


def test_processes_share_one_bucketed_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = take(bucketed(), 40)
    parts = []
    for rank in range(2):
        monkeypatch.setattr("core.training.distributed.world", lambda: 2)
        monkeypatch.setattr("core.training.distributed.rank", lambda rank=rank: rank)
        parts.append(take(bucketed(), 40))
    assert [a + b for a, b in zip(*parts)] == expected
