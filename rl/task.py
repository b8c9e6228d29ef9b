"""The training step of policy optimisation: play, give credit, update. It does not know which algorithm it runs.

Shape suffixes: N = turns, T = tokens of a turn, V = vocabulary, E = episodes, J = policy tokens of an episode.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from core.config import OptimConfig
from core.errors import UserError
from core.interfaces import Samples
from core.losses import token_logprobs
from core.policy import LanguageModelPolicy
from core.training.runtime import Runtime
from core.training.update import Updater
from rl.advantages import Credit, normalized
from rl.algorithms import ALGORITHMS
from rl.collect import collect
from rl.config import PolicyConfig
from rl.environments import EnvironmentPool, known_return
from rl.episodes import EVALUATION, SHUFFLING, EpisodeSeed, derived_seed
from rl.evaluation import Episodes
from rl.interface import TextInterface
from rl.losses import clipped_value_loss, kl_estimates, token_entropy, token_kl
from rl.means import Means
from rl.networks import Critic, hidden_states
from rl.rollout import Rollout, select

MOST_TURNS_AT_ONCE = 2048
"""Turns in one forward pass without gradient."""
LARGEST_RATIO_ERROR = 1e-3
"""In fp32 the sampler's probabilities and those of the first update differ by some 1e-6."""


class SamplerMismatch(UserError):
    """Sampling and training disagree about the probability of a token, so no gradient of the run can be trusted."""

    exit_code = 1


@dataclass(frozen=True)
class _Step:
    """What the updates of one step read."""

    rollout: Rollout
    advantage_NT: Tensor
    value_NT: Tensor
    target_NT: Tensor

    def contexts(self, turns: Tensor) -> list[list[int]]:
        return [self.rollout.contexts[n] for n in turns.tolist()]


