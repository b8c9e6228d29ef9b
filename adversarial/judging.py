"""What a discriminator minimises on a batch: its loss and its gradient penalties.

Shape suffixes: B = sentences, T = positions, E = embedding width.
"""

from typing import Any

import torch
from torch import Tensor

from adversarial.config import GANConfig
from adversarial.generator import Sentences, evaluating
from adversarial.losses import discriminator_loss, gradient_penalty, interpolated_penalty
from adversarial.ranking import ranking_loss
from core.losses import masked_mean


def judge_loss(judge: Any, config: GANConfig, real: Sentences, fake: Sentences) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and penalties together, with gradient, and what to log.

    Args:
        judge: the discriminator.
        config: which loss, and the weights of the penalties.
        real: real sentences.
        fake: as many generated ones.
    """
    penalty = torch.zeros((), device=real.mask_BT.device)
    if config.penalty or config.fake_penalty:
        real_logits, real_BF, real_penalty = _judged(judge, real, config.penalty)
        fake_logits, fake_BF, fake_penalty = _judged(judge, fake, config.fake_penalty)
        penalty = config.penalty / 2 * real_penalty + config.fake_penalty / 2 * fake_penalty
    else:
        # One pass over both: the weights are read, and their gradients written, once.
        both = Sentences.join(real, fake)
        logits, features_BF = judge(judge.embed(both.tokens_BT), both.mask_BT)
        real_logits, fake_logits = logits[: len(real)], logits[len(real) :]
        real_BF, fake_BF = features_BF[: len(real)], features_BF[len(real) :]
    if config.interpolated_penalty:
        penalty = penalty + config.interpolated_penalty * _between(judge, real, fake)
    if judge.per_token:
        length = real_logits.shape[1]
        real_logits = real_logits[real.padded(length).mask_BT]
        fake_logits = fake_logits[fake.padded(fake_logits.shape[1]).mask_BT]
    if config.loss == "ranking":
        loss, real_rank_B, fake_rank_B = ranking_loss(real_BF, fake_BF)
        real_logits, fake_logits = real_rank_B - 1, fake_rank_B - 1
    else:
        loss = discriminator_loss(config.loss, real_logits, fake_logits)
    metrics = {
        "loss/discriminator": loss.detach(),
        "accuracy/real": (real_logits > 0).float().mean(),
        "accuracy/fake": (fake_logits <= 0).float().mean(),
    }
    if config.penalty or config.fake_penalty or config.interpolated_penalty:
        metrics["penalty"] = penalty.detach()
    return loss + penalty, metrics


@torch.no_grad()
def accuracy_on_real(judge: Any, real: Sentences) -> float:
    """Share of real sentences, or of their tokens, that the discriminator takes for real."""
    with evaluating(judge):
        logits, _ = judge(judge.embed(real.tokens_BT), real.mask_BT)
    return float(((logits[real.mask_BT] if judge.per_token else logits) > 0).float().mean())


def _judged(judge: Any, sentences: Sentences, gamma: float) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, features and, where it has a weight, the logits' zero-centred gradient penalty."""
    embedded_BTE = judge.embed(sentences.tokens_BT)
    logits, features_BF = judge(embedded_BTE, sentences.mask_BT, twice=gamma > 0)
    if not gamma:
        return logits, features_BF, logits.new_zeros(())
    # In units of the embeddings' scale, or the penalty would depend on how they were made.
    unit = masked_mean(embedded_BTE.detach().square().mean(-1), sentences.mask_BT)
    return logits, features_BF, gradient_penalty(_summed(judge, logits, sentences.mask_BT), embedded_BTE) * unit


def _between(judge: Any, real: Sentences, fake: Sentences) -> Tensor:
    """WGAN's penalty, between pairs of real and generated sentences."""
    length = max(real.tokens_BT.shape[1], fake.tokens_BT.shape[1])
    real, fake = real.padded(length), fake.padded(length)
    mask_BT = real.mask_BT | fake.mask_BT
    share_B11 = torch.rand(len(real), 1, 1, device=mask_BT.device)
    with torch.no_grad():
        ends = [judge.embed(some.tokens_BT) * some.mask_BT.unsqueeze(-1) for some in (real, fake)]
        points_BTE = torch.lerp(ends[0], ends[1], share_B11)
    points_BTE.requires_grad_()
    logits, _ = judge(points_BTE, mask_BT, twice=True)
    return interpolated_penalty(_summed(judge, logits, mask_BT), points_BTE)


def _summed(judge: Any, logits: Tensor, mask_BT: Tensor) -> Tensor:
    """One number a sentence to differentiate: the mean over representations, the sum over tokens."""
    if logits.dim() == 1:
        return logits
    return (logits * mask_BT).sum(1) if judge.per_token else logits.mean(1)
