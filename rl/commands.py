"""`trillium play`."""

import json
from collections.abc import Callable
from pathlib import Path

from core.commands.options import Parser, positive
from core.errors import RunError


def play(arguments: list[str]) -> int:
    """Let a run's policy play episodes of an environment."""
    parser = Parser("play", "Let the policy in a run's newest checkpoint play, and show what was said and the returns.")
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("env", nargs="?", metavar="ENV_ID", help="Gymnasium id; by default the one it was trained on")
    parser.add_argument("--env-kwargs", type=_json_object, metavar="JSON", help="for example '{\"horizon\": 20}'")
    parser.add_argument("-n", "--episodes", type=positive, default=4, help="how many (default 4)")
    parser.add_argument("--seed", type=int, default=0, help="seed of environment and sampling (default 0)")
    parser.add_argument("--greedy", action="store_true", help="take the most likely token instead of drawing")
    parser.add_argument("--device", default="auto", help="`auto` or a torch device such as cpu or cuda:1")
    parser.add_argument("--json", action="store_true", help="print one JSON object per episode")
    options = parser.parse_args(arguments)
    if options.seed < 0:
        parser.error(f"argument --seed: must be >= 0, got {options.seed}")
    from core.commands.training import load_run
    from rl.trainers import PolicyTrainer

    trainer = load_run(options.run, options.device)
    if not isinstance(trainer, PolicyTrainer):
        raise RunError(f"{options.run} holds no policy: it was trained by {type(trainer).__name__}")
    played = trainer.play(
        options.env, options.env_kwargs, episodes=options.episodes, seed=options.seed, greedy=options.greedy
    )
    for number, reward in enumerate(played.returns_E.tolist()):
        transcript = played.transcript(number)
        if options.json:
            print(json.dumps({"transcript": transcript, "reward": reward}, ensure_ascii=False))
            continue
        print(f"episode {number + 1}: return {reward:g}")
        for line in transcript:
            print(f"  {line['role']:<11}  {line['text']}")
    if not options.json:
        mean = float(played.returns_E.mean())
        known = trainer.known_returns(options.env, options.env_kwargs)
        against = "".join(f", {name} {value:.4g}" for name, value in known.items())
        print(f"mean return {mean:.4g} over {options.episodes} episodes{against}")
    return 0


def _json_object(text: str) -> dict[str, object]:
    """A JSON object, as an argument type."""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"{text!r} is not a JSON object")
    return value


COMMANDS: dict[str, Callable[[list[str]], int]] = {"play": play}
