"""Packing: nothing is lost, nothing is scored twice, and no target crosses documents."""

import itertools
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.text.packing import Packer, pack


def targets(batch):
    """(input, target) of every scored position."""
    keep = batch.mask_BT
    return sorted(zip(batch.tokens_BT[keep].tolist(), batch.targets_BT[keep].tolist(), strict=True))


def test_packing_by_hand():
    batch = pack([[1, 2, 3], [4, 5], [6, 7, 8, 9]], length=4, pad_id=0)
    # five places a row: 1 2 3 4 5 is full, 6 7 8 9 leaves one
    assert batch.tokens_BT.tolist() == [[1, 2, 3, 4], [6, 7, 8, 9]]
    assert batch.targets_BT.tolist() == [[2, 3, 4, 5], [7, 8, 9, 0]]
    assert batch.documents_BT.tolist() == [[1, 1, 1, 2], [1, 1, 1, 1]]
    assert batch.mask_BT.tolist() == [[True, True, False, True], [True, True, True, False]]


def test_long_document_is_cut_with_one_token_of_overlap():
    batch = pack([list(range(10))], length=4)
    assert batch.tokens_BT.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 0]]
    assert targets(batch) == [(i, i + 1) for i in range(9)]
    assert batch.documents_BT[2].tolist() == [1, 1, 0, 0]


@given(st.lists(st.integers(0, 25), max_size=20), st.integers(1, 9), st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_every_token_with_a_predecessor_is_a_target_exactly_once(lengths, length, open_rows):
    documents, first = [], 1
    for size in lengths:
        documents.append(list(range(first, first + size)))
        first += size
    batch = pack(documents, length, open_rows=open_rows)
    expected = sorted((a, b) for ids in documents for a, b in itertools.pairwise(ids))
    assert targets(batch) == expected
    assert batch.tokens_BT.shape == (len(batch), length)
    # a target and all inputs before it in its document are in one row, in order
    inside = batch.documents_BT[:, 1:] == batch.documents_BT[:, :-1]
    real = batch.documents_BT[:, 1:] > 0
    assert (batch.tokens_BT.diff(dim=1)[inside & real] == 1).all()
    assert (batch.tokens_BT[batch.documents_BT == 0] == 0).all()


def test_loss_mask_of_a_document_goes_with_its_tokens():
    document = ([1, 2, 3, 4, 5, 6], [False, False, True, True, False, True])
    batch = pack([document, [7, 8]], length=4)
    assert targets(batch) == [(2, 3), (3, 4), (5, 6), (7, 8)]


def test_short_documents_are_counted():
    packer = Packer(4)
    for ids in ([], [1], [1, 2]):
        packer.add(ids)
    assert (packer.num_documents, packer.num_too_short) == (3, 2)


def test_little_is_wasted():
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(5, 200, (2000,), generator=generator).tolist()
    batch = pack([[1] * size for size in sizes], length=256)
    assert (batch.documents_BT == 0).double().mean() < 0.03


@pytest.mark.parametrize("cut", [0, 3, 17, 40])
def test_state_goes_on_exactly(cut):
    documents = [list(range(100 * n, 100 * n + n % 13)) for n in range(40)]
    whole = pack(documents, 8)
    packer = Packer(8)
    for ids in documents[:cut]:
        packer.add(ids)
    state = json.loads(json.dumps(packer.state_dict()))
    again = Packer(8)
    again.load_state_dict(state)
    for ids in documents[cut:]:
        again.add(ids)
    again.flush()
    rest = again.take(again.num_ready)
    assert torch.equal(rest.tokens_BT, whole.tokens_BT)
    assert torch.equal(rest.mask_BT, whole.mask_BT)


def test_rows_and_devices():
    batch = pack([[1, 2, 3], [4, 5, 6]], 2).to("cpu")
    assert batch.rows(slice(1, 2)).tokens_BT.tolist() == [[4, 5]]
    assert len(pack([], 4)) == 0


def test_bad_sizes_and_masks_are_refused():
    with pytest.raises(ValueError, match="length and open_rows must be >= 1, got 0"):
        Packer(0)
    with pytest.raises(ValueError, match="3 ids has a mask of 2"):
        Packer(4).add(([1, 2, 3], [True, False]))
