"""Dropout: shares, scale, gradients, and two draws that differ even in a compiled program."""

import pytest
import torch
import torch.nn.functional as F

from core.config import ModelConfig
from core.nn.block import Block
from core.nn.dropout import drop
from core.nn.networks import build_network, set_dropout


def test_the_share_and_the_scale_are_those_asked_for() -> None:
    torch.manual_seed(0)
    dropped = drop(torch.ones(400_003), 0.1)
    zeros = (dropped == 0).float().mean().item()
    assert abs(zeros - 0.1) < 4 * (0.1 * 0.9 / 400_003) ** 0.5
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.9], rel=2e-5)


def test_neighbours_are_dropped_independently() -> None:
    torch.manual_seed(0)
    kept = (drop(torch.ones(400_000), 0.5) > 0).float()
    for gap in (1, 2, 3, 4, 8):  # four elements share a number of the generator
        assert abs(((kept[gap:] - 0.5) * (kept[:-gap] - 0.5)).mean().item()) < 0.25 * 4 / 400_000**0.5


def test_without_training_or_probability_nothing_changes() -> None:
    x = torch.randn(5)
    assert drop(x, 0.5, training=False) is x
    assert drop(x, 0.0) is x
    assert drop(x, 1.0).abs().max() <= x.abs().max() * 65_536  # all but never kept, and finite


def test_a_seed_decides() -> None:
    torch.manual_seed(3)
    first = drop(torch.ones(1000), 0.3)
    assert not torch.equal(first, drop(torch.ones(1000), 0.3))
    torch.manual_seed(3)
    assert torch.equal(first, drop(torch.ones(1000), 0.3))


def test_the_gradient_passes_where_the_value_did() -> None:
    x = torch.ones(1000, dtype=torch.bfloat16, requires_grad=True)
    out = drop(x, 0.3)
    out.sum().backward()
    assert x.grad is not None
    assert out.dtype == x.grad.dtype == torch.bfloat16
    assert torch.equal(x.grad, out.detach())


def test_a_compiled_program_draws_anew_each_time() -> None:
    pytest.importorskip("torch._inductor")

    def twice(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return drop(x, 0.5), drop(x, 0.5)

    compiled = torch.compile(twice)
    x = torch.ones(4096, requires_grad=True)
    first, second = compiled(x)
    assert not torch.equal(first, second)
    third, _ = compiled(x)
    assert not torch.equal(first, third)
    (grad,) = torch.autograd.grad(first.sum() + 3 * second.sum(), x)
    assert torch.equal(grad, (first + 3 * second).detach())


def test_compiled_blocks_are_on_average_what_they_are_without_the_compiler() -> None:
    """Several masks of one shape, and attention's: a compiler that lets them share memory is wrong by far more."""
    torch.manual_seed(0)
    block = Block(ModelConfig(vocab_size=5, width=128, num_layers=1, num_heads=4, dropout=0.2), 0)
    for parameter in block.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    x_BTD, bias = torch.randn(16, 24, 128, requires_grad=True), torch.zeros(24, 24)

    def mean() -> torch.Tensor:
        """Of many draws, outputs and gradients."""
        total = torch.zeros(2, *x_BTD.shape)
        for _ in range(40):
            out = block(x_BTD, None, bias)
            (gradient,) = torch.autograd.grad(out.square().sum(), x_BTD)
            total += torch.stack((out.detach(), gradient)) / 40
        return total

    with torch.autocast("cpu", torch.bfloat16):
        first, second = mean(), mean()
        block.compile(dynamic=False)
        compiled = mean()
    for one, other, found in zip(first, second, compiled):
        assert (found - one).norm() < 1.15 * (other - one).norm()


@pytest.mark.gpu
def test_a_gpu_drops_as_often() -> None:
    x = torch.ones(400_000, device="cuda")
    ours, theirs = drop(x, 0.1), F.dropout(x, 0.1)
    assert abs((ours == 0).float().mean().item() - (theirs == 0).float().mean().item()) < 0.004
    assert ours.max().item() == pytest.approx(theirs.max().item())


@pytest.mark.parametrize("network", ["transformer", "lstm"])
@pytest.mark.parametrize("layers", [1, 2])
def test_the_dropout_of_a_whole_model_can_be_changed(network, layers):
    torch.manual_seed(0)
    shape = ModelConfig(vocab_size=11, width=16, num_layers=layers, num_heads=2, max_length=16, dropout=0.5)
    model = build_network(network, shape)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    tokens = torch.arange(8)[None]
    assert not torch.equal(model(tokens), model(tokens))
    set_dropout(model, 0.0)
    assert torch.equal(model(tokens), model(tokens))
    assert torch.equal(model(tokens), model.eval()(tokens))
    set_dropout(model, 0.9)
    assert torch.equal(model(tokens), model(tokens))  # not while evaluating
    model.train()
    assert not torch.equal(model(tokens), model(tokens))
