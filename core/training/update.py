"""The only place where an optimiser steps."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from core.config import OptimConfig
from core.errors import UserError
from core.training import distributed
from core.training.optimizers import build_optimizer
from core.training.runtime import Runtime
from core.training.schedule import learning_rate_scale

Micro = TypeVar("Micro")


class NonFiniteStep(UserError, RuntimeError):
    """A loss or gradient norm was NaN or infinite. Parameters, buffers and optimiser are as before the step."""

    exit_code = 1

    def __init__(self, step: int, loss: float, grad_norm: float, reason: str) -> None:
        super().__init__(f"step {step}: loss={loss} grad_norm={grad_norm}: {reason}")
        self.step = step
        self.loss = loss
        self.grad_norm = grad_norm


@dataclass(frozen=True)
class StepReport:
    """What one optimiser step did."""

    loss: float
    """The loss over all micro-batches and processes, as it was: NaN stays NaN."""
    grad_norm: float
    """Global L2 norm of the gradient before clipping."""
    lr: float
    """`OptimConfig.lr` times the schedule's factor."""
    skipped: bool
    """True when the step changed nothing, because a value was not finite."""


class Updater:
    """A module with its optimiser, schedule, clipping, weight average and guard. A task owns one per trained thing.

    The schedule's position is the run's step, which the loop sets through `follow`; without a loop it is the number of
    steps taken. Under `torchrun` gradients are averaged over the processes: through DistributedDataParallel when the
    forward pass goes through the updater (`updater(...)`), after the backward pass otherwise.
    """

    def __init__(
        self,
        module: nn.Module,
        config: OptimConfig,
        runtime: Runtime,
        total_steps: int,
        *,
        find_unused_parameters: bool = False,
    ) -> None:
        """Move the module to the runtime's device and build its optimiser.

        Args:
            module: what to train. Parameters without `requires_grad` are left alone.
            config: optimiser, schedule and guards.
            runtime: device and precision.
            total_steps: length of the schedule; the loop overwrites it.
            find_unused_parameters: set it when, under `torchrun`, a forward pass through the updater leaves trainable
                parameters without a gradient.
        """
        self.module = module.to(runtime.device)
        self.config = config
        self.runtime = runtime
        self.total_steps = total_steps
        self.optimizer = build_optimizer(self.module, config)
        self.steps = 0
        self.skips_in_a_row = 0
        self._position: int | None = None
        self._parameters = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        self._scaler = torch.amp.GradScaler(
            runtime.device.type, enabled=runtime.device.type == "cuda" and runtime.dtype == torch.float16
        )
        self._ema = self._copies() if config.ema_decay else {}
        self._averaged = 0
        self._persistent = set(self.module.state_dict()) - {name for name, _ in self.module.named_parameters()}
        self._buffers = self._copy_buffers()
        self._ddp: DistributedDataParallel | None = None
        self._ddp_forward = False
        if distributed.active():
            self._ddp = DistributedDataParallel(
                self.module, broadcast_buffers=False, find_unused_parameters=find_unused_parameters
            )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module; under `torchrun`, the wrapped one."""
        if self._ddp is None:
            return self.module(*args, **kwargs)
        self._ddp_forward = self._ddp_forward or torch.is_grad_enabled()
        return self._ddp(*args, **kwargs)

    def follow(self, step: int, total_steps: int) -> None:
        """Set the schedule's position and length. The loop calls it before each `train_step`.

        So an updater that steps several times in a training step (a critic, PPO's epochs) follows the run.

        Args:
            step: index of the run's step about to be done.
            total_steps: length of the run.
        """
        self._position = step
        self.total_steps = total_steps

    @property
    def lr(self) -> float:
        """`OptimConfig.lr` times the schedule's factor for the coming step."""
        return self.config.lr * self._scale()

    def step(self, loss: Tensor) -> StepReport:
        """Backward, check, clip, step.

        Args:
            loss: scalar mean over this process's batch. With several processes the mean of their losses is minimised.

        Returns:
            What happened; the loss is the mean over the processes.

        Raises:
            NonFiniteStep: loss or gradient norm is NaN or infinite, and the config says `raise`, or too many steps in
                a row were skipped.
        """
        self.optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()
        self._average_gradients()
        value = loss.detach().float().clone()
        return self._finish(distributed.all_reduce_sum(value) / distributed.world())

    def step_micro(
        self, micro_batches: Sequence[Micro], loss_fn: Callable[[Micro], tuple[Tensor, Tensor | float]]
    ) -> StepReport:
        """One step from several micro-batches.

        The gradient is that of sum(sums) / sum(counts), both over all micro-batches and processes: because this
        denominator is global, the gradient does not depend on how the batch is split.

        Args:
            micro_batches: at least one; the same number in every process.
            loss_fn: micro-batch → (sum of its losses with gradient, number of terms in the sum).

        Returns:
            What happened; the loss is the global mean (0 when there is no term).

        Raises:
            NonFiniteStep: as in `step`.
        """
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros(2, dtype=torch.float64 if self.runtime.device.type != "mps" else torch.float32)
        total = total.to(self.runtime.device)
        for i, micro in enumerate(micro_batches):
            last = i == len(micro_batches) - 1
            with nullcontext() if last or self._ddp is None else self._ddp.no_sync():
                loss_sum, count = loss_fn(micro)
                self._scaler.scale(loss_sum).backward()
            total[0] += loss_sum.detach()
            total[1] += count
        distributed.all_reduce_sum(total)
        count = torch.where(total[1] > 0, total[1], 1.0)
        self._average_gradients()
        # The processes' gradients are averaged, so the sum over them lacks a factor of their number.
        return self._finish(total[0] / count, distributed.world() / count)

    def _average_gradients(self) -> None:
        """Average over the processes what DistributedDataParallel did not."""
        if self._ddp is not None and not self._ddp_forward:
            for parameter in self._parameters.values():
                # Every process reduces every parameter, so that the calls match where one process lacks a gradient.
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                distributed.all_reduce_sum(parameter.grad).div_(distributed.world())
        self._ddp_forward = False

    def _finish(self, loss: Tensor, factor: Tensor | None = None) -> StepReport:
        """Check, clip and step by the accumulated gradients times `factor` (1 if absent)."""
        self._scaler.unscale_(self.optimizer)  # type: ignore[arg-type]
        self._drop_frozen_gradients()
        gradients = [p.grad for p in self._parameters.values() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients).to(loss)
        factor = torch.ones_like(loss) if factor is None else factor
        loss_value, norm_value, multiplier = torch.stack([loss, norm * factor, factor]).tolist()  # one wait for the GPU
        lr = self.lr
        if not (math.isfinite(loss_value) and math.isfinite(norm_value)):
            return self._refuse(loss_value, norm_value, lr)
        if self.config.max_grad_norm:
            multiplier *= min(1.0, self.config.max_grad_norm / (norm_value + 1e-6))
        if multiplier != 1:
            torch._foreach_mul_(gradients, multiplier)
        scale = self._scale()
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * scale
        self._scaler.step(self.optimizer)  # type: ignore[arg-type]
        self._scaler.update()
        self.steps += 1
        self.skips_in_a_row = 0
        self._update_average()
        self._buffers = self._copy_buffers()
        return StepReport(loss_value, norm_value, lr, skipped=False)

    def _drop_frozen_gradients(self) -> None:
        """Parameters without a gradient are left alone by every optimiser, their decay and moments included."""
        position = self.steps if self._position is None else self._position
        for group in self.optimizer.param_groups:
            if position < group["first_step"]:
                for parameter in group["params"]:
                    parameter.grad = None

    def _refuse(self, loss: float, norm: float, lr: float) -> StepReport:
        """Leave everything as it was; raise, or report a skipped step."""
        step = self.steps if self._position is None else self._position
        self.optimizer.zero_grad(set_to_none=True)
        self._restore_buffers()
        if self._scaler.is_enabled():
            before = self._scaler.state_dict()
            self._scaler.update()
            if math.isfinite(loss) and before["scale"] > 1:
                # An overflow of the scaled float16 gradient is how the scale is found; it counts as no failure.
                return StepReport(loss, norm, lr, skipped=True)
            self._scaler.load_state_dict(before)
        if self.config.on_nonfinite == "raise":
            raise NonFiniteStep(step, loss, norm, "stopped before the update; set optim.on_nonfinite=skip to go on")
        self.skips_in_a_row += 1
        if self.skips_in_a_row > self.config.max_consecutive_skips:
            raise NonFiniteStep(step, loss, norm, f"{self.skips_in_a_row} skipped steps in a row")
        return StepReport(loss, norm, lr, skipped=True)

    def _scale(self) -> float:
        position = self.steps if self._position is None else self._position
        return learning_rate_scale(position, self.total_steps, self.config)

    # Weight average and buffers.

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the block the module holds its averaged weights; without `ema_decay`, nothing changes."""
        self._averaged += 1
        if self._averaged == 1:
            self._swap()
        try:
            yield
        finally:
            self._averaged -= 1
            if not self._averaged:
                self._swap()

    @torch.no_grad()
    def restart_average(self) -> None:
        """Let the weight average begin at the present weights, when something else than a step has changed them."""
        for name, average in self._ema.items():
            average.copy_(self._parameters[name])

    @torch.no_grad()
    def _swap(self) -> None:
        for name, average in self._ema.items():
            kept = self._parameters[name].clone()
            self._parameters[name].copy_(average)
            average.copy_(kept)

    @torch.no_grad()
    def _update_average(self) -> None:
        if self._ema:
            # The average of few steps forgets faster, or it would hold on to the initial weights.
            decay = min(self.config.ema_decay, (1 + self.steps) / (10 + self.steps))
            torch._foreach_lerp_(list(self._ema.values()), list(self._parameters.values()), 1 - decay)

    def _copies(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self._parameters.items()}

    def _copy_buffers(self) -> dict[str, Tensor]:
        if not self._persistent:
            return {}
        return {name: b.detach().clone() for name, b in self.module.named_buffers() if name in self._persistent}

    @torch.no_grad()
    def _restore_buffers(self) -> None:
        for name, buffer in self.module.named_buffers():
            if name in self._buffers:
                buffer.copy_(self._buffers[name])

    # State.

    def state_dict(self) -> dict[str, Any]:
        """All that training on needs: weights, optimiser, weight average, counters."""
        return {
            "module": dict(self.module.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "ema": dict(self._ema),
            "steps": self.steps,
            "skips_in_a_row": self.skips_in_a_row,
            "scaler": self._scaler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave. The optimiser's settings stay those of this updater's config."""
        self.module.load_state_dict(state["module"])
        settings = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, kept in zip(self.optimizer.param_groups, settings, strict=True):
            group.update(kept)
        with torch.no_grad():
            for name, average in self._ema.items():
                average.copy_(state["ema"].get(name, self._parameters[name]))
        self.steps = state["steps"]
        self.skips_in_a_row = state["skips_in_a_row"]
        if self._scaler.is_enabled() and state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])
        self._buffers = self._copy_buffers()


def updaters_of(task: Any) -> dict[str, Updater]:
    """The updaters among the attributes of a task, by attribute name."""
    return {name: value for name, value in vars(task).items() if isinstance(value, Updater)}
