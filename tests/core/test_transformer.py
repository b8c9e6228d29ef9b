"""The core Transformer by its invariants: causality, masks, packing, caches, memory, checkpointing, compilation."""

import pytest
import torch

from core.losses import lm_loss
from core.nn import attention
from core.nn.transformer import Transformer

VARIANTS = {
    "qwen3": {},
    "llama-gqa": {"qk_norm": False, "num_kv_heads": 2, "tied": False},
    "gpt2": {"positions": "learned", "norm": "layer", "qk_norm": False, "activation": "gelu_tanh", "bias": True},
}
TOKENS_BT = torch.randint(97, (3, 14), generator=torch.Generator().manual_seed(2))
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(params=VARIANTS)
def model(request, random_model):
    return random_model(**VARIANTS[request.param])


def padded(rows, side, width):
    """tokens_BT and mask_BT of rows of different lengths; padding holds a token that must not matter."""
    tokens_BT, mask_BT = torch.full((len(rows), width), 96), torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        part = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        tokens_BT[i, part], mask_BT[i, part] = row, True
    return tokens_BT, mask_BT


def run(model, *args, **options):
    with torch.no_grad():
        return model(*args, **options)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


ROWS = [TOKENS_BT[0, :9], TOKENS_BT[1, :4], TOKENS_BT[2, :12]]


# Causality and order


def test_a_position_does_not_see_the_future(model):
    changed = TOKENS_BT.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % 97
    assert torch.equal(run(model, TOKENS_BT)[:, :6], run(model, changed)[:, :6])
    # and by gradient: the sum of the outputs up to t depends on the inputs up to t only
    embeddings = model.embed(TOKENS_BT).detach().requires_grad_()
    model(embeddings_BTD=embeddings)[:, :6].sum().backward()
    assert embeddings.grad[:, 6:].abs().max() == 0
    assert (embeddings.grad[:, :6].abs().sum(-1) > 0).all()


def test_every_position_sees_the_whole_past(model):
    embeddings = model.embed(TOKENS_BT).detach().requires_grad_()
    (model(embeddings_BTD=embeddings)[:, -1] ** 2).sum().backward()
    assert (embeddings.grad.abs().sum(-1) > 0).all()


def test_rows_do_not_depend_on_one_another(model):
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(run(model, TOKENS_BT[order]), run(model, TOKENS_BT)[order], **CLOSE)
    torch.testing.assert_close(run(model, TOKENS_BT[1:2]), run(model, TOKENS_BT)[1:2], **CLOSE)


def test_embeddings_in_equal_tokens_in(model):
    assert torch.equal(run(model, embeddings_BTD=model.embed(TOKENS_BT)), run(model, TOKENS_BT))
    for inputs in ({}, {"tokens_BT": TOKENS_BT, "embeddings_BTD": model.embed(TOKENS_BT)}):
        with pytest.raises(ValueError, match="either"):
            model(**inputs)


def test_sequences_longer_than_the_model_are_refused(model):
    with pytest.raises(ValueError, match=r"129 positions is longer than model\.max_length 128"):
        model(torch.zeros(1, 129, dtype=torch.long))


# Padding and packing


def test_padding_on_either_side_changes_nothing(model):
    left, left_mask = padded(ROWS, "left", 13)
    right, right_mask = padded(ROWS, "right", 13)
    from_left = run(model, left, key_mask_BS=left_mask)
    from_right = run(model, right, key_mask_BS=right_mask)
    for i, row in enumerate(ROWS):
        alone = run(model, row[None])[0]
        torch.testing.assert_close(from_left[i][left_mask[i]], alone, **CLOSE)
        torch.testing.assert_close(from_right[i][right_mask[i]], alone, **CLOSE)


def test_a_cache_that_the_model_cannot_fill_is_refused(model):
    with pytest.raises(ValueError, match=r"129 positions, and model\.max_length is 128"):
        model.new_cache(1, 129)


def test_what_stands_in_the_padding_is_never_read(model):
    tokens, mask = padded(ROWS, "left", 13)
    other = torch.where(mask, tokens, 5)
    assert torch.equal(run(model, tokens, key_mask_BS=mask)[mask], run(model, other, key_mask_BS=mask)[mask])


