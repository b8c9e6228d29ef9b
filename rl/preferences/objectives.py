"""The losses of pairs as objectives: what each reads of a completion, and how two completions become a loss.

Shape suffixes: B = examples, 2 = their two completions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from rl.preferences.config import PreferenceConfig
from rl.preferences.losses import dpo_loss, hinge_loss, ipo_loss, orpo_loss, simpo_loss


@dataclass(frozen=True)
class Objective:
    """One way to learn from pairs."""

    loss: Callable[[Tensor, Tensor], Tensor]
    """(score_B of the chosen, score_B of the rejected completions) → loss_B."""
    reference: bool
    """Whether a score is measured against the reference."""
    per_token: bool
    """Whether a score is a mean over the tokens; else it is their sum."""

    def scores(self, logprob_B2: Tensor, reference_B2: Tensor | None, length_B2: Tensor) -> Tensor:
        """score_B2 of completions: log-probabilities or log-ratios, summed or averaged."""
        score_B2 = logprob_B2 if reference_B2 is None else logprob_B2 - reference_B2
        return score_B2 / length_B2 if self.per_token else score_B2


def objective(config: PreferenceConfig) -> Objective:
    """The objective that a config names. KTO's scores are DPO's; its loss is not one of pairs."""
    beta = config.strength
    objectives = {
        "dpo": Objective(partial(dpo_loss, beta=beta, label_smoothing=config.label_smoothing), True, False),
        "kto": Objective(partial(dpo_loss, beta=beta), True, False),
        "hinge": Objective(partial(hinge_loss, beta=beta), True, False),
        "ipo": Objective(partial(ipo_loss, beta=beta), True, True),
        "simpo": Objective(partial(simpo_loss, beta=beta, margin=config.simpo_margin), False, True),
        "orpo": Objective(partial(orpo_loss, weight=beta), False, True),
    }
    return objectives[config.loss]
