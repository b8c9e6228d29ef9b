"""What several tests of text GANs need."""

from collections.abc import Callable
from typing import Any

import pytest

from adversarial.task import GanTask
from adversarial.trainers import GANTrainer
from core.training.signals import Preempted


@pytest.fixture
def train_until(monkeypatch: pytest.MonkeyPatch) -> Callable[[GANTrainer, int], None]:
    """Train, and be stopped before the step with this index."""

    def train(trainer: GANTrainer, last: int) -> None:
        task = trainer.task
        assert isinstance(task, GanTask)
        step = task.train_step

        def interrupted(batch: Any) -> Any:
            if task.step == last:
                raise Preempted(143)
            return step(batch)

        monkeypatch.setattr(task, "train_step", interrupted)
        with pytest.raises(Preempted):
            trainer.train()

    return train
