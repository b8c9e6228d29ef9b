import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.config import OptimConfig
from core.training.runtime import Runtime
from core.training.update import NonFiniteStep, Updater

CPU = Runtime(torch.device("cpu"))


def updater(module: nn.Module | None = None, **options: Any) -> Updater:
    config = OptimConfig(**{"schedule": "constant", **options})
    return Updater(nn.Linear(3, 2) if module is None else module, config, CPU, 100)


def snapshot(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {k: snapshot(v) for k, v in value.items()}
    return [snapshot(v) for v in value] if isinstance(value, list | tuple) else value


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    return bool(a == b)


def test_report_and_clipping_by_hand() -> None:
    module = nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(2.0)
    subject = updater(module, optimizer="sgd", momentum=0.0, lr=0.1, max_grad_norm=1.0)
    report = subject.step(3 * subject(torch.ones(1, 1)).sum())
    assert (report.loss, report.grad_norm, report.lr, report.skipped) == (6.0, 3.0, pytest.approx(0.1), False)
    assert module.weight.item() == pytest.approx(1.9)  # the gradient 3 was clipped to 1
    unclipped = updater(module, optimizer="sgd", momentum=0.0, lr=0.1, max_grad_norm=0.0)
    unclipped.step(3 * module(torch.ones(1, 1)).sum())
    assert module.weight.item() == pytest.approx(1.6)


def test_schedule_follows_own_steps_or_the_run() -> None:
    subject = updater(schedule="linear", lr=1.0, optimizer="sgd")
    subject.total_steps = 4
    rates = [subject.step(subject(torch.ones(1, 3)).sum()).lr for _ in range(3)]
    assert rates == pytest.approx([1.0, 0.75, 0.5])
    subject.follow(1, 10)
    rates = [subject.step(subject(torch.ones(1, 3)).sum()).lr for _ in range(2)]
    assert rates == pytest.approx([0.9, 0.9])  # two steps in one step of the run


def test_a_frozen_part_starts_at_its_step() -> None:
    subject = updater(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)), frozen_until={"0": 2}, weight_decay=0.5, lr=0.1)
    first, second = (subject.module[index].weight for index in (0, 1))  # type: ignore[index]
    changed = []
    for step in range(4):
        before = [first.detach().clone(), second.detach().clone()]
        subject.follow(step, 10)
        subject.step(subject(torch.ones(1, 3)).sum())
        changed.append([not torch.equal(old, new) for old, new in zip(before, (first, second))])
    assert changed == [[False, True], [False, True], [True, True], [True, True]]


@pytest.mark.parametrize("parts", [1, 2, 3, 6])
def test_accumulation_gives_the_gradient_of_the_global_mean(parts: int) -> None:
    torch.manual_seed(0)
    x, mask = torch.randn(6, 5, 3), torch.rand(6, 5) > 0.4
    module = nn.Linear(3, 2)
    state = snapshot(module.state_dict())

    def loss_fn(rows: Tensor) -> tuple[Tensor, Tensor]:
        losses = module(x[rows]).square().sum(-1) * mask[rows]
        return losses.sum(), mask[rows].sum()

    whole = updater(module, optimizer="sgd", lr=1.0, momentum=0.0, max_grad_norm=0.0)
    loss_sum, count = loss_fn(torch.arange(6))
    expected_report = whole.step(loss_sum / count)
    expected = snapshot(module.state_dict())
    module.load_state_dict(state)
    split = updater(module, optimizer="sgd", lr=1.0, momentum=0.0, max_grad_norm=0.0)
    report = split.step_micro(torch.arange(6).chunk(parts), loss_fn)
    assert report.loss == pytest.approx(expected_report.loss, rel=1e-6)
    assert report.grad_norm == pytest.approx(expected_report.grad_norm, rel=1e-6)
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-6)


def test_micro_batches_without_a_term_change_nothing() -> None:
    module = nn.Linear(3, 2)
    before = snapshot(module.state_dict())
    report = updater(module, optimizer="sgd").step_micro([0, 1], lambda _: (module(torch.ones(1, 3)).sum() * 0, 0))
    assert (report.loss, report.grad_norm, report.skipped) == (0.0, 0.0, False)
    assert same(before, snapshot(module.state_dict()))