class PolicyTask:
    """A policy that learns from episodes; with a critic where the algorithm wants one.

    Args:
        model: the policy's language model.
        reference: the policy at the start, for the distance from it; frozen.
        critic: expects returns; None where the algorithm needs none.
        interface: between the environment's text and the model's tokens.
        config: the run.
        runtime: device and precision.
    """

    def __init__(
        self,
        model: Any,
        reference: Any,
        critic: Critic | None,
        interface: TextInterface,
        config: PolicyConfig,
        runtime: Runtime,
    ) -> None:
        self.config = config
        self.runtime = runtime
        self.interface = interface
        self.algorithm = ALGORITHMS[config.algorithm](config)
        self.model = Updater(model, config.optim, runtime, config.steps)
        self.critic = Updater(critic, _critic_optim(config), runtime, config.steps) if critic is not None else None
        self.policy = self._policy(self.model.module)
        self.reference = self._policy(reference.to(runtime.device).requires_grad_(False))
        self.pool = EnvironmentPool(config.env, config.env_kwargs)
        self.evaluation_pool = EnvironmentPool(config.env, config.env_kwargs)
        self.noop_updates = 0

    def _policy(self, model: nn.Module) -> LanguageModelPolicy:
        return LanguageModelPolicy(
            model,  # type: ignore[arg-type]
            max_new_tokens=self.interface.max_action_tokens,
            eos_id=self.interface.stop_id,
            temperature=self.config.temperature,
        )

    def play(
        self,
        seeds: Sequence[EpisodeSeed],
        *,
        policy: LanguageModelPolicy | None = None,
        pool: EnvironmentPool | None = None,
        greedy: bool = False,
    ) -> Rollout:
        """Play episodes with the present policy, or another one."""
        with self.runtime.autocast():
            return collect(
                policy or self.policy,
                self.interface,
                (pool or self.pool).first(len(seeds)),
                seeds,
                max_turns=self.config.max_turns,
                history=self.config.context == "history",
                mask_illegal=self.config.mask_illegal,
                greedy=greedy,
            )

    def train_step(self, batch: Sequence[EpisodeSeed]) -> Mapping[str, float]:
        """Play one episode per seed, then update policy and critic on them.

        Raises:
            SamplerMismatch: the sampler and the first update disagree about probabilities.
        """
        rollout = self.play(batch)
        means = Means()
        step = self._credit(rollout, means)
        logged: dict[str, list[float]] = {}
        for turns in self._minibatches(len(rollout.turns), batch[0].number):
            measured = self._update(step, turns, first=not logged)
            for name, value in measured.items():
                logged.setdefault(name, []).append(value)
            if 0 < self.algorithm.target_kl < measured["kl"]:
                break
        played = means.result()
        return {  # what matters most first: the report shows the curves in this order
            "return": played["return"],
            **self.bounds(played["return"]),
            **played,
            **{name: sum(values) / len(values) for name, values in logged.items()},
            "updates": float(len(logged["loss"])),
            "noop_updates": float(self.noop_updates),
            "tokens": float(rollout.mask_NT.sum()),
        }

    def evaluate(self) -> Mapping[str, float]:
        """Scores of the present policy on the evaluation's episodes, which are the same every time.

        Sampled play gives `return`, `regret`, `solved`, `valid`, `turns`, `entropy` and `kl_from_start` (both in nats a
        token, over the whole vocabulary); greedy play the same with `_greedy` for the first three.
        """
        sampled, greedy = self.evaluation_rollout(), self.evaluation_rollout(greedy=True)
        optimum = known_return(self.pool.first(1)[0], "optimal_return")
        scores = {name: score.value for name, score in Episodes.of(sampled).scores(optimum).items()}
        best = Episodes.of(greedy).scores(optimum)
        scores |= {f"{name}_greedy": best[name].value for name in ("return", "regret", "solved") if name in best}
        return scores | self._spread(sampled)

    def evaluation_rollout(self, *, policy: LanguageModelPolicy | None = None, greedy: bool = False) -> Rollout:
        """The evaluation's episodes, played by the present policy or another one."""
        return self.play(self.evaluation_seeds(), policy=policy, pool=self.evaluation_pool, greedy=greedy)

    def evaluation_seeds(self) -> list[EpisodeSeed]:
        """The episodes of every evaluation."""
        return [EpisodeSeed.derive(self.config.seed, EVALUATION, n) for n in range(self.config.eval_episodes)]

    @torch.no_grad()
    def _spread(self, rollout: Rollout) -> dict[str, float]:
        """Entropy of the policy and its distance from the reference, on the policy's own episodes."""
        means = Means()
        for start in range(0, len(rollout.turns), MOST_TURNS_AT_ONCE):
            part = slice(start, start + MOST_TURNS_AT_ONCE)
            samples, allowed_NTV = select(rollout.samples, part), rollout.allowed_NTV(part)
            with self.runtime.autocast():
                logits_NTV, reference_NTV = (
                    policy.distribution(hidden_states(policy, rollout.contexts[part], samples), allowed_NTV)
                    for policy in (self.policy, self.reference)
                )
            means.add("entropy", token_entropy(logits_NTV), samples.mask_BT)
            means.add("kl_from_start", token_kl(logits_NTV, reference_NTV), samples.mask_BT)
        return means.result()

    def bounds(self, mean_return: float) -> dict[str, float]:
        """Where a return stands between random play and the optimum, as far as the environment knows them."""
        env = self.pool.first(1)[0]
        optimum, chance = known_return(env, "optimal_return"), known_return(env, "random_return")
        found = {} if optimum is None else {"return/optimum": optimum, "regret": optimum - mean_return}
        return found if chance is None else {**found, "return/random": chance}

    def state_dict(self) -> dict[str, Any]:
        """Updaters and counters. The reference is the start, which `build` makes again."""
        critic = None if self.critic is None else self.critic.state_dict()
        return {"model": self.model.state_dict(), "critic": critic, "noop_updates": self.noop_updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.model.load_state_dict(state["model"])
        if self.critic is not None:
            self.critic.load_state_dict(state["critic"])
        self.noop_updates = state["noop_updates"]

    @torch.no_grad()
    def _credit(self, rollout: Rollout, means: Means) -> _Step:
        """Advantages and targets of all tokens."""
        value_NT = torch.zeros_like(rollout.samples.logprobs_BT)
        bootstrap_E = torch.zeros(rollout.num_episodes, device=value_NT.device)
        if self.critic is not None:
            value_NT = torch.where(rollout.mask_NT, self._values(rollout.contexts, rollout.samples), 0.0)
            bootstrap_E = self._bootstrap(rollout)
        credit = Credit(
            reward_EJ=rollout.by_episode(rollout.reward_NT),
            mask_EJ=rollout.mask_EJ,
            ends_turn_EJ=rollout.by_episode(rollout.ends_turn_NT),
            value_EJ=rollout.by_episode(value_NT),
            bootstrap_E=bootstrap_E,
        )
        found = self.algorithm.advantages(credit)
        advantage_EJ = found.advantage_EJ
        if self.config.normalize_advantages:
            advantage_EJ = normalized(advantage_EJ, credit.mask_EJ)
        if self.critic is not None:
            target_M, value_M = found.target_EJ[credit.mask_EJ], credit.value_EJ[credit.mask_EJ]
            spread = target_M.var(correction=0)
            explained = 1 - (target_M - value_M).var(correction=0) / spread if spread > 0 else spread
            means.add("explained_variance", explained)
        means.add("return", rollout.returns_E)
        means.add("valid", rollout.per_turn("valid", torch.float32))
        means.add("truncated", rollout.truncated_E.float())
        means.add("turns", torch.bincount(rollout.episode_N).float())
        return _Step(rollout, rollout.by_turn(advantage_EJ), value_NT, rollout.by_turn(found.target_EJ))

    def _values(self, contexts: Sequence[list[int]], samples: Samples) -> Tensor:
        """The critic's value_NT, without gradient."""
        assert self.critic is not None
        pieces = []
        with self.runtime.autocast():
            for start in range(0, len(samples), MOST_TURNS_AT_ONCE):
                part = slice(start, start + MOST_TURNS_AT_ONCE)
                pieces.append(self.critic.module(contexts[part], select(samples, part)))
        return torch.cat(pieces)

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
        """One update of the policy, and one of the critic, on some turns."""
        micro = list(turns.tensor_split(self.config.optim.accumulate))
        statistics = Means()
        report = self.model.step_micro(micro, lambda part: self._policy_loss(step, part, statistics))
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
        if self.critic is not None:
            critic = self.critic.step_micro(micro, lambda part: self._critic_loss(step, part))
            measured |= {"loss/critic": critic.loss, "grad_norm/critic": critic.grad_norm}
        return measured

    def _policy_loss(self, step: _Step, turns: Tensor, statistics: Means) -> tuple[Tensor, Tensor]:
        """Sum of the token losses of some turns, and how many tokens there are."""
        samples = select(step.rollout.samples, turns)
        mask_NT, behaviour_NT = samples.mask_BT, samples.logprobs_BT
        allowed_NTV = step.rollout.allowed_NTV(turns)
        with self.runtime.autocast():
            hidden_NTD = hidden_states(self.policy, step.contexts(turns), samples)
            logits_NTV = self.policy.distribution(hidden_NTD, allowed_NTV)
        logprobs_NT = token_logprobs(logits_NTV, samples.tokens_BT.masked_fill(~mask_NT, 0))
        logprobs_NT = torch.where(mask_NT, logprobs_NT, 0.0)
        entropy_NT = token_entropy(logits_NTV)
        loss_NT = self.algorithm.loss(logprobs_NT, behaviour_NT, step.advantage_NT[turns])
        # The bonus fades as the learning rate does: it keeps the policy open at first, and not random at the end.
        entropy_coef = self.config.entropy_coef * self.model.lr / self.config.optim.lr
        loss_NT = loss_NT - entropy_coef * entropy_NT
        with torch.no_grad():
            ratio_NT = (logprobs_NT - behaviour_NT).exp()
            k1_NT, k3_NT = kl_estimates(logprobs_NT, behaviour_NT)
            statistics.add("entropy", entropy_NT, mask_NT)
            statistics.add("kl", k3_NT, mask_NT)
            statistics.add("kl/k1", k1_NT, mask_NT)
            statistics.add("ratio", ratio_NT, mask_NT)
            statistics.add("ratio/error", (ratio_NT - 1).abs()[mask_NT].max())
            if self.config.clip:
                statistics.add("clip_fraction", ((ratio_NT - 1).abs() > self.config.clip).float(), mask_NT)
        return torch.where(mask_NT, loss_NT, 0.0).sum(), mask_NT.sum()

    def _critic_loss(self, step: _Step, turns: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the critic's token losses of some turns, and how many tokens there are."""
        assert self.critic is not None
        samples = select(step.rollout.samples, turns)
        with self.runtime.autocast():
            value_NT = self.critic.module(step.contexts(turns), samples)
        loss_NT = clipped_value_loss(value_NT, step.value_NT[turns], step.target_NT[turns], clip=self.config.value_clip)
        return torch.where(samples.mask_BT, loss_NT, 0.0).sum(), samples.mask_BT.sum()

    def _require_agreement(self, error: float) -> None:
        if self.runtime.dtype == torch.float32 and not error <= LARGEST_RATIO_ERROR:
            raise SamplerMismatch(
                f"before the first update a probability ratio is {error:.2g} away from 1: the model does not score "
                "its own samples as it drew them; check that it has no dropout and reads padded batches rightly"
            )


def _critic_optim(config: PolicyConfig) -> OptimConfig:
    return replace(config.optim, lr=config.critic_lr)
