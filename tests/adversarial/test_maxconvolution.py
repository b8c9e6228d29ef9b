"""The fast convolutions against the plain ones, values and gradients, for wide and narrow windows."""

import pytest
import torch

from adversarial.discriminators.maxconvolution import MaxConvolution

WIDE = (7, ((1, 3), (2, 5), (4, 2)))  # windows of up to 28 numbers
NARROW = (1, ((2, 6), (3, 4), (5, 3)))


@pytest.mark.parametrize(("width", "filters"), [WIDE, NARROW])
def test_maxima_and_gradients_are_those_of_plain_convolutions(width, filters):
    torch.manual_seed(0)
    layer = MaxConvolution(width, filters, 9)
    assert layer.num_features == sum(number for _, number in filters)
    x = torch.randn(70, 9, width, requires_grad=True)
    slope = torch.randn(70, layer.num_features)
    found = []
    for twice in (False, True):
        out = layer(x, twice=twice)
        found.append([out, *torch.autograd.grad((out * slope).sum(), [x, *layer.parameters()])])
    for fast, plain in zip(*found):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)
    convolved = torch.nn.functional.conv1d(
        x.transpose(1, 2), layer.weights[1].view(-1, filters[1][0], width).transpose(1, 2)
    )
    first = filters[0][1]
    group = slice(first, first + filters[1][1])
    torch.testing.assert_close(found[1][0][:, group], convolved.amax(2) + layer.bias[group])


@pytest.mark.parametrize(("width", "filters"), [WIDE, NARROW])
def test_under_autocast_they_are_close(width, filters):
    torch.manual_seed(0)
    layer = MaxConvolution(width, filters, 9)
    x = torch.randn(5, 9, width, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        fast = layer(x)
    fast.float().sum().backward()
    torch.testing.assert_close(fast.float(), layer(x, twice=True), rtol=0.05, atol=0.05)


def test_equal_maxima_share_the_gradient():
    layer = MaxConvolution(20, ((1, 1),), 3)
    with torch.no_grad():  # eighths, whose sums are exact in whatever order a processor adds them
        layer.weights[0].copy_(torch.arange(20) / 8)
    x = torch.ones(1, 3, 20, requires_grad=True)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, layer.weights[0].detach().expand(3, 20)[None] / 3)


def test_only_the_plain_ones_can_be_differentiated_twice():
    layer = MaxConvolution(20, ((2, 4),), 5)
    x = torch.randn(2, 5, 20, requires_grad=True)
    (slope,) = torch.autograd.grad(layer(x, twice=True).sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert layer.weights[0].grad.abs().sum() > 0
    (slope,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="require grad"):
        slope.square().sum().backward()


def test_filters_wider_than_the_sentences_are_left_out_and_at_least_one_must_fit():
    assert MaxConvolution(4, ((2, 3), (9, 5)), 8).num_features == 3
    with pytest.raises(ValueError, match="every filter is wider than the sentences of 8 tokens"):
        MaxConvolution(4, ((9, 5),), 8)
