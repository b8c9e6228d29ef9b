"""REINFORCE: sampled tokens become likelier in proportion to how much better than expected their reward was.

Shape suffixes: B = sentences, T = positions, D = hidden width, G = roll-outs of a prefix.

References:
    Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning".
"""

from collections.abc import Callable

import torch
from torch import Tensor

from adversarial.estimators.game import Game, sentence_logits
from adversarial.generator import Sentences, hidden_states, prompt_embedding, weighted_nll
from adversarial.ranking import rank_scores
from core.generate import generate
from core.losses import linear_cross_entropy, masked_mean

Reward = Callable[[Tensor, Tensor], Tensor]
"""From logit_B and features_BF of sentences to reward_B."""
_JUDGED = 256


def reinforce_loss(game: Game, rewards_BT: Tensor, sentences: Sentences) -> tuple[Tensor, dict[str, float]]:
    """Policy-gradient loss: mean_bt -(R_bt - baseline_bt) log p(token_bt).

    Args:
        game: generator and baseline.
        rewards_BT: what each token is worth, from its own place on.
        sentences: drawn from the generator.
    """
    mask_BT = sentences.mask_BT
    hidden_BTD = hidden_states(game.generator, sentences, game.bos_id)
    baseline_BT = game.baseline(hidden_BTD, rewards_BT, mask_BT)
    advantages_BT = torch.where(mask_BT, rewards_BT - baseline_BT, 0.0)
    total, losses_N = linear_cross_entropy(
        hidden_BTD.flatten(0, 1), game.generator.lm_head, sentences.tokens_BT.flatten(), advantages_BT.flatten()
    )
    metrics = {
        "reward": float(masked_mean(rewards_BT, mask_BT)),
        "advantage_std": float(advantages_BT[mask_BT].std()),
        "entropy": float(masked_mean(losses_N.view_as(rewards_BT), mask_BT)),
    }
    return game.config.adversarial_weight * total / mask_BT.sum(), metrics


