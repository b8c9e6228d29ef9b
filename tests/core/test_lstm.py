"""The LSTM language model: the same surface and the same invariants as the Transformer."""

import pytest
import torch

from core.nn.lstm import LSTM

TOKENS_BT = torch.randint(31, (3, 12), generator=torch.Generator().manual_seed(1))
CLOSE = {"atol": 1e-6, "rtol": 1e-5}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return LSTM(31, 8, 16, num_layers=2).eval()


def run(model, *args, **options):
    with torch.no_grad():
        return model(*args, **options)


def test_surface(model):
    assert (model.vocab_size, model.width) == (31, 16)
    assert run(model, TOKENS_BT).shape == (3, 12, 16)
    assert model.logits(run(model, TOKENS_BT)).shape == (3, 12, 31)
    assert torch.equal(run(model, embeddings_BTD=model.embed(TOKENS_BT)), run(model, TOKENS_BT))
    # embedding; layers 4 * 16 * (in + 16 + 2 biases); head
    assert model.num_parameters() == 31 * 8 + 64 * (8 + 16 + 2) + 64 * (16 + 16 + 2) + 31 * 16 + 31
    with pytest.raises(ValueError, match="either"):
        model()


def test_one_step_by_hand():
    model = LSTM(2, 1, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    # Gates i, f, g, o all see x + 1 + 1 = 3: c = sigmoid(3) * tanh(3), h = sigmoid(3) * tanh(c).
    gate = torch.sigmoid(torch.tensor(3.0))
    expected = gate * torch.tanh(gate * torch.tanh(torch.tensor(3.0)))
    torch.testing.assert_close(run(model, torch.tensor([[0]]))[0, 0, 0], expected)


def test_a_position_does_not_see_the_future(model):
    changed = TOKENS_BT.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % 31
    torch.testing.assert_close(run(model, TOKENS_BT)[:, :6], run(model, changed)[:, :6], atol=0, rtol=0)
    assert (run(model, TOKENS_BT)[:, 6:] - run(model, changed)[:, 6:]).abs().amax(-1).min() > 1e-6


@pytest.mark.parametrize("side", ["left", "right", "both", "inside"])
def test_padding_changes_nothing(side, model):
    rows = [TOKENS_BT[0, :9], TOKENS_BT[1, :4], TOKENS_BT[2, :12]]
    tokens, mask = torch.full((3, 14), 30), torch.zeros(3, 14, dtype=torch.bool)
    for i, row in enumerate(rows):
        places = {
            "left": torch.arange(14 - len(row), 14),
            "right": torch.arange(len(row)),
            "both": torch.arange(1, len(row) + 1),
            "inside": torch.randperm(14, generator=torch.Generator().manual_seed(i))[: len(row)].sort().values,
        }[side]
        tokens[i, places], mask[i, places] = row, True
    found = run(model, tokens, key_mask_BS=mask)
    cache = model.new_cache(3, 14)
    run(model, tokens, key_mask_BS=mask, cache=cache)
    for i, row in enumerate(rows):
        alone_cache = model.new_cache(1, 14)
        alone = run(model, row[None], cache=alone_cache)[0]
        torch.testing.assert_close(found[i][mask[i]], alone, **CLOSE)
        torch.testing.assert_close(cache.hidden_LBC[:, i], alone_cache.hidden_LBC[:, 0], **CLOSE)
        torch.testing.assert_close(cache.cell_LBC[:, i], alone_cache.cell_LBC[:, 0], **CLOSE)


def test_padding_gets_no_gradient(model):
    embeddings = model.embed(TOKENS_BT).detach().requires_grad_()
    mask = torch.arange(12) >= torch.tensor([0, 5, 2])[:, None]
    model(embeddings_BTD=embeddings, key_mask_BS=mask)[mask].sum().backward()
    assert (embeddings.grad[~mask] == 0).all()
    assert (embeddings.grad[mask].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("chunks", [[12], [1] * 12, [5, 4, 3]])
@pytest.mark.parametrize("padded", [False, True])
def test_reading_in_chunks_equals_reading_at_once(padded, chunks, model):
    mask = torch.arange(12) >= torch.tensor([0, 7, 2])[:, None] if padded else None
    expected = run(model, TOKENS_BT, key_mask_BS=mask)
    cache, start, parts = model.new_cache(3, 12), 0, []
    for size in chunks:
        part = slice(start, start + size)
        given = None if mask is None else mask[:, part]
        parts.append(run(model, TOKENS_BT[:, part], key_mask_BS=given, cache=cache))
        start += size
    real = torch.ones(3, 12, dtype=torch.bool) if mask is None else mask
    torch.testing.assert_close(torch.cat(parts, dim=1)[real], expected[real], **CLOSE)


def test_states_can_be_dropped_and_copied(model):
    cache = model.new_cache(3, 12)
    run(model, TOKENS_BT[:, :6], cache=cache)
    cache.select(torch.tensor([2, 0]))
    cache.repeat(2)
    rows = [2, 2, 0, 0]
    found = run(model, TOKENS_BT[rows, 6:], cache=cache)
    torch.testing.assert_close(found, run(model, TOKENS_BT)[rows, 6:], **CLOSE)
    empty = model.new_cache(3, 12)
    empty.select(torch.tensor([0]))
    empty.repeat(3)
    assert empty.hidden_LBC is None


def test_dropout_is_on_in_training_only():
    model = LSTM(31, 8, 16, dropout=0.5)
    assert not torch.equal(run(model, TOKENS_BT), run(model, TOKENS_BT))
    model.eval()
    assert torch.equal(run(model, TOKENS_BT), run(model, TOKENS_BT))
