"""The public trainer of policy optimisation."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from core.errors import RunError
from core.nn.transformer import Transformer
from core.text.tokenizer import Tokenizer
from core.training import distributed, loop
from core.training.log import write_samples
from core.training.trainer import Trainer
from rl.algorithms import ALGORITHMS
from rl.collect import collect
from rl.config import PolicyConfig
from rl.environments import EnvironmentPool, known_return, make_environment
from rl.episodes import TRAINING, EpisodeSeed, EpisodeSeeds
from rl.evaluation import Episodes, as_row, play_randomly
from rl.interface import TextInterface, text_spaces
from rl.networks import build_networks
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
        seeds = EpisodeSeeds(config.seed, config.batch_size)
        pieces = config.optim.accumulate * config.minibatches
        share = config.batch_size // distributed.world()
        if share < pieces:
            raise ValueError(
                f"{share} episodes a step and process are too few for {pieces} pieces (minibatches x accumulate): "
                "raise batch_size"
            )
        env = make_environment(config.env, config.env_kwargs)
        model, critic, interface = build_networks(config, env, critic=ALGORITHMS[config.algorithm](config).critic)
        return PolicyTask(model, copy.deepcopy(model), critic, interface, config, self.runtime), seeds

    @property
    def tokenizer(self) -> Tokenizer:
        """The policy's tokenizer."""
        return self.task.interface.tokenizer

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
        pool = self._pool(env, env_kwargs)
        task = self.task
        spaces = text_spaces(pool.first(1)[0])
        interface = TextInterface(self.tokenizer, *spaces, vocab_size=task.interface.vocab_size)
        policy = copy.copy(task.policy)
        policy.max_new_tokens, policy.eos_id = interface.max_action_tokens, interface.stop_id
        with loop.undisturbed(task), self.runtime.autocast():
            return collect(
                policy,
                interface,
                pool.first(episodes),
                [EpisodeSeed.derive(seed, TRAINING, number) for number in range(episodes)],
                max_turns=self.config.max_turns,
                history=self.config.context == "history",
                mask_illegal=self.config.mask_illegal,
                greedy=greedy,
            )

    def known_returns(self, env: str | None = None, env_kwargs: Mapping[str, Any] | None = None) -> dict[str, float]:
        """`optimum` and `random`, exact, as far as the environment declares them. Arguments as in `play`."""
        made = self._pool(env, env_kwargs).first(1)[0]
        values = {"optimum": known_return(made, "optimal_return"), "random": known_return(made, "random_return")}
        return {name: value for name, value in values.items() if value is not None}

    def _pool(self, env: str | None, env_kwargs: Mapping[str, Any] | None) -> EnvironmentPool:
        if env_kwargs is None:
            env_kwargs = self.config.env_kwargs if env in (None, self.config.env) else {}
        return EnvironmentPool(env or self.config.env, env_kwargs)

    def sample(self, num_samples: int) -> Sequence[dict[str, Any]]:
        """Transcripts of sampled episodes, with `transcript`, `reward` and `ok`; torch's generator gives the seed."""
        seed = int(torch.randint(2**31, ()))
        return self._described(self.play(episodes=num_samples, seed=seed))

    def write_samples(self, task: Any, folder: Path, step: int) -> None:
        """Write transcripts of the evaluation's first episodes."""
        count = min(self.config.sample_episodes, self.config.eval_episodes)
        if count:
            seeds = task.evaluation_seeds()[:count]
            write_samples(folder, step, self._described(task.play(seeds, pool=task.evaluation_pool)))

    def _described(self, rollout: Rollout) -> list[dict[str, Any]]:
        optimum = known_return(self.task.pool.first(1)[0], "optimal_return")
        rows: list[dict[str, Any]] = []
        for number, reward in enumerate(rollout.returns_E.tolist()):
            row: dict[str, Any] = {"transcript": rollout.transcript(number), "reward": round(reward, 6)}
            if optimum is not None:
                row["ok"] = reward >= optimum - 1e-6
            rows.append(row)
        return rows

    def report_sections(self) -> dict[str, Any]:
        """Scores of random play, of the policy before and after training, and the optimum, on the same episodes."""
        task = self.task
        envs = task.evaluation_pool.first(self.config.eval_episodes)
        optimum, chance = (known_return(envs[0], name) for name in ("optimal_return", "random_return"))
        with loop.undisturbed(task):
            played = {
                "before RL": task.evaluation_rollout(policy=task.reference),
                "model": task.evaluation_rollout(),
                "model, greedy": task.evaluation_rollout(greedy=True),
            }
        rows = [
            as_row(
                "random", play_randomly(envs, task.evaluation_seeds(), max_turns=self.config.max_turns).scores(optimum)
            )
        ]
        rows += [as_row(name, Episodes.of(rollout).scores(optimum)) for name, rollout in played.items()]
        notes = [
            f"{self.config.eval_episodes} episodes of {self.config.env} each, the same for every row; 95 % intervals "
            "(normal for means, Wilson for shares)."
        ]
        if optimum is not None:
            rows.append({"name": "optimum", "return": optimum, "regret": 0.0})
            notes.append(
                f"Exact expected return: optimum {optimum:.4f}" + ("." if chance is None else f", random {chance:.4f}.")
            )
        return {"rows": rows, "notes": notes}

    def export_parts(self) -> tuple[Any, Tokenizer]:
        """The policy's language model and tokenizer, for `trillium export`."""
        model = self.task.model.module
        if not isinstance(model, Transformer):
            raise RunError(f"only a Transformer can be exported; {self.config.out} is an {type(model).__name__} run")
        return model, self.tokenizer

    def save(self, folder: Path | str) -> Path:
        """Write the weights, the config and the tokenizer; see `Trainer.save`."""
        folder = super().save(folder)
        self.tokenizer.save(folder)
        return folder
