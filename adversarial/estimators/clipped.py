"""Policy optimisation with clipped ratios: the same sentences are learned from several times.

Shape suffixes: B = sentences, T = positions.
"""

import torch
from torch import Tensor

from adversarial.estimators.game import Game, sentence_logits
from adversarial.generator import Sentences, next_token_logits, token_losses
from core.losses import clipped_surrogate_loss, masked_mean, token_logprobs

CLIP = 0.2


def clipped_step(game: Game, real: Sentences) -> tuple[Tensor, dict[str, float]]:
    """TextGAIL: PPO on whole sentences, whose reward is the discriminator's logit, standardised over the round.

    The sentences are drawn in the first of the `generator_steps` of a round and learned from in each of them; a token
    whose probability has moved by more than 20 % in its advantage's direction is left alone. `mle_weight` is what the
    paper has human demonstrations for, `loss relativistic` its contrastive discriminator.

    Args:
        game: the players.
        real: tells how many sentences to draw.

    References:
        Wu et al. 2021, "TextGAIL", arXiv:2004.13796; Schulman et al. 2017, arXiv:1707.06347.
    """
    if not game.kept:
        sentences = game.sample(len(real))
        with torch.no_grad():
            logits, _ = game.score(sentences)
        logit_B = sentence_logits(logits, sentences, per_token=game.judge.per_token)
        drawn_BT = -token_losses(game.generator, sentences, game.bos_id)
        game.kept.update(sentences=sentences, drawn=drawn_BT, rewards=logit_B)
    sentences, drawn_BT, reward_B = game.kept["sentences"], game.kept["drawn"], game.kept["rewards"]
    mask_BT = sentences.mask_BT
    advantage_B = (reward_B - reward_B.mean()) / (reward_B.std() + 1e-6)
    logprobs_BT = token_logprobs(next_token_logits(game.generator, sentences, game.bos_id), sentences.tokens_BT)
    loss_BT = clipped_surrogate_loss(logprobs_BT, drawn_BT, advantage_B[:, None].expand_as(logprobs_BT), clip=CLIP)
    moved_BT = ((logprobs_BT.detach() - drawn_BT).exp() - 1).abs() > CLIP
    metrics = {
        "reward": float(torch.sigmoid(reward_B).mean()),
        "clipped": float(masked_mean(moved_BT.float(), mask_BT)),
        "entropy": float(-masked_mean(logprobs_BT.detach(), mask_BT)),
    }
    return game.config.adversarial_weight * masked_mean(loss_BT, mask_BT), metrics
