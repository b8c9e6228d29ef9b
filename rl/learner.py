"""Learning from played episodes: credit, then updates. It knows neither environments nor which algorithm it runs.

Shape suffixes: N = turns, T = tokens of a turn, V = vocabulary, E = episodes, J = policy tokens of an episode.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.errors import UserError
from core.interfaces import Samples
from core.losses import MAX_LOGITS
from core.training.runtime import Runtime
from core.training.update import Updater
from rl.advantages import Credit, group_deviation, normalized
from rl.algorithms import Algorithm
from rl.config import PolicyConfig
from rl.episodes import SHUFFLING, derived_seed
from rl.evaluation import TOLERANCE
from rl.losses import clipped_value_loss, entropy_of, kl_estimates, square_kl, token_weights
from rl.means import Means
from rl.rollout import Rollout, select
from rl.value_scale import ValueScale

MOST_TURNS_AT_ONCE = 2048
"""Turns in one forward pass without gradient, where no logits are made."""
LARGEST_RATIO_ERROR = 1e-3
"""In fp32 the sampler's probabilities and those of the first update differ by some 1e-6."""
KL_GAIN, KL_LARGEST_ERROR = 0.1, 0.2
"""How fast the coefficient of the divergence follows its target (Ziegler et al. 2019, arXiv:1909.08593)."""


class SamplerMismatch(UserError):
    """Sampling and training disagree about the probability of a token, so no gradient of the run can be trusted."""

    exit_code = 1


class NothingToLearn(UserError):
    """Step after step no episode was better than another."""

    exit_code = 1


@dataclass(frozen=True)
class _Step:
    """What the updates of one step read."""

    rollout: Rollout
    behaviour_NT: Tensor
    advantage_NT: Tensor
    weight_NT: Tensor
    count_NT: Tensor
    value_NT: Tensor
    target_NT: Tensor
    reference_NT: Tensor | None