def test_padded_and_packed_batches_give_the_gradients_of_single_rows(model):
    def loss(inputs, mask, **options):
        hidden = model(inputs[:, :-1], **{name: value[:, :-1] for name, value in options.items()})
        return lm_loss(model.logits, hidden, inputs[:, 1:], mask, vocab_size=97)[0]

    expected = gradients(model, sum(loss(row[None], None) for row in ROWS))
    for side in ("left", "right"):
        tokens, real = padded(ROWS, side, 13)
        found = gradients(model, loss(tokens, real[:, 1:] & real[:, :-1], key_mask_BS=real))
        for ours, theirs in zip(found, expected):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    packed = torch.cat(ROWS)[None]
    documents = torch.tensor([0] * 9 + [1] * 4 + [2] * 12)[None]
    inside = documents[:, 1:] == documents[:, :-1]
    for ours, theirs in zip(gradients(model, loss(packed, inside, documents_BT=documents)), expected):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_packed_documents_equal_separate_ones(model):
    documents = torch.tensor([[4] * 9 + [7] * 4 + [4] * 12])  # the same id again, later, would be another document
    documents[0, 13:] = 9
    together = run(model, torch.cat(ROWS)[None], documents_BT=documents)[0]
    alone = torch.cat([run(model, row[None])[0] for row in ROWS])
    torch.testing.assert_close(together, alone, **CLOSE)


def test_a_row_of_padding_gives_finite_gradients(model):
    tokens, mask = padded([ROWS[0], ROWS[0][:0]], "left", 9)
    assert mask[1].sum() == 0
    hidden = model(tokens, key_mask_BS=mask)
    total, count = lm_loss(model.logits, hidden, tokens, mask, vocab_size=97)
    assert count == 9
    assert all(torch.isfinite(grad).all() for grad in gradients(model, total))


# Prefix language model


def first(*lengths, width=14):
    """bool BT: the first positions of each row."""
    return torch.arange(width) < torch.tensor(lengths)[:, None]


def test_packed_documents_have_prefixes_of_their_own(model):
    documents = torch.tensor([[0] * 6 + [1] * 8])
    prefix = torch.tensor([[True] * 3 + [False] * 3 + [True] * 5 + [False] * 3])
    packed = run(model, TOKENS_BT[:1], documents_BT=documents, prefix_BT=prefix)[0]
    for part in (slice(0, 6), slice(6, 14)):
        alone = run(model, TOKENS_BT[:1, part], prefix_BT=prefix[:, part])[0]
        torch.testing.assert_close(packed[part], alone, **CLOSE)


def test_a_prefix_sees_itself_both_ways_and_the_rest_is_causal(model):
    prefix = first(5, 1, 8)

    def changed(*positions):
        tokens = TOKENS_BT.clone()
        tokens[:, list(positions)] = (tokens[:, list(positions)] + 1) % 97
        return tokens

    plain = run(model, TOKENS_BT, prefix_BT=prefix)
    later = run(model, changed(4), prefix_BT=prefix)
    differs = (plain - later).abs().amax(-1) > 1e-6
    # Row 0: position 4 is in the prefix, so every position notices. Row 1: it is not, so only 4 and after do.
    assert differs[0].all()
    assert differs[1].tolist() == [False] * 4 + [True] * 10
    assert differs[2].all()
    target = (plain - run(model, changed(10), prefix_BT=prefix)).abs().amax(-1) > 1e-6
    assert target.tolist() == [[False] * 10 + [True] * 4] * 3


@pytest.mark.parametrize("length", [0, 1])
def test_a_prefix_of_at_most_one_token_is_causal(length, model):
    prefixed = run(model, TOKENS_BT, prefix_BT=first(length, length, length))
    torch.testing.assert_close(prefixed, run(model, TOKENS_BT), **CLOSE)


def test_a_prefix_counts_its_padding(model):
    tokens, mask = padded(ROWS, "left", 13)
    # Five positions of each row are prefix, of which the padding of row 0 is four and that of row 1 nine.
    together = run(model, tokens, key_mask_BS=mask, prefix_BT=first(4 + 5, 9 + 2, 1 + 7, width=13))
    for i, (row, length) in enumerate(zip(ROWS, (5, 2, 7))):
        alone = run(model, row[None], prefix_BT=first(length, width=len(row)))[0]
        torch.testing.assert_close(together[i][mask[i]], alone, **CLOSE)


# Cache


CHUNKS = [[14], [6, 8], [1] * 14, [3, 1, 7, 3]]


