"""What a step of an environment costs outside the model: environment, text, token ids, masks and recording.

    python benchmarks/environment_speed.py [--env trillium/FrozenLake-v0] [--copies 64] [--rounds 5]

Episodes are played by a fresh policy; the time within its forward passes and its drawing of tokens is taken off, what
it is asked for (the mask of legal tokens) is not.
"""

import argparse
import time
from typing import Any

import torch

from core.policy import LanguageModelPolicy
from rl.config import PolicyConfig
from rl.episodes import TRAINING, EpisodeSeed
from rl.networks import build_policy


class TimedPolicy(LanguageModelPolicy):
    """Counts the seconds spent in decoding, without those spent in making masks."""

    seconds = 0.0

    def sample(self, contexts: Any, *, token_mask: Any = None, **options: Any) -> Any:
        """As the policy's own."""
        asked = 0.0

        def timed_mask(rows: list[int], generated: list[list[int]]) -> torch.Tensor:
            nonlocal asked
            began = time.perf_counter()
            mask = token_mask(rows, generated)
            asked += time.perf_counter() - began
            return mask

        began = time.perf_counter()
        samples = super().sample(contexts, token_mask=None if token_mask is None else timed_mask, **options)
        self.seconds += time.perf_counter() - began - asked
        return samples


def main() -> None:
    """Play, take off, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="trillium/FrozenLake-v0")
    parser.add_argument("--copies", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = PolicyConfig(env=options.env)
    model, _, player = build_policy(config, critic=False)
    policy = TimedPolicy(model, max_new_tokens=player.max_new_tokens, eos_id=player.stop_id)
    found = []
    for number in range(options.rounds + 1):
        seeds = [EpisodeSeed.derive(0, TRAINING, number * options.copies + row) for row in range(options.copies)]
        policy.seconds = 0.0
        began = time.perf_counter()
        rollout = player.play(policy, seeds)
        whole, steps = time.perf_counter() - began, len(rollout.turns)
        if number:  # the first round makes environments and fills the tokenizer's memory
            found.append(((whole - policy.seconds) / steps * 1e6, whole / steps * 1e6, steps))
    outside, everything = (sorted(row[column] for row in found) for column in (0, 1))
    middle = len(found) // 2
    print(
        f"{options.env}, {options.copies} copies, {found[-1][2]} steps a round: {outside[middle]:.1f} us a step "
        f"outside the model [{outside[0]:.1f}, {outside[-1]:.1f}], {everything[middle]:.1f} with it"
    )


if __name__ == "__main__":
    main()
