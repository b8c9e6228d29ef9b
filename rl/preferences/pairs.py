"""From scored completions, and from the episodes that a policy played, to preference pairs."""

import json
import math
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from core.text.atomic import replace_file
from core.text.tokenizer import Tokenizer
from core.training import loop
from rl.episodes import TRAINING, EpisodeSeed
from rl.preferences.encoding import Completion
from rl.rollout import Rollout
from rl.trainers import PolicyTrainer

AT_ONCE = 512
"""Episodes played side by side."""

Choice = Literal["best_worst", "all"]


def preferred(
    groups: Sequence[Hashable], scores: Sequence[float], *, choose: Choice = "best_worst", min_margin: float = 0.0
) -> list[tuple[int, int]]:
    """Which item is better than which: (better, worse) indices of the same group.

    Args:
        groups: what each item is to be compared within.
        scores: of each item.
        choose: the best item against the worst one, of equals the first; or every item against every lower one.
        min_margin: least difference of the scores; equal scores are never a preference.

    Raises:
        ValueError: a score or margin that is not finite, or not as many scores as items.
    """
    if len(groups) != len(scores):
        raise ValueError(f"got {len(groups)} completions and {len(scores)} scores: give one score each")
    for index, score in enumerate(scores):
        if not math.isfinite(score):
            raise ValueError(f"the score of completion {index} is {score}: a preference needs finite scores")
    if not (math.isfinite(min_margin) and min_margin >= 0):
        raise ValueError(f"min_margin must be finite and >= 0, got {min_margin}")
    if choose not in ("best_worst", "all"):
        raise ValueError(f"choose must be best_worst or all, got {choose!r}")
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    found = []
    for indices in members.values():
        if choose == "best_worst":
            candidates = [(max(indices, key=scores.__getitem__), min(indices, key=scores.__getitem__))]
        else:
            candidates = [(better, worse) for better in indices for worse in indices]
        found += [(a, b) for a, b in candidates if scores[a] > scores[b] and scores[a] - scores[b] >= min_margin]
    return found


def pairs_from_scores(
    prompts: Sequence[str],
    completions: Sequence[str],
    scores: Sequence[float],
    *,
    choose: Choice = "best_worst",
    min_margin: float = 0.0,
) -> list[dict[str, Any]]:
    """Pairs of completions of the same prompt, as lines of a file: `prompt`, `chosen`, `rejected`, `margin`.

    Args:
        prompts: of each completion; repeat a prompt for each of its completions.
        completions: as many.
        scores: of each completion, for example from a reward function.
        choose: see `preferred`.
        min_margin: least difference of the scores.

    Raises:
        ValueError: lists of different lengths, or a score that is not finite.
    """
    if len(prompts) != len(completions):
        raise ValueError(f"got {len(prompts)} prompts and {len(completions)} completions: repeat each prompt per one")
    return [
        {
            "prompt": prompts[better],
            "chosen": completions[better],
            "rejected": completions[worse],
            "margin": scores[better] - scores[worse],
        }
        for better, worse in preferred(prompts, scores, choose=choose, min_margin=min_margin)
        if completions[better] != completions[worse]
    ]


def pairs_from_rollout(
    rollout: Rollout,
    tokenizer: Tokenizer,
    *,
    by_seed: bool = False,
    choose: Choice = "best_worst",
    min_margin: float = 0.0,
) -> list[dict[str, Any]]:
    """Pairs of episodes that began with the same context, the one of higher return chosen, as lines of a file.

    A line also has the ids that were read and sampled, so that training reads the very same tokens; of episodes of
    several turns, which tokens were the policy's.

    Args:
        rollout: played episodes; those of several turns with the whole history as context.
        tokenizer: of the policy.
        by_seed: compare only episodes that had the same environment seed too.
        choose: see `preferred`.
        min_margin: least difference of the returns.

    Raises:
        ValueError: episodes of several turns of which the policy saw one observation at a time.
    """
    episodes = _as_completions(rollout)
    returns = rollout.returns_E.tolist()
    groups = [
        (tuple(episode.prompt), seed.environment if by_seed else None) for episode, seed in zip(episodes, rollout.seeds)
    ]
    rows = []
    for better, worse in preferred(groups, returns, choose=choose, min_margin=min_margin):
        row: dict[str, Any] = {"prompt": tokenizer.decode(episodes[better].prompt)}
        sides = {"chosen": episodes[better], "rejected": episodes[worse]}
        if sides["chosen"].tokens == sides["rejected"].tokens:
            continue
        row |= {name: tokenizer.decode(side.tokens) for name, side in sides.items()}
        row |= {"margin": returns[better] - returns[worse], "prompt_ids": episodes[better].prompt}
        for name, side in sides.items():
            row[f"{name}_ids"] = side.tokens
            if not all(side.mask):
                row[f"{name}_mask"] = side.mask
        rows.append({**row, "tokenizer": tokenizer.fingerprint})
    return rows


def play_starts(trainer: PolicyTrainer, starts: int, episodes: int, *, seed: int = 0) -> Iterator[Rollout]:
    """Let a policy play each of some starts of its environment several times.

    Args:
        trainer: of the policy.
        starts: how many; their seeds differ, which in some environments makes no difference.
        episodes: of each start.
        seed: of environment and sampling.

    Yields:
        All episodes of some starts.
    """
    some = max(1, AT_ONCE // episodes) * episodes
    for first in range(0, starts * episodes, some):
        numbers = range(first, min(first + some, starts * episodes))
        with loop.undisturbed(trainer.task):
            yield trainer.task.play([EpisodeSeed.derive(seed, TRAINING, number, episodes) for number in numbers])


def _as_completions(rollout: Rollout) -> list[Completion]:
    """Each episode as one completion of its first context."""
    episodes: list[Completion] = []
    episode_N = rollout.episode_N.tolist()
    for turn, (context, sampled) in enumerate(zip(rollout.contexts, rollout.samples.lists())):
        if len(episodes) == episode_N[turn]:
            episodes.append(Completion(list(context), [], []))
        episode = episodes[-1]
        read = episode.prompt + episode.tokens
        if context[: len(read)] != read:
            raise ValueError(
                "episodes of several turns become pairs only where each turn reads all of the episode so far: train "
                "the run with --context history"
            )
        said = [*context[len(read) :], *sampled]
        episode.tokens.extend(said)
        episode.mask.extend([False] * (len(said) - len(sampled)) + [True] * len(sampled))
    return episodes


def write_pairs(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write lines of a file, whole or not at all."""
    with replace_file(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
