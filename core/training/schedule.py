"""Learning-rate schedules as one pure function of the step."""

import math

from core.config import OptimConfig


def learning_rate_scale(step: int, total_steps: int, config: OptimConfig) -> float:
    """Factor on the peak learning rate for the step with this index.

    The rate rises linearly over `warmup_steps` and reaches the peak at the last of them. Then, with
    p = (step - warmup) / (total - warmup) and r = `final_lr_ratio`:

    | schedule | factor |
    |---|---|
    | constant | 1 |
    | linear | 1 - (1 - r) p |
    | cosine | r + (1 - r) (1 + cos(pi p)) / 2 |
    | exponential | r ** p |
    | step | max(r, step_factor ** floor((step - warmup) / step_every)) |
    | inverse_sqrt | max(r, sqrt(w / (step + 1))), w = max(warmup, 1) |
    | wsd | 1, then linearly to r over the last `decay_fraction` of the run |

    The factor r belongs to the end of the run, one step after the last, so that with r = 0 no step is wasted.

    Args:
        step: index of the step about to be done; the first is 0. Past the end, the last value holds.
        total_steps: steps of the run, warm-up included.
        config: names the schedule and its constants.

    Returns:
        The factor, in [0, 1].

    References:
        Loshchilov and Hutter 2016, "SGDR: Stochastic Gradient Descent with Warm Restarts", arXiv:1608.03983 (cosine).
        Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762 (inverse square root).
        Hu et al. 2024, "MiniCPM", arXiv:2404.06395 (warm-up, stable, decay).
    """
    warmup, final = config.warmup_steps, config.final_lr_ratio
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "linear":
        return 1 - (1 - final) * progress
    if config.schedule == "cosine":
        return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2
    if config.schedule == "exponential":
        return final**progress
    if config.schedule == "step":
        return max(final, config.step_factor ** ((step - warmup) // config.step_every))
    if config.schedule == "inverse_sqrt":
        return max(final, math.sqrt(max(warmup, 1) / (step + 1)))
    decay_steps = max(1.0, config.decay_fraction * total_steps)
    left = max(0.0, min(1.0, (total_steps - step) / decay_steps))
    return final + (1 - final) * left
