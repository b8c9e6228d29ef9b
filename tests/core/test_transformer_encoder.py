"""The bidirectional Transformer by its invariants: padding, full sight, finite gradients, its limits."""

import pytest
import torch

from core.config import ModelConfig
from core.nn.encoder import TransformerEncoder

X_BSD = torch.randn(3, 9, 64, generator=torch.Generator().manual_seed(1))
LENGTHS = [9, 4, 1]
MASK_BS = torch.arange(9) < torch.tensor(LENGTHS)[:, None]
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def build(**fields):
    """A small encoder all of whose matrices are random: the own start, the identity, would hide everything."""
    torch.manual_seed(0)
    settings = {"width": 64, "num_layers": 2, "num_heads": 4, "max_length": 16, **fields}
    encoder = TransformerEncoder(ModelConfig(**settings)).eval()
    for parameter in encoder.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return encoder


@pytest.fixture(scope="module")
def encoder():
    return build()


@torch.no_grad()
def run(encoder, x_BSD, mask_BS=None):
    return encoder(x_BSD, mask_BS)


@pytest.mark.parametrize("filler", [0.0, 100.0])
def test_padding_changes_nothing(encoder, filler):
    padded = torch.where(MASK_BS[..., None], X_BSD, filler)
    found = run(encoder, padded, MASK_BS)
    for row, length in enumerate(LENGTHS):
        alone = run(encoder, X_BSD[row : row + 1, :length])[0]
        torch.testing.assert_close(found[row, :length], alone, **CLOSE)


def test_padding_may_be_in_front_as_positions_are_relative(encoder):
    front = torch.zeros(1, 9, 64)
    front[0, 5:] = X_BSD[1, :4]
    found = run(encoder, front, torch.arange(9)[None] >= 5)[0, 5:]
    torch.testing.assert_close(found, run(encoder, X_BSD[1:2, :4])[0], **CLOSE)


def test_a_mask_without_padding_is_no_mask(encoder):
    torch.testing.assert_close(run(encoder, X_BSD, torch.ones(3, 9, dtype=torch.bool)), run(encoder, X_BSD), **CLOSE)


def test_every_position_sees_every_other_and_no_other_row():
    encoder = build(num_layers=1)
    x_BSD = X_BSD.clone().requires_grad_()
    hidden_BSD = encoder(x_BSD)
    for position in range(9):
        (gradient,) = torch.autograd.grad(hidden_BSD[0, position].square().sum(), x_BSD, retain_graph=True)
        assert (gradient[0].abs().sum(-1) > 0).all()
        assert gradient[1:].abs().max() == 0


def test_the_order_matters(encoder):
    assert not torch.allclose(run(encoder, X_BSD.flip(1)).flip(1), run(encoder, X_BSD), atol=0.1)


def test_gradients_are_finite_with_rows_of_padding_only():
    encoder = build().train()
    x_BSD = X_BSD.clone().requires_grad_()
    mask_BS = MASK_BS.clone()
    mask_BS[2] = False
    encoder(x_BSD, mask_BS)[mask_BS].square().sum().backward()
    assert x_BSD.grad.isfinite().all()
    assert x_BSD.grad[~mask_BS].abs().max() == 0
    for name, parameter in encoder.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_a_fresh_encoder_is_the_norm_of_its_input():
    fresh = TransformerEncoder(ModelConfig(width=64, num_layers=2, num_heads=4, max_length=16)).eval()
    torch.testing.assert_close(run(fresh, X_BSD), torch.nn.functional.rms_norm(X_BSD, (64,), eps=1e-6), **CLOSE)


def test_what_it_cannot_do_is_refused(encoder):
    with pytest.raises(ValueError, match="17 positions are more than max_length 16: shorten the input"):
        encoder(torch.zeros(1, 17, 64))
    for fields in ({"positions": "learned"}, {"cross_attention_every": 1}):
        with pytest.raises(ValueError, match="rotary positions and no cross-attention"):
            build(**fields)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mask_BS", [None, MASK_BS], ids=["whole", "padded"])
def test_encoder_on_cuda_equals_the_cpu(mask_BS):
    encoder = build()
    expected = run(encoder, X_BSD, mask_BS)
    found = run(encoder.cuda(), X_BSD.cuda(), None if mask_BS is None else mask_BS.cuda()).cpu()
    real = MASK_BS if mask_BS is not None else torch.ones_like(MASK_BS)
    torch.testing.assert_close(found[real], expected[real], atol=1e-4, rtol=1e-4)
