"""Loader processes: the same batches in the same order as without them, and no silence when one fails."""

import os
import signal
import time
from itertools import islice

import pytest

from core.errors import UserError
from core.training.batches import ShuffledBatches
from core.training.workers import WorkerBatches, WorkerDied


def source(collate=list, **options):
    return ShuffledBatches(23, 4, 7, collate, **options)


def first(batches, count):
    return list(islice(batches, count))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_the_order_does_not_depend_on_the_number_of_processes(workers):
    lengths = [index % 5 for index in range(23)]
    expected = first(source(lengths=lengths), 15)
    assert first(WorkerBatches(source(lengths=lengths), workers), 15) == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_the_state_counts_what_was_taken_not_what_was_prepared(workers):
    batches = WorkerBatches(source(), workers)
    taken = first(batches, 7)
    state = batches.state_dict()
    again = WorkerBatches(source(), workers)
    again.load_state_dict(state)
    assert taken + first(again, 8) == first(source(), 15)
    assert state["drawn"] == 7 * 4


class Damaged(UserError):
    def __init__(self, path, reason):
        super().__init__(f"{path}: {reason}")


class Portable(Damaged):
    def __reduce__(self):
        return type(self), ("five.png", "cut off")


@pytest.mark.parametrize(("raised", "expected"), [(Portable, Portable), (Damaged, RuntimeError)])
def test_an_error_in_a_process_arrives_with_its_message(raised, expected):
    def collate(items):
        if 5 in items:
            raise raised("five.png", "cut off")
        return items

    with pytest.raises(expected, match=r"five.png: cut off"):
        first(WorkerBatches(source(collate), 2), 15)


def test_a_killed_process_ends_the_run_soon_and_names_a_sample():
    parent = os.getpid()

    def collate(items):
        if 5 in items and os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return items

    began = time.monotonic()
    with pytest.raises(WorkerDied, match="begins with item"):
        first(WorkerBatches(source(collate), 2, name_of=lambda item: f"item {item}"), 15)
    assert time.monotonic() - began < 30