class Learner:
    """Updates a policy, and a critic where the algorithm wants one, from rollouts.

    Args:
        policy: what played: a `LanguageModelPolicy`, a captioner, or anything with `hidden` and `distribution`.
        algorithm: see `rl.algorithms`.
        config: the run.
        runtime: precision.
        model: updater of the policy's model.
        critic: updater of a `Critic`; None where the algorithm needs none.
        reference: the policy to stay close to, frozen; needed with `kl_coef`.
        longest: most tokens of a turn, and of an episode.
        optimum: the best return, where it is known: policies that have it need not learn on.
    """

    def __init__(
        self,
        policy: Any,
        algorithm: Algorithm,
        config: PolicyConfig,
        runtime: Runtime,
        *,
        model: Updater,
        critic: Updater | None = None,
        reference: Any = None,
        longest: tuple[int, int],
        optimum: float | None = None,
    ) -> None:
        self.policy = policy
        self.algorithm = algorithm
        self.config = config
        self.runtime = runtime
        self.model = model
        self.critic = critic
        self.scale = ValueScale(critic.module.head) if critic is not None else None  # type: ignore[arg-type]
        self.reference = reference
        self.longest_turn, self.longest_episode = longest
        self.optimum = optimum
        self.kl_coef = config.kl_coef
        self.noop_updates = 0
        self.noop_steps = 0

    def learn(self, rollout: Rollout, *, greedy_E: Tensor | None = None) -> dict[str, float]:
        """One step: give credit to every token, then update.

        Args:
            rollout: whole episodes of the present policy.
            greedy_E: return of greedy play from each episode's start, for the baseline `greedy`.

        Returns:
            What to log.

        Raises:
            SamplerMismatch: the sampler and the first update disagree about probabilities.
            NothingToLearn: it has been so for `max_noop_steps`.
        """
        means = Means()
        step = self._credit(rollout, means, greedy_E)
        self._require_difference(step)
        logged: dict[str, list[float]] = {}
        far = False
        for turns in self._minibatches(len(rollout.turns), rollout.seeds[0].number):
            measured = {} if far else self._update(step, turns, first=not logged)
            if self.critic is not None:  # which goes on when the policy has moved far enough
                measured |= self._update_critic(step, turns)
            for name, value in measured.items():
                logged.setdefault(name, []).append(value)
            far = far or 0 < self.algorithm.target_kl < measured["kl"]
            if far and self.critic is None:
                break
        played = means.result()
        if self.config.kl_target:
            error = played["kl_to_start"] / self.config.kl_target - 1
            self.kl_coef *= 1 + KL_GAIN * max(-KL_LARGEST_ERROR, min(KL_LARGEST_ERROR, error))
        return {
            **played,
            **{name: sum(values) / len(values) for name, values in logged.items()},
            "updates": float(len(logged["loss"])),
            "noop_updates": float(self.noop_updates),
        }

    def state_dict(self) -> dict[str, Any]:
        """Counters, the coefficient of the divergence, the critic's units. The updaters are their owner's."""
        return {
            "noop_updates": self.noop_updates,
            "noop_steps": self.noop_steps,
            "kl_coef": self.kl_coef,
            "scale": self.scale.state_dict() if self.scale is not None else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.noop_updates, self.noop_steps = state["noop_updates"], state["noop_steps"]
        self.kl_coef = state["kl_coef"]
        if self.scale is not None:
            self.scale.load_state_dict(state["scale"])

    # Credit.

    @torch.no_grad()
    def _credit(self, rollout: Rollout, means: Means, greedy_E: Tensor | None = None) -> _Step:
        """Advantages, targets and weights of all tokens."""
        mask_NT, behaviour_NT = rollout.mask_NT, rollout.samples.logprobs_BT
        value_NT, bootstrap_E = torch.zeros_like(behaviour_NT), behaviour_NT.new_zeros(rollout.num_episodes)
        if self.critic is not None:
            value_NT = torch.where(mask_NT, self._values(rollout.contexts, rollout.samples), 0.0)
            bootstrap_E = self._bootstrap(rollout)
        if self._rounds and (self.config.kl_coef or self.algorithm.minibatches > 1):
            own_NT = self._logprobs(self.policy, rollout)
            means.add("sampler_gap", (own_NT - behaviour_NT).abs().max())
            behaviour_NT = own_NT
        reference_NT = None
        reward_NT = rollout.reward_NT - self._overlong(rollout)
        if self.config.kl_coef:
            reference_NT = self._logprobs(self.reference, rollout)
            change_NT = torch.where(mask_NT, behaviour_NT - reference_NT, 0.0)
            self._measure_divergence(rollout, change_NT, means)
            if self.config.kl == "reward":
                reward_NT = reward_NT - self.kl_coef * change_NT
        credit = Credit(
            reward_EJ=rollout.by_episode(reward_NT),
            mask_EJ=rollout.mask_EJ,
            ends_turn_EJ=rollout.by_episode(rollout.ends_turn_NT),
            value_EJ=rollout.by_episode(value_NT),
            bootstrap_E=bootstrap_E,
            group_E=rollout.group_E if self.algorithm.group_size > 1 else None,
            state_EJ=rollout.by_episode(rollout.state_N[:, None].expand_as(mask_NT)),
            greedy_E=greedy_E,
        )
        found = self.algorithm.advantages(credit)
        advantage_EJ = found.advantage_EJ
        if self.config.normalize_advantages:
            advantage_EJ = normalized(advantage_EJ, credit.mask_EJ)
        if self.scale is not None:
            target_M, value_M = found.target_EJ[credit.mask_EJ], credit.value_EJ[credit.mask_EJ]
            self.scale.follow(target_M)
            spread = target_M.var(correction=0)
            explained = 1 - (target_M - value_M).var(correction=0) / spread if spread > 0 else spread
            means.add("explained_variance", explained)
        means.add("return", rollout.returns_E)
        means.add("valid", rollout.per_turn("valid", torch.float32))
        means.add("truncated", rollout.truncated_E.float())
        means.add("turns", torch.bincount(rollout.episode_N).float())
        if self.algorithm.group_size > 1:
            means.add("equal_groups", (group_deviation(rollout.returns_E, rollout.group_E) == 0).float())
        length = self.config.aggregate_length or self.longest_episode
        weight_NT, count_NT = token_weights(mask_NT, rollout.episode_N, self.algorithm.aggregate, length=length)
        return _Step(
            rollout, behaviour_NT.clone(), rollout.by_turn(advantage_EJ), weight_NT, count_NT, value_NT,
            rollout.by_turn(found.target_EJ), reference_NT,
        )  # fmt: skip

    @property
    def _rounds(self) -> bool:
        """Whether sampling rounds otherwise than training: then old probabilities are those of a training pass."""
        return self.runtime.dtype != torch.float32

    def _overlong(self, rollout: Rollout) -> Tensor:
        """penalty_NT, on the last token of responses that are nearly too long, as DAPO's soft punishment."""
        room = self.config.overlong_tokens
        if not room:
            return torch.zeros_like(rollout.reward_NT)
        over_N = (rollout.mask_NT.sum(1) - (self.longest_turn - room)).clamp(0, room) / room
        return torch.where(rollout.ends_turn_NT, over_N[:, None], 0.0)

    def _measure_divergence(self, rollout: Rollout, change_NT: Tensor, means: Means) -> None:
        """Log the divergence from the reference, in nats an episode."""
        k1_E = rollout.by_episode(change_NT).sum(1)
        k3_NT = torch.expm1(-change_NT) + change_NT
        means.add("kl_to_start", k1_E)
        means.add("kl_to_start/k3", rollout.by_episode(k3_NT).sum(1))
        means.add("kl_coef", torch.tensor(self.kl_coef))

    def _require_difference(self, step: _Step) -> None:
        """Count steps whose episodes were all as good as expected, and stop when they last."""
        own = Means()
        own.add("differs", (step.advantage_NT != 0).any().float())
        if self.optimum is not None:
            own.add("solved", (step.rollout.returns_E >= self.optimum - TOLERANCE).float())
        found = own.result()
        self.noop_steps = 0 if found["differs"] or found.get("solved") == 1 else self.noop_steps + 1
        if 0 < self.config.max_noop_steps <= self.noop_steps:
            raise NothingToLearn(
                f"for {self.noop_steps} steps all episodes had the same return as those they are compared with, so "
                "nothing was learned: make the reward finer or the start better (raise temperature or entropy_coef, "
                "begin with --init-from), or set max_noop_steps to 0 to go on regardless"
            )

    @torch.no_grad()
    def _logprobs(self, policy: Any, rollout: Rollout) -> Tensor:
        """logprobs_NT of all turns under a policy."""
        pieces = []
        for turns in torch.arange(len(rollout.turns)).split(turns_at_once(policy, rollout.samples)):
            with self.runtime.autocast():
                pieces.append(
                    policy.logprobs(
                        rollout.contexts_of(turns), select(rollout.samples, turns),
                        allowed_BTV=rollout.allowed_NTV(turns),
                    )
                )  # fmt: skip
        return torch.cat(pieces)

    def _values(self, contexts: Sequence[list[int]], samples: Samples) -> Tensor:
        """The critic's value_NT, without gradient."""
        assert self.critic is not None
        assert self.scale is not None
        pieces = []
        with self.runtime.autocast():
            for start in range(0, len(samples), MOST_TURNS_AT_ONCE):
                part = slice(start, start + MOST_TURNS_AT_ONCE)
                pieces.append(self.critic.module(contexts[part], select(samples, part)))
        return self.scale.values(torch.cat(pieces))

    def _bootstrap(self, rollout: Rollout) -> Tensor:
        """bootstrap_E: the critic's value of what a limit cut off; 0 where the environment ended the episode."""
        bootstrap_E = torch.zeros(rollout.num_episodes, device=rollout.episode_N.device)
        cut = rollout.truncated_E.nonzero().squeeze(-1)
        if len(cut):
            # The value before the first token does not depend on the token, so any sample will do.
            first = select(rollout.samples, slice(0, 1))
            one = Samples(first.tokens_BT[:, :1], first.mask_BT[:, :1], first.logprobs_BT[:, :1], first.finished_B)
            repeated = select(one, torch.zeros_like(cut))
            contexts = [rollout.final_contexts[e] for e in cut.tolist()]
            bootstrap_E[cut] = self._values(contexts, repeated)[:, 0]
        return bootstrap_E

    # Updates.

    def _minibatches(self, num_turns: int, first_episode: int) -> Iterator[Tensor]:
        """Turn numbers of each update. The order follows from the episodes' numbers, so it needs no stored state."""
        for epoch in range(self.algorithm.epochs):
            if self.algorithm.minibatches == 1:
                yield torch.arange(num_turns)
                continue
            seed = derived_seed(self.config.seed, SHUFFLING, first_episode * self.algorithm.epochs + epoch)
            order = torch.randperm(num_turns, generator=torch.Generator().manual_seed(seed))
            yield from order.tensor_split(self.algorithm.minibatches)

    def _update(self, step: _Step, turns: Tensor, *, first: bool) -> dict[str, float]:
        """One update of the policy on some turns."""
        micro = self._micro(turns)
        statistics = Means()
        # Even two passes over batches that are split otherwise differ by some .1 in a large model's bf16.
        fresh = first and self._rounds and self.algorithm.minibatches == 1
        report = self.model.step_micro(micro, lambda part: self._policy_loss(step, part, statistics, fresh=fresh))
        self.noop_updates += report.grad_norm == 0
        measured = statistics.result()
        error = measured.pop("ratio/error")
        if first:
            self._require_agreement(error)
            measured["ratio/first_error"] = error
        measured |= {
            "loss": report.loss,
            "grad_norm": report.grad_norm,
            "lr": report.lr,
            "skipped": float(report.skipped),
        }
        return measured

    def _update_critic(self, step: _Step, turns: Tensor) -> dict[str, float]:
        assert self.critic is not None
        report = self.critic.step_micro(self._micro(turns), lambda part: self._critic_loss(step, part))
        return {"loss/critic": report.loss, "grad_norm/critic": report.grad_norm}

    def _micro(self, turns: Tensor) -> list[Tensor]:
        """What is read at a time."""
        return list(turns.tensor_split(self.config.optim.accumulate))

    def _policy_loss(
        self, step: _Step, turns: Tensor, statistics: Means, *, fresh: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Weighted sum of the token losses of some turns, and the sum of their counts.

        With `fresh` the probabilities found are those that later updates start from.
        """
        samples, behaviour_NT = select(step.rollout.samples, turns), step.behaviour_NT[turns]
        mask_NT = samples.mask_BT
        with self.runtime.autocast():
            hidden_NTD = self.policy.hidden(step.rollout.contexts_of(turns), samples)
            logits_NTV = self.policy.distribution(hidden_NTD, step.rollout.allowed_NTV(turns))
        logp_NTV = logits_NTV.log_softmax(-1)
        tokens_NT1 = samples.tokens_BT.masked_fill(~mask_NT, 0).unsqueeze(-1)
        logprobs_NT = logp_NTV.gather(-1, tokens_NT1).squeeze(-1).masked_fill(~mask_NT, 0.0)
        if fresh:
            if not self.config.kl_coef:  # else it was measured with the divergence
                statistics.add("sampler_gap", (logprobs_NT - behaviour_NT).abs().max())
            behaviour_NT = logprobs_NT.detach()
            step.behaviour_NT[turns] = behaviour_NT
        loss_NT = self.algorithm.loss(logprobs_NT, behaviour_NT, step.advantage_NT[turns], mask_NT)
        # The bonus fades as the learning rate does: it keeps the policy open at first, and not random at the end.
        entropy_coef = self.config.entropy_coef * self.model.lr / self.config.optim.lr
        with torch.set_grad_enabled(entropy_coef > 0):
            entropy_NT = entropy_of(logp_NTV)
        if entropy_coef > 0:
            loss_NT = loss_NT - entropy_coef * entropy_NT
        if step.reference_NT is not None and self.config.kl == "loss":
            loss_NT = loss_NT + self.kl_coef * square_kl(logprobs_NT, step.reference_NT[turns])
        with torch.no_grad():
            self._measure(logprobs_NT, behaviour_NT, entropy_NT, mask_NT, statistics)
        loss_NT = torch.where(mask_NT, loss_NT * step.weight_NT[turns], 0.0)
        return loss_NT.sum(), step.count_NT[turns].sum()

    def _measure(
        self, logprobs_NT: Tensor, behaviour_NT: Tensor, entropy_NT: Tensor, mask_NT: Tensor, statistics: Means
    ) -> None:
        log_ratio_M = (logprobs_NT - behaviour_NT)[mask_NT]
        ratio_M = log_ratio_M.exp()
        k1_M, k3_M = kl_estimates(log_ratio_M, torch.zeros_like(log_ratio_M))
        statistics.add("entropy", entropy_NT, mask_NT)
        statistics.add("kl", k3_M)
        statistics.add("kl/k1", k1_M)
        statistics.add("ratio", ratio_M)
        statistics.add("ratio/error", (ratio_M - 1).abs().max())
        if self.algorithm.limits is not None:
            low, high = self.algorithm.limits
            statistics.add("clip_fraction", ((ratio_M < low) | (ratio_M > high)).float())

    def _critic_loss(self, step: _Step, turns: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the critic's token losses of some turns, and how many tokens there are."""
        assert self.critic is not None
        assert self.scale is not None
        samples = select(step.rollout.samples, turns)
        with self.runtime.autocast():
            value_NT = self.critic.module(step.rollout.contexts_of(turns), samples)
        old_NT, target_NT = self.scale.units(step.value_NT[turns]), self.scale.units(step.target_NT[turns])
        loss_NT = clipped_value_loss(value_NT, old_NT, target_NT, clip=self.config.value_clip)
        return torch.where(samples.mask_BT, loss_NT, 0.0).sum(), samples.mask_BT.sum()

    def _require_agreement(self, error: float) -> None:
        if self.runtime.dtype == torch.float32 and not error <= LARGEST_RATIO_ERROR:
            raise SamplerMismatch(
                f"at the first update a probability ratio is {error:.2g} away from 1: the model does not score "
                "its own samples as it drew them; check that it has no dropout and reads padded batches rightly"
            )


def turns_at_once(policy: Any, samples: Samples) -> int:
    """Turns whose logits may exist at a time in a pass without gradient."""
    return max(1, min(MOST_TURNS_AT_ONCE, MAX_LOGITS // (samples.tokens_BT.shape[1] * policy.model.vocab_size)))
