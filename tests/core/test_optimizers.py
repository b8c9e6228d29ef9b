from typing import Any

import pytest
import torch
from torch import nn

from core.config import OptimConfig
from core.training.optimizers import MuonWithAdamW, build_optimizer


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.hidden = nn.Linear(4, 6)
        self.conv = nn.Conv1d(4, 2, 3)
        self.norm = nn.LayerNorm(6)
        self.lm_head = nn.Linear(6, 5, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        return self.lm_head(self.norm(self.hidden(x))).sum() + self.conv(x.mT).square().mean()


def names(module: nn.Module, parameters: list[nn.Parameter]) -> set[str]:
    return {name for name, p in module.named_parameters() if any(p is q for q in parameters)}


def stepped(config: OptimConfig, steps: int = 3) -> tuple[Small, Any]:
    torch.manual_seed(0)
    module = Small()
    optimizer = build_optimizer(module, config)
    for i in range(steps):
        optimizer.zero_grad()
        module(torch.tensor([[0, 1, 2, i]])).backward()
        optimizer.step()
    return module, optimizer


def test_weight_decay_spares_vectors_and_embeddings() -> None:
    module = Small()
    decayed, plain = build_optimizer(module, OptimConfig(weight_decay=0.1)).param_groups
    assert names(module, decayed["params"]) == {"hidden.weight", "conv.weight", "lm_head.weight"}
    assert decayed["weight_decay"] == 0.1
    assert names(module, plain["params"]) == {"embed.weight", "hidden.bias", "conv.bias", "norm.weight", "norm.bias"}
    assert plain["weight_decay"] == 0


def test_tied_head_counts_as_embedding() -> None:
    module = Small()
    module.lm_head = nn.Linear(4, 5, bias=False)
    module.lm_head.weight = module.embed.weight
    _, plain = build_optimizer(module, OptimConfig(weight_decay=0.1)).param_groups
    assert "embed.weight" in names(module, plain["params"])


def test_muon_takes_hidden_matrices_only() -> None:
    module = Small()
    optimizer = build_optimizer(module, OptimConfig(optimizer="muon", muon_lr=0.03, lr=0.001))
    assert isinstance(optimizer, MuonWithAdamW)
    assert names(module, optimizer.muon.param_groups[0]["params"]) == {"hidden.weight"}
    assert [group["initial_lr"] for group in optimizer.param_groups] == [0.03, 0.001, 0.001]
    every = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(every) == len(list(module.parameters()))


def test_muon_step_is_nearly_orthogonal() -> None:
    torch.manual_seed(0)
    module = nn.Linear(32, 16, bias=False)
    optimizer = build_optimizer(module, OptimConfig(optimizer="muon", muon_lr=0.5, weight_decay=0.0))
    before = module.weight.detach().clone()
    module(torch.randn(64, 32)).square().mean().backward()
    optimizer.step()
    singular = torch.linalg.svdvals((before - module.weight.detach()) / 0.5)
    assert singular.min() > 0.5  # of Newton-Schulz's band
    assert singular.max() < 1.3


def test_adamw_first_step_by_hand() -> None:
    parameter = nn.Parameter(torch.tensor([[1.0, -2.0]]))
    module = nn.ParameterList([parameter])
    optimizer = build_optimizer(module, OptimConfig(lr=0.1, weight_decay=0.5))
    parameter.grad = torch.tensor([[3.0, -0.5]])
    optimizer.step()
    # The first step of Adam is the sign of the gradient; the decay is w * lr * decay.
    expected = torch.tensor([[1.0 * 0.95 - 0.1, -2.0 * 0.95 + 0.1]])
    torch.testing.assert_close(parameter.detach(), expected)


def test_sgd_and_adagrad_by_hand() -> None:
    for name, expected in (("sgd", [1 - 0.1 * 2, 0.8 - 0.1 * (0.9 * 2 + 2)]), ("adagrad", [0.9, 0.9 - 0.1 / 2**0.5])):
        parameter = nn.Parameter(torch.tensor([1.0]))
        config = OptimConfig(optimizer=name, lr=0.1, momentum=0.9)  # type: ignore[arg-type]
        optimizer = build_optimizer(nn.ParameterList([parameter]), config)
        values = []
        for _ in range(2):
            parameter.grad = torch.tensor([2.0])
            optimizer.step()
            values.append(parameter.item())
        assert values == pytest.approx(expected)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "adagrad", "muon"])
def test_state_round_trip_continues_exactly(name: Any) -> None:
    config = OptimConfig(optimizer=name, weight_decay=0.1)
    whole, _ = stepped(config, 4)
    module, optimizer = stepped(config, 3)
    fresh = Small()
    fresh.load_state_dict(module.state_dict())
    restored = build_optimizer(fresh, config)
    restored.load_state_dict(optimizer.state_dict())
    restored.zero_grad()
    fresh(torch.tensor([[0, 1, 2, 3]])).backward()
    restored.step()
    for expected, found in zip(whole.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(expected, found)


def test_frozen_parameters_are_left_alone_and_nothing_to_train_is_an_error() -> None:
    module = Small().requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        build_optimizer(module, OptimConfig())
    module.norm.requires_grad_(True)
    (group,) = build_optimizer(module, OptimConfig()).param_groups
    assert names(module, group["params"]) == {"norm.weight", "norm.bias"}


def test_learning_rates_by_part_take_the_longest_name() -> None:
    module = nn.ModuleDict({"model": Small(), "head": nn.Linear(2, 2)})
    config = OptimConfig(lr=0.1, weight_decay=0.1, lr_scales={"model": 0.5, "model.norm": 0.25})
    rates = {
        name: group["initial_lr"]
        for group in build_optimizer(module, config).param_groups
        for name in names(module, group["params"])
    }
    assert set(rates) == {name for name, _ in module.named_parameters()}
    assert rates["head.weight"] == 0.1
    assert rates["model.hidden.weight"] == rates["model.embed.weight"] == 0.05
    assert rates["model.norm.weight"] == rates["model.norm.bias"] == 0.025


def test_a_factor_of_zero_freezes_and_computes_no_gradient() -> None:
    module, _ = stepped(OptimConfig(lr=0.1, weight_decay=0.1, lr_scales={"embed": 0.0}), 3)
    torch.manual_seed(0)
    untrained = Small()
    assert torch.equal(module.embed.weight, untrained.embed.weight)
    assert module.embed.weight.grad is None
    assert not torch.equal(module.hidden.weight, untrained.hidden.weight)


@pytest.mark.parametrize("option", ["lr_scales", "frozen_until"])
def test_a_part_that_is_not_there_is_named(option: str) -> None:
    config = OptimConfig(**{option: {"hidden": 1, "hid": 1}})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"names 'hid', which is part of no .*these begin with conv.bias, conv.weight"):
        build_optimizer(Small(), config)