@pytest.mark.parametrize(
    ("kind", "chunks"),
    [(kind, chunks) for kind in ("plain", "left-padded", "ragged-chunks") for chunks in CHUNKS]
    + [("prefix", chunks) for chunks in CHUNKS[:2]],  # a prefix has to be read in one call
)
def test_reading_through_a_cache_equals_reading_at_once(kind, chunks, model):
    options = {}
    mask = None
    if kind == "left-padded":
        mask = torch.arange(14) >= torch.tensor([0, 5, 2])[:, None]
    elif kind == "ragged-chunks":  # holes anywhere: what several appended, padded turns leave behind
        mask = torch.rand(3, 14, generator=torch.Generator().manual_seed(4)) > 0.4
        mask[:, 0] = True
    elif kind == "prefix":
        options = {"prefix_BT": first(5, 2, 6)}
    expected = run(model, TOKENS_BT, key_mask_BS=mask, **options)
    cache, start, parts = model.new_cache(3, 14), 0, []
    for size in chunks:
        part = slice(start, start + size)
        # Only a call that holds padding needs to say so.
        given = None if mask is None or bool(mask[:, part].all()) else mask[:, part]
        now = {name: value[:, part] for name, value in options.items()} if start == 0 else {}
        parts.append(run(model, TOKENS_BT[:, part], key_mask_BS=given, cache=cache, **now))
        start += size
    real = torch.ones(3, 14, dtype=torch.bool) if mask is None else mask
    torch.testing.assert_close(torch.cat(parts, dim=1)[real], expected[real], **CLOSE)
    assert cache.next_position_B.tolist() == real.sum(1).tolist()


def test_cached_rows_can_be_dropped_copied_and_continued(model):
    mask = torch.arange(8) >= torch.tensor([0, 5, 2])[:, None]
    cache = model.new_cache(3, 14)
    run(model, TOKENS_BT[:, :8], key_mask_BS=mask, cache=cache)
    cache.select(torch.tensor([2, 1]))
    cache.repeat(2)
    rows = torch.tensor([2, 2, 1, 1])
    found = run(model, TOKENS_BT[rows, 8:], cache=cache)
    whole_mask = torch.cat((mask, torch.ones(3, 6, dtype=torch.bool)), dim=1)
    expected = run(model, TOKENS_BT, key_mask_BS=whole_mask)[rows, 8:]
    torch.testing.assert_close(found, expected, **CLOSE)


# Memory (cross-attention)


@pytest.fixture
def crossing(random_model):
    return random_model(cross_attention_every=2, num_layers=4)


def test_a_closed_gate_is_the_text_only_model_to_the_bit(crossing, random_model):
    plain = random_model(num_layers=4)
    plain.load_state_dict({k: v for k, v in crossing.state_dict().items() if "cross_attn" not in k})
    with torch.no_grad():
        for name, parameter in crossing.named_parameters():
            if name.endswith("cross_attn.gate"):
                parameter.zero_()
    memory = torch.randn(3, 5, 64)
    assert torch.equal(run(crossing, TOKENS_BT, memory_BMD=memory), run(plain, TOKENS_BT))
    assert torch.equal(run(crossing, TOKENS_BT), run(plain, TOKENS_BT))
    assert not any(
        gate.any() for name, gate in Transformer(crossing.config).named_parameters() if name.endswith("cross_attn.gate")
    )


def test_masked_memory_is_never_read(crossing):
    memory, mask = torch.randn(3, 5, 64), torch.tensor([[True] * 5, [True, True, False, False, False], [True] * 5])
    found = run(crossing, TOKENS_BT, memory_BMD=memory, memory_mask_BM=mask)
    other = torch.where(mask[..., None], memory, 99.0)
    assert torch.equal(run(crossing, TOKENS_BT, memory_BMD=other, memory_mask_BM=mask), found)
    alone = run(crossing, TOKENS_BT[1:2], memory_BMD=memory[1:2, :2])
    torch.testing.assert_close(found[1:2], alone, **CLOSE)
    assert (found - run(crossing, TOKENS_BT)).abs().max() > 0.01


def test_memory_is_read_once_and_kept_in_the_cache(crossing):
    memory, mask = torch.randn(3, 5, 64), torch.tensor([[True] * 5, [True] * 2 + [False] * 3, [True] * 5])
    options = {"memory_BMD": memory, "memory_mask_BM": mask}
    cache = crossing.new_cache(3, 14)
    first = run(crossing, TOKENS_BT[:, :6], cache=cache, **options)
    cache.select(torch.tensor([1, 0]))
    second = run(crossing, TOKENS_BT[[1, 0], 6:], cache=cache)
    expected = run(crossing, TOKENS_BT, **options)
    torch.testing.assert_close(first, expected[:, :6], **CLOSE)
    torch.testing.assert_close(second, expected[[1, 0], 6:], **CLOSE)


