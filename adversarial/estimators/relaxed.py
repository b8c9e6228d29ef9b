"""Gradients that pass through the tokens themselves.

Shape suffixes: B = sentences, T = positions, V = vocabulary, D = embedding width.
"""

import torch
from torch import Tensor

from adversarial.estimators.game import Game
from adversarial.generator import (
    Sentences,
    begin_with,
    draw_latent,
    embedding_table,
    next_token_logits,
    straight_through,
)
from adversarial.losses import feature_matching, generator_loss, mean_discrepancy
from core.losses import masked_mean
from core.nn.transformer import Transformer


def straight_through_step(game: Game, real: Sentences) -> tuple[Tensor, dict[str, float]]:
    """The present default: hard samples, the gradient of the softmax they came from; with feature matching.

    See `adversarial.generator.straight_through`.
    """
    drawn = game.sample(len(real))
    logits_BTV = next_token_logits(game.generator, drawn, game.bos_id)
    onehot_BTV = straight_through(logits_BTV, drawn.tokens_BT, game.config.temperature)
    logp_BTV = logits_BTV.detach().float().log_softmax(-1)
    entropy = float(masked_mean(-(logp_BTV.exp() * logp_BTV).sum(-1), drawn.mask_BT))
    loss, metrics = judged_loss(game, onehot_BTV, drawn.mask_BT, real)
    return loss, {**metrics, "entropy": entropy}


def gumbel_step(game: Game, real: Sentences) -> tuple[Tensor, dict[str, float]]:
    """RelGAN: soft tokens whose inverse temperature grows exponentially from 1 to `inverse_temperature`."""
    beta = game.config.inverse_temperature**game.progress
    onehot_BTV, mask_BT = gumbel_sentences(game, len(real), 1 / beta)
    loss, metrics = judged_loss(game, onehot_BTV, mask_BT, real)
    top = onehot_BTV.detach().amax(-1)
    return loss, {**metrics, "inverse_temperature": beta, "hardness": float(masked_mean(top, mask_BT))}


def judged_loss(game: Game, onehot_BTV: Tensor, mask_BT: Tensor, real: Sentences) -> tuple[Tensor, dict[str, float]]:
    """The adversarial loss of (soft) one-hot vectors, and feature matching against real sentences."""
    config, judge = game.config, game.judge
    fake_logits, fake_BF = judge(judge.embed(onehot_BTV), mask_BT)
    with torch.no_grad():
        real_logits, real_BF = game.score(real)
    if judge.per_token:
        fake_logits, real_logits = fake_logits[mask_BT], real_logits[real.mask_BT]
    assert config.loss != "ranking"  # the config has seen to it
    adversarial = generator_loss(config.loss, real_logits, fake_logits)
    match = feature_matching if config.feature_loss == "mean" else mean_discrepancy
    matching = match(real_BF, fake_BF)
    metrics = {"loss/generator": float(adversarial.detach()), "loss/features": float(matching.detach())}
    return config.adversarial_weight * adversarial + config.feature_weight * matching, metrics


def gumbel_sentences(game: Game, count: int, temperature: float) -> tuple[Tensor, Tensor]:
    """Soft sentences drawn by the Gumbel-softmax, each token fed back as it is, with gradient through all of them.

    y_t = softmax((logits_t + gumbel noise) / temperature).

    Args:
        game: generator, lengths.
        count: B.
        temperature: towards 0 the vectors become one-hot and their gradient grows.

    Returns:
        (onehot_BTV, mask_BT): soft one-hot vectors; the mask ends where the likeliest token is end-of-sequence.

    References:
        Jang et al. 2017, "Categorical Reparameterization with Gumbel-Softmax", arXiv:1611.01144; Nie et al. 2019,
        "RelGAN", ICLR.
    """
    model = game.generator
    table_VD = embedding_table(model)
    next_B1D = table_VD[game.bos_id].expand(count, 1, -1)
    if (latent_BZ := draw_latent(model, count)) is not None:
        begin_B1 = torch.full((count, 1), game.bos_id, device=table_VD.device)
        next_B1D = begin_with(model, begin_B1, latent_BZ)
    # The Transformer's cache is written in place, which no gradient survives: it reads all positions again.
    cache = None if isinstance(model, Transformer) else model.new_cache(count, game.max_tokens)
    read, drawn = [next_B1D], []
    for _ in range(game.max_tokens):
        if cache is None:
            hidden_BD = model(embeddings_BTD=torch.cat(read, 1))[:, -1]
        else:
            hidden_BD = model(embeddings_BTD=next_B1D, cache=cache)[:, -1]
        logits_BV = model.logits(hidden_BD).float()
        noise_BV = -torch.empty_like(logits_BV).exponential_().log()
        soft_BV = torch.softmax((logits_BV + noise_BV) / temperature, -1)
        drawn.append(soft_BV)
        next_B1D = (soft_BV @ table_VD)[:, None]
        read.append(next_B1D)
    onehot_BTV = torch.stack(drawn, 1)
    if game.eos_id is None:
        return onehot_BTV, torch.ones(count, game.max_tokens, dtype=torch.bool, device=onehot_BTV.device)
    ends_BT = onehot_BTV.detach().argmax(-1) == game.eos_id
    return onehot_BTV, ends_BT.cumsum(1) - ends_BT.long() == 0
