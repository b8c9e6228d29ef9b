"""The public trainer of policy optimisation."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from core.text.tokenizer import Tokenizer
from core.training import distributed, loop
from core.training.log import write_samples
from core.training.trainer import Trainer
from rl.algorithms import build_algorithm
from rl.config import PolicyConfig
from rl.environments import EnvironmentPool
from rl.envs.tabular import table_of
from rl.episodes import TRAINING, EpisodeSeed, EpisodeSeeds
from rl.evaluation import Episodes, as_row, play_randomly
from rl.exact import TabularPolicy
from rl.networks import build_policy
from rl.players import EnvironmentPlayer, Player
from rl.rollout import Rollout
from rl.task import PolicyTask


class PolicyTrainer(Trainer):
    """Trains a language model to act in a Gymnasium text environment.

    Example:
        `PolicyTrainer(PolicyConfig(env="trillium/Copy-v0", algorithm="ppo")).train()`
    """

    config: PolicyConfig
    task: PolicyTask

    def build(self) -> tuple[PolicyTask, EpisodeSeeds]:
        """Make the policy, the critic where the algorithm wants one, and the source of episodes."""
        config = self.config
        algorithm = build_algorithm(config)
        seeds = EpisodeSeeds(config.seed, config.batch_size, algorithm.group_size)
        pieces = config.optim.accumulate * algorithm.minibatches
        # Dynamic sampling may leave one group of a batch.
        share = algorithm.group_size if algorithm.dynamic else config.batch_size // distributed.world()
        if share < pieces:
            raise ValueError(
                f"{share} episodes a step and process are too few for {pieces} pieces (minibatches x accumulate): "
                "raise batch_size"
            )
        model, critic, player = build_policy(config, critic=algorithm.critic)
        return PolicyTask(model, copy.deepcopy(model), critic, player, config, self.runtime), seeds

    @property
    def tokenizer(self) -> Tokenizer:
        """The policy's tokenizer."""
        return self.task.player.tokenizer

    def play(
        self,
        env: str | None = None,
        env_kwargs: Mapping[str, Any] | None = None,
        *,
        episodes: int = 1,
        seed: int = 0,
        greedy: bool = False,
    ) -> Rollout:
        """Play episodes with the present policy.

        Args:
            env: Gymnasium id; the run's own environment by default.
            env_kwargs: arguments of `env`; by default the run's own with the run's environment, else none.
            episodes: how many.
            seed: of environments and sampling.
            greedy: take the most likely token instead of drawing.

        Raises:
            ValueError: the environment cannot be made, or its texts are not in the policy's vocabulary.
        """
        player, task = self._player(env, env_kwargs), self.task
        policy = copy.copy(task.policy)
        policy.max_new_tokens, policy.eos_id = player.max_new_tokens, player.stop_id
        with loop.undisturbed(task), self.runtime.autocast():
            seeds = [EpisodeSeed.derive(seed, TRAINING, number) for number in range(episodes)]
            return player.play(policy, seeds, greedy=greedy)

    def known_returns(self, env: str | None = None, env_kwargs: Mapping[str, Any] | None = None) -> dict[str, float]:
        """`optimum` and `random`, exact, as far as the environment declares them. Arguments as in `play`."""
        player = self._player(env, env_kwargs)
        values = {"optimum": player.optimum, "random": player.chance}
        return {name: value for name, value in values.items() if value is not None}

    def _player(self, env: str | None, env_kwargs: Mapping[str, Any] | None) -> Player:
        """The run's own, or one in another environment."""
        own = self.task.player
        if env is None and env_kwargs is None:
            return own
        if env_kwargs is None:
            env_kwargs = self.config.env_kwargs if env in (None, self.config.env) else {}
        pool = EnvironmentPool(env or self.config.env, env_kwargs)
        return EnvironmentPlayer(self.config, pool, own.tokenizer, self.task.model.module.vocab_size)  # type: ignore[arg-type]

    def sample(self, num_samples: int) -> Sequence[dict[str, Any]]:
        """Transcripts of sampled episodes, with `transcript`, `reward` and `ok`; torch's generator gives the seed."""
        seed = int(torch.randint(2**31, ()))
        return self._described(self.play(episodes=num_samples, seed=seed))

    def write_samples(self, task: Any, folder: Path, step: int) -> None:
        """Write transcripts of the evaluation's first episodes."""
        count = min(self.config.sample_episodes, self.config.eval_episodes)
        if count:
            write_samples(folder, step, self._described(task.play(task.evaluation_seeds()[:count])))

    def _described(self, rollout: Rollout) -> list[dict[str, Any]]:
        player, episodes = self.task.player, Episodes.of(rollout)
        rows: list[dict[str, Any]] = [
            {"transcript": rollout.transcript(number), "reward": round(reward, 6)}
            for number, reward in enumerate(episodes.returns)
        ]
        if player.optimum is not None:
            for row, solved in zip(rows, episodes.solved(player.optimum, player.by_start)):
                row["ok"] = solved
        return rows

    def report_sections(self) -> dict[str, Any]:
        """Scores of random play, of the policy before and after training, and the optimum, on the same episodes."""
        task, player = self.task, self.task.player
        optimum = player.optimum
        with loop.undisturbed(task):
            played = {
                "before RL": task.evaluation_rollout(policy=task.reference),
                "model": task.evaluation_rollout(),
                "model, greedy": task.evaluation_rollout(greedy=True),
            }
        rows = []
        if isinstance(player, EnvironmentPlayer):
            seeds = task.evaluation_seeds()
            chance = play_randomly(player.pool.first(len(seeds)), seeds, max_turns=self.config.max_turns)
            rows.append(as_row("random", chance.scores(optimum, player.by_start)))
        rows += [as_row(name, task.scores(rollout)) for name, rollout in played.items()]
        what = (
            self.config.env if self.config.prompts is None else f"one turn each, prompts of {self.config.prompts.name}"
        )
        notes = [
            f"{self.config.eval_episodes} episodes of {what}, the same for every row; 95 % intervals (normal for "
            "means, Wilson for shares)."
        ]
        rows += self._exact_rows()
        if optimum is not None:
            rows.append({"name": "optimum", "return": optimum, "regret": 0.0})
            known = "" if player.chance is None else f", random {player.chance:.4f}"
            notes.append(f"Exact expected return: optimum {optimum:.4f}{known}.")
        return {"rows": rows, "notes": notes}

    def _exact_rows(self) -> list[dict[str, Any]]:
        """Exact expected returns, where the environment can be enumerated and the policy sees its state."""
        task, player = self.task, self.task.player
        if (
            not isinstance(player, EnvironmentPlayer)
            or self.config.context == "history"
            or not self.config.mask_illegal
        ):
            return []
        table = table_of(player.env)
        if table is None or self.config.max_turns < table.horizon:
            return []
        known: dict[str, float] = {}
        for name, policy in (("before RL", task.reference), ("model", task.policy)):
            exact = TabularPolicy(policy, player.interface, table).scores()
            known[f"{name} (exact)"] = exact.sampled
            if player.max_new_tokens == 1:
                known[f"{name}, greedy (exact)"] = exact.greedy
        best = player.optimum
        regrets = {name: {} if best is None else {"regret": best - value} for name, value in known.items()}
        return [{"name": name, "return": value, **regrets[name]} for name, value in known.items()]

    def export_parts(self) -> tuple[Any, Tokenizer]:
        """The policy's language model and tokenizer, for `trillium export`."""
        return self._transformer(self.task.model.module), self.tokenizer

    def save(self, folder: Path | str) -> Path:
        """Write the weights, the config and the tokenizer; see `Trainer.save`."""
        folder = super().save(folder)
        self.tokenizer.save(folder)
        return folder
