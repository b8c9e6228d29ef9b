import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.config import OptimConfig
from core.training.schedule import learning_rate_scale

SCHEDULES = ("constant", "step", "exponential", "cosine", "linear", "inverse_sqrt", "wsd")


def scale(step: int, total: int, **options: object) -> float:
    return learning_rate_scale(step, total, OptimConfig(**options))  # type: ignore[arg-type]


def test_warmup_rises_linearly_and_wastes_no_step() -> None:
    values = [scale(i, 100, warmup_steps=4, schedule="constant") for i in range(6)]
    assert values == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_linear_by_hand() -> None:
    values = [scale(i, 6, warmup_steps=2, schedule="linear", final_lr_ratio=0.2) for i in range(2, 7)]
    assert values == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])


def test_cosine_by_hand() -> None:
    assert scale(0, 8, schedule="cosine") == 1.0
    assert scale(2, 8, schedule="cosine") == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert scale(4, 8, schedule="cosine", final_lr_ratio=0.1) == pytest.approx(0.55)
    assert scale(8, 8, schedule="cosine", final_lr_ratio=0.1) == pytest.approx(0.1)


def test_exponential_by_hand() -> None:
    assert scale(5, 10, schedule="exponential", final_lr_ratio=0.01) == pytest.approx(0.1)


def test_step_by_hand() -> None:
    options = {"schedule": "step", "step_every": 3, "step_factor": 0.5, "warmup_steps": 1, "final_lr_ratio": 0.2}
    assert [scale(i, 100, **options) for i in (1, 3, 4, 6, 7, 99)] == [1.0, 1.0, 0.5, 0.5, 0.25, 0.2]


def test_inverse_sqrt_by_hand() -> None:
    assert scale(3, 100, schedule="inverse_sqrt", warmup_steps=4) == 1.0
    assert scale(15, 100, schedule="inverse_sqrt", warmup_steps=4) == 0.5


def test_wsd_decays_over_the_last_share_of_the_run() -> None:
    options = {"schedule": "wsd", "decay_fraction": 0.2, "warmup_steps": 10}
    assert [scale(i, 100, **options) for i in (10, 50, 80, 90, 100)] == pytest.approx([1, 1, 1, 0.5, 0])


def test_exponential_to_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="final_lr_ratio > 0"):
        OptimConfig(schedule="exponential")


@given(
    schedule=st.sampled_from(SCHEDULES),
    step=st.integers(0, 2000),
    total=st.integers(1, 1000),
    warmup=st.integers(0, 1200),
    final=st.floats(0.01, 1),
)
def test_every_schedule_stays_in_range_and_never_rises_after_the_warmup(
    schedule: str, step: int, total: int, warmup: int, final: float
) -> None:
    options = {"schedule": schedule, "warmup_steps": warmup, "final_lr_ratio": final}
    value, following = scale(step, total, **options), scale(step + 1, total, **options)
    assert 0 < value <= 1
    if step >= warmup:
        assert following <= value + 1e-12