MASKS = {
    "plain": {},
    "padded": {"key_mask_BS": torch.arange(14) >= torch.tensor([0, 5, 2])[:, None]},
    "packed": {"documents_BT": torch.arange(14).expand(3, -1) // 5},
    "prefix": {"prefix_BT": first(5, 2, 6)},
}


# Training


@pytest.mark.parametrize("options", [{}, {"documents_BT": torch.arange(14).expand(3, -1) // 5}])
def test_gradient_checkpointing_gives_the_same_gradients(options, model):
    model.train()
    expected = gradients(model, model(TOKENS_BT, **options).square().sum())
    model.gradient_checkpointing = True
    found = gradients(model, model(TOKENS_BT, **options).square().sum())
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected))


def test_gradient_checkpointing_repeats_the_dropout(random_model):
    model = random_model(dropout=0.3).train()
    results = []
    for checkpointing in (False, True):
        model.gradient_checkpointing = checkpointing
        torch.manual_seed(0)
        results.append(gradients(model, model(TOKENS_BT).square().sum()))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*results))


def test_checkpointed_memory_gets_its_gradient(crossing):
    memory = torch.randn(3, 5, 64, requires_grad=True)
    crossing.train()
    crossing(TOKENS_BT, memory_BMD=memory).square().sum().backward()
    expected, memory.grad = memory.grad, None
    crossing.gradient_checkpointing = True
    crossing(TOKENS_BT, memory_BMD=memory).square().sum().backward()
    assert torch.equal(memory.grad, expected)
    assert expected.abs().max() > 0


def test_dropout_is_off_in_evaluation(random_model):
    model = random_model(dropout=0.5)
    assert torch.equal(run(model, TOKENS_BT), run(model, TOKENS_BT))
    model.train()
    assert not torch.equal(run(model, TOKENS_BT), run(model, TOKENS_BT))


@pytest.mark.parametrize("kind", MASKS)
def test_both_attention_kernels_agree_for_every_mask(kind, model, monkeypatch):
    options = MASKS[kind]
    expected = run(model, TOKENS_BT, **options)
    monkeypatch.setattr(attention, "MAX_BMM_KEYS", 0)
    torch.testing.assert_close(run(model, TOKENS_BT, **options), expected, **CLOSE)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("qwen3", {}),
        ("llama-gqa", {"key_mask_BS": torch.arange(14) >= torch.tensor([0, 5, 2])[:, None]}),
        ("gpt2", {"documents_BT": torch.arange(14).expand(3, -1) // 5}),
    ],
)
def test_a_training_step_compiles_without_a_graph_break(name, options, random_model):
    model = random_model(num_layers=2, **VARIANTS[name]).train()
    model.gradient_checkpointing = name == "llama-gqa"

    def loss(tokens_BT, **masks):
        hidden = model(tokens_BT, **masks)
        total, count = lm_loss(model.logits, hidden, tokens_BT, vocab_size=97)
        return total / count

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    expected = gradients(model, loss(TOKENS_BT, **options))
    for ours, theirs in zip(gradients(model, compiled(TOKENS_BT, **options)), expected):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_bfloat16_autocast_stays_near_float32(model):
    expected = run(model, TOKENS_BT)
    with torch.autocast("cpu", torch.bfloat16):
        found = run(model, TOKENS_BT)
        cache = model.new_cache(3, 14)
        cached = run(model, TOKENS_BT, cache=cache)
    assert (found.float() - expected).abs().mean() < 0.02
    assert (cached.float() - expected).abs().mean() < 0.02


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("kind", MASKS)
def test_cuda_equals_the_cpu(name, kind, random_model):
    model = random_model(**VARIANTS[name])
    options = MASKS[kind]
    expected = run(model, TOKENS_BT, **options)
    model.to("cuda")
    found = run(model, TOKENS_BT.cuda(), **{key: value.cuda() for key, value in options.items()}).cpu()
    real = options.get("key_mask_BS", torch.ones(3, 14, dtype=torch.bool))
    torch.testing.assert_close(found[real], expected[real], atol=1e-4, rtol=1e-4)
    with torch.autocast("cuda", torch.bfloat16):
        half = run(model, TOKENS_BT.cuda(), **{key: value.cuda() for key, value in options.items()}).float().cpu()
    assert (half[real] - expected[real]).abs().mean() < 0.02
