"""The training step of policy optimisation: play, then learn from what was played.

Shape suffixes: N = turns, T = tokens of a turn, V = vocabulary, E = episodes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from core.policy import LanguageModelPolicy
from core.training.runtime import Runtime
from core.training.update import Updater
from rl.advantages import group_deviation
from rl.algorithms import build_algorithm
from rl.cloning import Cloning
from rl.config import PolicyConfig
from rl.episodes import EVALUATION, REPLACING, EpisodeSeed
from rl.evaluation import Episodes, Score
from rl.learner import Learner, turns_at_once
from rl.losses import token_entropy, token_kl
from rl.means import Means
from rl.networks import Critic
from rl.players import Player
from rl.rollout import Rollout, select

MOST_REPLACEMENTS = 4
"""Rounds in which groups that teach nothing are replaced by others."""


class PolicyTask:
    """A policy that learns from episodes; with a critic where the algorithm wants one.

    Args:
        model: the policy's language model.
        reference: the policy at the start, for the distance from it; frozen.
        critic: expects returns; None where the algorithm needs none.
        player: lets the policy play.
        config: the run.
        runtime: device and precision.
    """

    def __init__(
        self,
        model: Any,
        reference: Any,
        critic: Critic | None,
        player: Player,
        config: PolicyConfig,
        runtime: Runtime,
    ) -> None:
        self.config = config
        self.runtime = runtime
        self.player = player
        self.algorithm = build_algorithm(config)
        self.model = Updater(model, config.optim, runtime, config.steps)
        # The critic's settings are the policy's, but for the learning rate.
        optim = replace(config.optim, lr=config.critic_lr)
        self.critic = Updater(critic, optim, runtime, config.steps) if critic is not None else None
        self.policy = self._policy(self.model.module)
        self.reference = self._policy(reference.to(runtime.device).requires_grad_(False))
        self.step = 0
        self.cloning = Cloning(player, config, runtime) if config.clone_steps else None  # type: ignore[arg-type]
        self.learner = Learner(
            self.policy, self.algorithm, config, runtime, model=self.model, critic=self.critic,
            reference=self.reference, optimum=player.optimum, longest=(player.max_new_tokens, player.longest_episode),
        )  # fmt: skip

    def _policy(self, model: nn.Module) -> LanguageModelPolicy:
        return LanguageModelPolicy(
            model,  # type: ignore[arg-type]
            max_new_tokens=self.player.max_new_tokens,
            eos_id=self.player.stop_id,
            temperature=self.config.temperature,
        )

    def play(
        self, seeds: Sequence[EpisodeSeed], *, policy: LanguageModelPolicy | None = None, greedy: bool = False
    ) -> Rollout:
        """Play episodes with the present policy, or another one."""
        with self.runtime.autocast():
            return self.player.play(policy or self.policy, seeds, greedy=greedy)

    def train_step(self, batch: Sequence[EpisodeSeed]) -> Mapping[str, float]:
        """Play one episode per seed, then update policy and critic on them.

        Raises:
            SamplerMismatch: the sampler and the first update disagree about probabilities.
            NothingToLearn: for many steps no episode was better than another.
        """
        if self.cloning is not None and self.step < self.config.clone_steps:
            shown = self.cloning.step(self.model, self.policy, batch)
            self.step += 1
            if self.step == self.config.clone_steps:
                # The policy at the start of its own learning is what it is compared with.
                self.reference.model.load_state_dict(self.model.module.state_dict())  # type: ignore[attr-defined]
            return shown
        rollout, replaced = self.play(batch), 0
        if self.algorithm.dynamic:
            rollout, replaced = self._with_differences(rollout, batch)
        greedy_E = self._greedy_returns(rollout) if self.algorithm.greedy else None
        learned = self.learner.learn(rollout, greedy_E=greedy_E)
        self.step += 1
        metrics = {  # what matters most first: the report shows the curves in this order
            "return": learned["return"],
            **self.bounds(learned["return"]),
            **learned,
            "tokens": float(rollout.mask_NT.sum()),
        }
        return {**metrics, "replaced_groups": float(replaced)} if self.algorithm.dynamic else metrics

    def _with_differences(self, rollout: Rollout, batch: Sequence[EpisodeSeed]) -> tuple[Rollout, int]:
        """Only groups whose returns differ, replaced by new ones as long as some are missing; and how many were played.

        References:
            Yu et al. 2025, "DAPO", arXiv:2503.14476 (dynamic sampling).
        """
        size, played = self.algorithm.group_size, 0
        parts, wanted = [], len(batch) // size
        part = rollout
        for round_ in range(MOST_REPLACEMENTS + 1):
            differs_E = group_deviation(part.returns_E, part.group_E) > 0
            if bool(differs_E.any()):
                parts.append(part.of_episodes(differs_E.nonzero().squeeze(-1).tolist()[: wanted * size]))
                wanted -= parts[-1].num_episodes // size
            if not wanted or round_ == MOST_REPLACEMENTS:
                break
            first = batch[0].number * MOST_REPLACEMENTS + round_ * len(batch)
            seeds = [EpisodeSeed.derive(self.config.seed, REPLACING, first + i, size) for i in range(wanted * size)]
            part, played = self.play(seeds), played + wanted
        return (Rollout.joined(parts) if parts else rollout), played

    def _greedy_returns(self, rollout: Rollout) -> Tensor:
        """greedy_E: what greedy play from the same start gives."""
        groups = rollout.group_E.tolist()
        firsts = dict(zip(reversed(groups), reversed(rollout.seeds)))
        played = self.play([firsts[group] for group in range(len(firsts))], greedy=True)
        return played.discounted_E(self.config.gamma)[rollout.group_E]

    def evaluate(self) -> Mapping[str, float]:
        """Scores of the present policy on the evaluation's episodes, which are the same every time.

        Sampled play gives `return`, `regret`, `solved`, `valid`, `turns`, `entropy` and `kl_from_start` (both in nats a
        token, over the whole vocabulary); greedy play the same with `_greedy` for the first three.
        """
        sampled = self.evaluation_rollout()
        scores = {name: score.value for name, score in self.scores(sampled).items()}
        best = self.scores(self.evaluation_rollout(greedy=True))
        scores |= {f"{name}_greedy": best[name].value for name in ("return", "regret", "solved") if name in best}
        return scores | self._spread(sampled)

    def scores(self, rollout: Rollout) -> dict[str, Score]:
        """See `Episodes.scores`."""
        return Episodes.of(rollout).scores(self.player.optimum, self.player.by_start)

    def evaluation_rollout(self, *, policy: LanguageModelPolicy | None = None, greedy: bool = False) -> Rollout:
        """The evaluation's episodes, played by the present policy or another one."""
        return self.play(self.evaluation_seeds(), policy=policy, greedy=greedy)

    def evaluation_seeds(self) -> list[EpisodeSeed]:
        """The episodes of every evaluation."""
        return [EpisodeSeed.derive(self.config.seed, EVALUATION, n) for n in range(self.config.eval_episodes)]

    @torch.no_grad()
    def _spread(self, rollout: Rollout) -> dict[str, float]:
        """Entropy of the policy and its distance from the reference, on the policy's own episodes."""
        means = Means()
        stride = turns_at_once(self.policy, rollout.samples)
        for start in range(0, len(rollout.turns), stride):
            part = slice(start, start + stride)
            samples, allowed_NTV = select(rollout.samples, part), rollout.allowed_NTV(part)
            with self.runtime.autocast():
                logits_NTV, reference_NTV = (
                    policy.distribution(policy.hidden(rollout.contexts[part], samples), allowed_NTV)
                    for policy in (self.policy, self.reference)
                )
            means.add("entropy", token_entropy(logits_NTV), samples.mask_BT)
            means.add("kl_from_start", token_kl(logits_NTV, reference_NTV), samples.mask_BT)
        return means.result()

    def bounds(self, mean_return: float) -> dict[str, float]:
        """Where a return stands between random play and the optimum, as far as the environment knows them."""
        found = {}
        if self.player.optimum is not None:
            found = {"return/optimum": self.player.optimum, "regret": self.player.optimum - mean_return}
        return found if self.player.chance is None else {**found, "return/random": self.player.chance}

    def state_dict(self) -> dict[str, Any]:
        """Updaters and counters. The reference is the start, which `build` makes again, unless something was cloned."""
        critic = None if self.critic is None else self.critic.state_dict()
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "critic": critic,
            "learner": self.learner.state_dict(),
            "step": self.step,
        }
        if self.cloning is not None:
            state["reference"] = dict(self.reference.model.state_dict())  # type: ignore[attr-defined]
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.model.load_state_dict(state["model"])
        if self.critic is not None:
            self.critic.load_state_dict(state["critic"])
        self.learner.load_state_dict(state["learner"])
        self.step = state["step"]
        if self.cloning is not None:
            self.reference.model.load_state_dict(state["reference"])  # type: ignore[attr-defined]
