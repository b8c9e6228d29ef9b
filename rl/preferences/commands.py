"""`trillium pairs` and `trillium reward`."""

import json
from pathlib import Path
from typing import Any

from core.commands.options import Parser, positive
from core.errors import RunError


def pairs(arguments: list[str]) -> int:
    """Let a run's policy play each start several times, and write which episodes were better."""
    parser = Parser("pairs", "Let a run's policy play each start several times; write preference pairs by the returns.")
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory of a policy")
    parser.add_argument("out", type=Path, metavar="OUT.jsonl", help="file to write")
    parser.add_argument("--starts", type=positive, default=64, help="starts of the environment (default 64)")
    parser.add_argument("-n", "--episodes", type=positive, default=8, help="episodes of each start (default 8)")
    parser.add_argument("--choose", choices=("best_worst", "all"), default="best_worst", help="which pairs of a start")
    parser.add_argument("--min-margin", type=float, default=0.0, help="least difference of the returns")
    parser.add_argument("--seed", type=int, default=0, help="seed of environment and sampling (default 0)")
    parser.add_argument("--device", default="auto", help="`auto` or a torch device such as cpu or cuda:1")
    options = parser.parse_args(arguments)
    if options.episodes < 2:
        parser.error("argument --episodes: a pair needs at least 2 episodes of a start")
    if options.seed < 0:
        parser.error(f"argument --seed: must be >= 0, got {options.seed}")
    from core.commands.training import load_run
    from rl.preferences.pairs import pairs_from_rollout, play_starts, write_pairs
    from rl.trainers import PolicyTrainer

    trainer = load_run(options.run, options.device)
    if not isinstance(trainer, PolicyTrainer):
        raise RunError(f"{options.run} holds no policy: it was trained by {type(trainer).__name__}")
    rows: list[dict[str, Any]] = []
    for rollout in play_starts(trainer, options.starts, options.episodes, seed=options.seed):
        rows += pairs_from_rollout(
            rollout, trainer.tokenizer, by_seed=True, choose=options.choose, min_margin=options.min_margin
        )
    if not rows:
        raise RunError("no start had episodes of different returns: play more episodes, or lower --min-margin")
    write_pairs(options.out, rows)
    print(f"{len(rows)} pairs from {options.starts} starts of {options.episodes} episodes: {options.out}")
    return 0


def reward(arguments: list[str]) -> int:
    """Score texts with a reward model, or export it."""
    parser = Parser(
        "reward",
        "Score the lines of a file (`prompt`, and `completion` or `chosen` and `rejected`) with a reward model, or "
        "write the model as a Hugging Face folder.",
    )
    parser.add_argument("model", type=Path, metavar="RUN", help="run directory, or folder of a sequence classifier")
    parser.add_argument("file", type=Path, nargs="?", metavar="FILE.jsonl", help="lines to score")
    parser.add_argument("--export", type=Path, metavar="DIR", help="write a Hugging Face sequence classifier")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing folder")
    parser.add_argument("--device", default="cpu", help="a torch device such as cpu or cuda:1")
    options = parser.parse_args(arguments)
    if (options.file is None) == (options.export is None):
        parser.error("give either a FILE.jsonl to score or --export DIR")
    from rl.preferences.classifier import save_classifier
    from rl.preferences.examples import completions_of, read_examples
    from rl.preferences.reward_model import RewardModel

    reward_model = RewardModel.load(options.model, device=options.device)
    if options.export is not None:
        difference = save_classifier(reward_model, options.export, overwrite=options.overwrite)
        print(f"{options.export} (a sequence classifier; rewards equal to {difference:.1g})")
        return 0
    for record in read_examples(options.file):
        prompt, texts = completions_of(record)
        scores = reward_model.score([prompt] * len(texts), list(texts.values()))
        print(json.dumps({**record.fields, **{f"{name}_reward": s for name, s in zip(texts, scores)}}))
    return 0
