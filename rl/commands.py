"""`trillium play` and `trillium exact`."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.commands.options import Parser, positive
from core.errors import RunError
from rl.preferences.commands import pairs, reward


def play(arguments: list[str]) -> int:
    """Let a run's policy, or a person, play episodes of an environment."""
    parser = Parser(
        "play",
        "Let the policy in a run's newest checkpoint play, and show what was said and the returns; or play yourself: "
        "`trillium play you ENV_ID`.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory, or the word `you`")
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
    if str(options.run) == "you":
        if options.greedy or options.json:
            parser.error("--greedy and --json are for a run's policy, not for you")
        if options.env is None:
            parser.error("say what to play: trillium play you ENV_ID")
        return _play_yourself(options.env, options.env_kwargs or {}, options.episodes, options.seed)
    from core.commands.training import load_run
    from rl.trainers import PolicyTrainer

    trainer = load_run(options.run, options.device)
    if not isinstance(trainer, PolicyTrainer):
        raise RunError(f"{options.run} holds no policy: it was trained by {type(trainer).__name__}")
    played = trainer.play(
        options.env, options.env_kwargs, episodes=options.episodes, seed=options.seed, greedy=options.greedy
    )
    for number, gained in enumerate(played.returns_E.tolist()):
        transcript = played.transcript(number)
        if options.json:
            print(json.dumps({"transcript": transcript, "reward": gained}, ensure_ascii=False))
            continue
        print(f"episode {number + 1}: return {gained:g}")
        for line in transcript:
            print(f"  {line['role']:<11}  {line['text']}")
    if not options.json:
        mean = float(played.returns_E.mean())
        known = trainer.known_returns(options.env, options.env_kwargs)
        against = "".join(f", {name} {value:.4g}" for name, value in known.items())
        print(f"mean return {mean:.4g} over {options.episodes} episodes{against}")
    return 0


def _play_yourself(env: str, env_kwargs: dict[str, Any], episodes: int, seed: int) -> int:
    """A person in the policy's place, in the same episodes; an empty line or the end of input stops."""
    from rl.environments import EnvironmentPool, known_return
    from rl.episodes import TRAINING, EpisodeSeed

    (game,) = EnvironmentPool(env, env_kwargs).first(1)
    returns = []
    for number in range(episodes):
        observation, info = game.reset(seed=EpisodeSeed.derive(seed, TRAINING, number).environment)
        total, over = 0.0, False
        print(f"episode {number + 1}")
        while not over:
            legal = info.get("legal_actions")
            among = "" if legal is None else f" ({', '.join(legal[:_SHOWN])}{', …' if len(legal) > _SHOWN else ''})"
            print(_picture(game, observation))
            try:
                action = input(f"your action{among}: ").strip()
            except EOFError:
                action = ""
            if not action:
                print("stopped")
                return 0
            observation, reward_, terminated, truncated, info = game.step(action)
            total, over = total + reward_, terminated or truncated
            print(f"  reward {reward_:g}{'' if info.get('valid', True) else ' (invalid: nothing changed)'}")
        print(f"{_picture(game, observation)}\n  return {total:g}")
        returns.append(total)
    known = {"optimum": known_return(game, "optimal_return"), "random": known_return(game, "random_return")}
    against = "".join(f", {name} {value:.4g}" for name, value in known.items() if value is not None)
    print(f"mean return {sum(returns) / len(returns):.4g} over {episodes} episodes{against}")
    return 0


_SHOWN = 12
"""Legal actions that are listed before a person's turn."""


def _picture(game: Any, observation: str) -> str:
    """The environment's drawing where it has one, and what a policy would read."""
    from rl.envs.text import TextEnv

    drawn = game.unwrapped.render() if isinstance(game.unwrapped, TextEnv) else None
    return f"  {observation}" if drawn in (None, observation) else f"{drawn}\n  {observation}"


def exact(arguments: list[str]) -> int:
    """Compare each algorithm's expected first update with the exact gradient of the expected return."""
    from rl.config import ALGORITHM_NAMES

    names = [name for name in ALGORITHM_NAMES if name != "remax"]
    parser = Parser(
        "exact",
        "Compare the expected first update of each algorithm, over all episodes that can happen, with the exact "
        "gradient of the expected return. The policy is small, fresh and random.",
    )
    parser.add_argument("env", metavar="ENV_ID", help="Gymnasium id of an environment that can be enumerated")
    parser.add_argument("--env-kwargs", type=_json_object, default={}, metavar="JSON", help="its arguments")
    parser.add_argument(
        "--algorithms", nargs="+", choices=names, default=names, metavar="NAME",
        help="all by default; there is no remax, since greedy play of a random policy says nothing",
    )  # fmt: skip
    parser.add_argument("-g", "--group-size", type=positive, default=2, help="episodes that are compared (default 2)")
    parser.add_argument(
        "--aggregate", choices=("auto", "token", "sequence", "episode", "constant"), default="constant",
        help="how token losses are averaged; `auto` is each algorithm's own (default constant)",
    )  # fmt: skip
    parser.add_argument("--credit", choices=("turn", "episode"), default="turn", help="see PolicyConfig (default turn)")
    parser.add_argument("--seed", type=int, default=0, help="of the policy's weights (default 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object per algorithm")
    options = parser.parse_args(arguments)
    if options.group_size < 2:
        parser.error("argument --group-size: must be at least 2, for episodes are compared")
    from rl.exact import agreements

    found = agreements(
        options.env, options.env_kwargs, options.algorithms, group_size=options.group_size,
        aggregate=options.aggregate, credit=options.credit, seed=options.seed,
    )  # fmt: skip
    if not options.json:
        print(f"{'algorithm':<10}  {'cosine':>8}  {'ratio':>8}  {'of coordinates':>20}")
    for name, agreement in found.items():
        if options.json:
            print(json.dumps({"algorithm": name, **agreement._asdict()}))
        else:
            between = f"{agreement.least:.4f} to {agreement.most:.4f}"
            print(f"{name:<10}  {agreement.cosine:>8.5f}  {agreement.ratio:>8.4f}  {between:>20}")
    return 0


def _json_object(text: str) -> dict[str, object]:
    """A JSON object, as an argument type."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object")
    return value


COMMANDS: dict[str, Callable[[list[str]], int]] = {"play": play, "exact": exact, "pairs": pairs, "reward": reward}
