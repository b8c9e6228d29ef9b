"""Products by oneDNN against those of PyTorch's own, with their gradients of first and second order."""

import pytest
import torch
import torch.nn.functional as F

from core.nn import linear as module
from core.nn.linear import Linear, linear, takes_onednn


@pytest.fixture
def onednn(monkeypatch):
    """As on a machine that prefers it, and for small products too."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this build has no oneDNN")
    monkeypatch.setattr(module, "prefers_onednn", lambda: True)
    monkeypatch.setattr(module, "FEWEST_PRODUCTS", 0)


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4)])
@pytest.mark.parametrize("biased", [True, False])
def test_values_and_gradients_are_pytorchs(onednn, shape, biased):
    torch.manual_seed(0)
    x = torch.randn(*shape, 12, requires_grad=True)
    weight = torch.randn(7, 12, requires_grad=True)
    bias = torch.randn(7, requires_grad=True) if biased else None
    assert takes_onednn(x, weight)
    inputs = [x, weight, *([bias] if biased else [])]
    slope = torch.randn(*shape, 7)
    found, expected = linear(x, weight, bias), F.linear(x, weight, bias)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad((found * slope).sum(), inputs), torch.autograd.grad((expected * slope).sum(), inputs)
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(linear(x, weight, bias), expected, atol=1e-5, rtol=1e-5)


def test_second_derivatives_are_pytorchs(onednn):
    """As gradient penalties need them."""
    torch.manual_seed(0)
    x, weight = torch.randn(4, 6, requires_grad=True), torch.randn(3, 6, requires_grad=True)
    found = []
    for product in (linear, F.linear):
        (slope,) = torch.autograd.grad(product(x, weight).tanh().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), [x, weight]))
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_other_dtypes_devices_and_small_products_stay_with_pytorch(monkeypatch):
    monkeypatch.setattr(module, "prefers_onednn", lambda: True)
    weight = torch.randn(1024, 1024)
    assert takes_onednn(torch.randn(8, 1024), weight)
    assert not takes_onednn(torch.randn(8, 16), torch.randn(16, 16))
    assert not takes_onednn(torch.randn(8, 1024, dtype=torch.float64), weight.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert not takes_onednn(torch.randn(8, 1024), weight)
    monkeypatch.setattr(module, "prefers_onednn", lambda: False)
    assert not takes_onednn(torch.randn(8, 1024), weight)


def test_the_layer_is_a_linear_layer_to_everybody_else():
    layer = Linear(3, 2)
    assert isinstance(layer, torch.nn.Linear)
    assert list(layer.state_dict()) == ["weight", "bias"]
    assert layer(torch.zeros(1, 3)).shape == (1, 2)