class Poisoned(nn.Module):
    """A batch norm, whose buffers change in the forward pass, and a switch for what is poisoned."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)

    def loss(self, poison: float, where: str) -> Tensor:
        x = torch.randn(8, 3)
        if where == "input":
            x[0, 0] = poison
        loss = self.norm(self.linear(x)).square().mean() + self.linear(x).square().mean()
        if where == "loss":
            return loss * poison
        if where == "gradient":
            self.linear.weight.register_hook(lambda g: g.index_fill(0, torch.tensor(1), poison)) if poison else None
        return loss


@pytest.mark.parametrize("mode", ["raise", "skip"])
@pytest.mark.parametrize("where", ["loss", "gradient", "input"])
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_nonfinite_step_leaves_everything_as_it_was(optimizer: str, poison: float, where: str, mode: str) -> None:
    torch.manual_seed(0)
    module = Poisoned()
    subject = updater(module, optimizer=optimizer, on_nonfinite=mode, ema_decay=0.9)
    subject.step(module.loss(1.0, "nothing"))
    before = snapshot(subject.state_dict())
    if mode == "raise":
        with pytest.raises(NonFiniteStep, match=r"step 1: loss=.* grad_norm=") as caught:
            subject.step(module.loss(poison, where))
        assert caught.value.step == 1
    else:
        report = subject.step(module.loss(poison, where))
        assert report.skipped
        assert not (math.isfinite(report.loss) and math.isfinite(report.grad_norm))
        assert subject.skips_in_a_row == 1
        before["skips_in_a_row"] = 1
    assert same(before, snapshot(subject.state_dict()))
    assert all(p.grad is None for p in module.parameters())


def test_skipping_goes_on_and_stops_after_too_many_in_a_row() -> None:
    module = Poisoned()
    subject = updater(module, on_nonfinite="skip", max_consecutive_skips=2)
    for poison in (math.nan, math.nan, 1.0, math.nan, math.inf):
        assert subject.step(module.loss(poison, "loss")).skipped == (poison != 1.0)
    with pytest.raises(NonFiniteStep, match="3 skipped steps in a row"):
        subject.step(module.loss(math.nan, "loss"))


def test_average_by_hand_and_swap() -> None:
    module = nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(1.0)
    subject = updater(module, optimizer="sgd", momentum=0.0, lr=1.0, max_grad_norm=0.0, ema_decay=0.5)
    subject.step(module(torch.ones(1, 1)).sum())  # weight 0; decay (1 + 1) / (10 + 1)
    average = 1.0 * 2 / 11
    with subject.averaged():
        assert module.weight.item() == pytest.approx(average)
        with subject.averaged():
            assert module.weight.item() == pytest.approx(average)
    assert module.weight.item() == 0.0
    with pytest.raises(KeyError), subject.averaged():
        raise KeyError
    assert module.weight.item() == 0.0
    subject.step(module(torch.ones(1, 1)).sum())  # weight -1; decay 3 / 12
    with subject.averaged():
        assert module.weight.item() == pytest.approx(average * 0.25 - 0.75)


def test_state_round_trip_keeps_the_settings_of_the_new_config() -> None:
    first = updater(lr=0.1, ema_decay=0.9, optimizer="muon")
    for _ in range(3):
        first.step(first(torch.randn(4, 3)).square().mean())
    second = updater(lr=0.2, ema_decay=0.9, optimizer="muon")
    second.load_state_dict(first.state_dict())
    assert second.steps == 3
    assert [group["initial_lr"] for group in second.optimizer.param_groups] == [0.02, 0.2]
    before = first.state_dict()
    after = second.state_dict()
    assert same(before["module"], after["module"])
    assert same(before["ema"], after["ema"])
    states = (before["optimizer"]["muon"]["state"], after["optimizer"]["muon"]["state"])
    assert states[0]
    assert same(*states)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_float16_finds_its_scale_on_cuda() -> None:
    runtime = Runtime(torch.device("cuda"), dtype=torch.float16)
    subject = Updater(nn.Linear(64, 64), OptimConfig(), runtime, 100)
    reports = []
    for _ in range(30):
        with runtime.autocast():
            loss = 1e3 * subject(torch.randn(8, 64, device="cuda")).float().square().mean()
        reports.append(subject.step(loss))
    assert not reports[-1].skipped
    assert reports[-1].loss < reports[0].loss