def mean_baseline(rewards_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """baseline_BT: the mean reward at each position."""
    mean_T = torch.where(mask_BT, rewards_BT, 0.0).sum(0) / mask_BT.sum(0).clamp(min=1)
    return mean_T.expand_as(rewards_BT)


def rollout_step(game: Game, real: Sentences) -> tuple[Tensor, dict[str, float]]:
    """SeqGAN: a token is worth what the discriminator says, on average, of sentences that go on from it.

    Args:
        game: the players.
        real: tells how many sentences to draw.

    References:
        Yu et al. 2017, "SeqGAN", arXiv:1609.05473.
    """
    sentences = game.sample(len(real))
    rewards_BT = rollout_rewards(game, sentences, game.config.num_rollouts, reward_of(game, real))
    return reinforce_loss(game, rewards_BT, sentences)


def reward_of(game: Game, real: Sentences) -> Reward:
    """What the config says that a sentence is worth, by its logit_B and features_BF.

    `probability` is sigmoid(logit), `logit` the logit itself, `rank` RankGAN's score among the real sentences.
    """
    if game.config.reward == "rank":
        half = len(real) // 2
        with torch.no_grad():
            _, real_BF = game.score(real)
        return lambda logit_B, features_BF: rank_scores(features_BF, real_BF[:half], real_BF[half:])
    if game.config.reward == "probability":
        return lambda logit_B, features_BF: torch.sigmoid(logit_B)
    return lambda logit_B, features_BF: logit_B


@torch.no_grad()
def rollout_rewards(game: Game, sentences: Sentences, num_rollouts: int, reward: Reward) -> Tensor:
    """reward_BT: of each token the mean reward of `num_rollouts` sentences that begin with all up to it.

    The last token's reward is that of the sentence itself. The generator draws with its key-value cache, without
    dropout.

    Args:
        game: the players.
        sentences: drawn from the generator.
        num_rollouts: G.
        reward: see `reward_of`.
    """

    def judged(some: Sentences) -> Tensor:
        # A few hundred at a time stay in the processor's cache.
        rewards = []
        for start in range(0, len(some), _JUDGED):
            part = some.part(start, start + _JUDGED)
            logits, features_BF = game.score(part)
            rewards.append(reward(sentence_logits(logits, part, per_token=game.judge.per_token), features_BF))
        return torch.cat(rewards)

    final_B = judged(sentences)
    rewards_BT = final_B[:, None].expand(sentences.tokens_BT.shape).clone()
    lengths_B = sentences.mask_BT.sum(1)
    begin = game.bos_id
    for known in range(1, sentences.tokens_BT.shape[1]):
        # A sentence that ends with this token has its own reward.
        rows = (lengths_B > known).nonzero().squeeze(1)
        if not len(rows):
            break
        prefixes_BT = sentences.tokens_BT[rows, :known]
        latent_BZ = None if sentences.latent_BZ is None else sentences.latent_BZ[rows]
        drawn = generate(
            game.generator, [[begin, *prefix] for prefix in prefixes_BT.tolist()],
            max_new_tokens=game.max_tokens - known, num_samples=num_rollouts, eos_id=game.eos_id,
            embed=prompt_embedding(game.generator, latent_BZ),
        )  # fmt: skip
        repeated = prefixes_BT.repeat_interleave(num_rollouts, 0)
        finished = Sentences(
            torch.cat((repeated, drawn.tokens_BT.masked_fill(~drawn.mask_BT, 0)), 1),
            torch.cat((torch.ones_like(repeated, dtype=torch.bool), drawn.mask_BT), 1),
        )
        rewards_BT[rows, known - 1] = judged(finished).view(len(rows), num_rollouts).mean(1).to(rewards_BT.dtype)
    return rewards_BT


def dense_step(game: Game, real: Sentences) -> tuple[Tensor, dict[str, float]]:
    """ScratchGAN: every token has a reward of its own, from a discriminator that judges token by token.

    r_t = 2 D(x_t | x_<t) - 1 and R_t = sum_{s >= t} gamma^(s - t) r_s.

    Args:
        game: the players; the discriminator gives a logit a token.
        real: tells how many sentences to draw.

    References:
        de Masson d'Autume et al. 2019, "Training Language GANs from Scratch", arXiv:1905.09922.
    """
    if not game.judge.per_token:
        raise ValueError("estimator dense needs a logit for every token: set judge to tokens")
    sentences = game.sample(len(real))
    with torch.no_grad():
        logits_BT, _ = game.score(sentences)
    rewards_BT = (2 * torch.sigmoid(logits_BT) - 1) * sentences.mask_BT
    return reinforce_loss(game, discounted(rewards_BT, game.config.discount), sentences)


def discounted(rewards_BT: Tensor, discount: float) -> Tensor:
    """returns_BT: R_t = r_t + discount * R_(t+1)."""
    returns_BT = rewards_BT.clone()
    for step in range(rewards_BT.shape[1] - 2, -1, -1):
        returns_BT[:, step] += discount * returns_BT[:, step + 1]
    return returns_BT


def importance_step(game: Game, real: Sentences) -> tuple[Tensor, dict[str, float]]:
    """MaliGAN: samples are weighted by how much likelier they are in real text, D / (1 - D) = exp(logit).

    L = -sum_b (w_b - 1/B) log p(x_b) / mean length, with w_b = exp(logit_b) / sum_b exp(logit_b).

    Args:
        game: the players.
        real: tells how many sentences to draw.

    References:
        Che et al. 2017, "Maximum-Likelihood Augmented Discrete GANs", arXiv:1702.07983.
    """
    sentences = game.sample(len(real))
    with torch.no_grad():
        logits, _ = game.score(sentences)
        logit_B = sentence_logits(logits, sentences, per_token=game.judge.per_token)
    weights_B = torch.softmax(logit_B, 0)
    centred_B = weights_B - 1 / len(weights_B)
    mask_BT = sentences.mask_BT
    total, losses_N = weighted_nll(game.generator, sentences, centred_B[:, None] * mask_BT, game.bos_id)
    metrics = {
        "reward": float(torch.sigmoid(logit_B).mean()),
        "effective_samples": float(1 / weights_B.square().sum()),
        "entropy": float(masked_mean(losses_N.view_as(mask_BT), mask_BT)),
    }
    return game.config.adversarial_weight * total / mask_BT.sum(1).float().mean(), metrics
