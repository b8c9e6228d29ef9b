"""Cooperative training: the generator follows a second language model that learns from real and generated sentences.

Shape suffixes: B = sentences, T = positions, D = model width.
"""

import torch
from torch import Tensor

from adversarial.estimators.game import Game
from adversarial.generator import Generator, Sentences, hidden_states, weighted_nll
from core.distillation import linear_kl


def mediator_loss(mediator: Generator, real: Sentences, fake: Sentences, fake_weight: float, bos_id: int) -> Tensor:
    """(nll of real + w * nll of generated) / (1 + w), in nats a token: the mediator becomes their mixture.

    At w = 1 the best mediator is the mixture (P + G) / 2, and the drop of its loss below that of the parts measures the
    Jensen-Shannon divergence between real and generated text. Below 1 it stays nearer to the real one, and what it sees
    of the generator keeps it from learning the real sentences by heart.

    Args:
        mediator: a language model.
        real: real sentences.
        fake: generated ones.
        fake_weight: w.
        bos_id: token before the first one.

    References:
        Lu et al. 2019, "CoT: Cooperative Training for Generative Modeling of Discrete Data", arXiv:1804.03782.
    """
    parts = []
    for some, weight in ((real, 1.0), (fake, fake_weight)):
        if weight:
            total, _ = weighted_nll(mediator, some, some.mask_BT.float(), bos_id)
            parts.append(weight * total / some.mask_BT.sum())
    return torch.stack(parts).sum() / (1 + fake_weight)


def cooperative_step(game: Game, real: Sentences) -> tuple[Tensor, dict[str, float]]:
    """The generator takes over the mediator's whole distribution of the next token, not only the token that was drawn.

    `reverse`, as in the paper: sum_v g_v (log g_v - log m_v) at the generator's own sentences. `forward`, our
    likelihood-regularised objective together with `mle_weight`: sum_v m_v (log m_v - log g_v), which leaves out nothing
    that the mediator thinks possible, at half real and half generated sentences. The mediator has not the generator's
    weights and saw other noise, so that what both agree on is what the text says.

    Args:
        game: the players; the discriminator is the mediator.
        real: real sentences.

    References:
        Lu et al. 2019, arXiv:1804.03782; Hinton et al. 2015, "Distilling the Knowledge in a Neural Network",
        arXiv:1503.02531.
    """
    fake = game.sample(len(real))
    forward = game.config.divergence == "forward"
    half = len(real) // 2
    read = Sentences.join(real.part(0, half), fake.part(0, len(fake) - half)) if forward else fake
    mediator = game.judge
    with torch.no_grad():
        goal_BTD = hidden_states(mediator, read, game.bos_id)
    own_BTD = hidden_states(game.generator, read, game.bos_id)
    total = linear_kl(
        own_BTD.flatten(0, 1), game.generator.lm_head, goal_BTD.flatten(0, 1), mediator.lm_head,
        read.mask_BT.flatten().float(), reverse=not forward,
    )  # fmt: skip
    divergence = total / read.mask_BT.sum()
    return game.config.adversarial_weight * divergence, {"loss/generator": float(divergence.detach())}
