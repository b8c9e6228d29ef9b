"""What RLHF made of SmolLM2: sentiment and divergence of its sentences about held-out topics, and some of them.

    trillium train rl:rlhf --out runs/rlhf
    python benchmarks/smollm2_rlhf.py runs/rlhf [MORE RUNS]

The topics that no training step saw are answered in sampled play, by the run's start and by its policy. Printed are the
mean of the sentiment that `rl.envs.lexicon` gives and its standard deviation over sentences, whatever reward the run
had; how many standard deviations of the start the mean has risen by; KL(policy || start) in nats a sentence, by the
policy's own sentences; and the share of sentences that come to an end.
"""

import argparse
from pathlib import Path

import torch

from core.training.trainer import Trainer
from rl.envs.lexicon import sentence_sentiment
from rl.rollout import Rollout
from rl.trainers import PolicyTrainer

SHOWN = 6


def scores(rollout: Rollout) -> torch.Tensor:
    """Sentiment of each sentence."""
    return torch.tensor(sentence_sentiment([], [turn.action for turn in rollout.turns]))


def main() -> None:
    """Load, play, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run directory of a policy with prompts")
    for folder in parser.parse_args().runs:
        trainer = Trainer.load(folder)
        assert isinstance(trainer, PolicyTrainer)
        task = trainer.task
        before, after = task.evaluation_rollout(policy=task.reference), task.evaluation_rollout()
        with torch.no_grad():
            own, start = (
                policy.logprobs(after.contexts, after.samples).sum(1) for policy in (task.policy, task.reference)
            )
        kl = own - start
        first, last = scores(before), scores(after)
        rise = (last.mean() - first.mean()) / first.std()
        error = (first.var() / len(first) + last.var() / len(last)).sqrt() / first.std()
        finished = [rollout.samples.finished_B.float().mean().item() for rollout in (before, after)]
        print(
            f"{folder}: {len(last)} sentences; sentiment {first.mean():.4f} (sd {first.std():.4f}) -> "
            f"{last.mean():.4f} (sd {last.std():.4f}), up by {rise:.2f} sd of the start [{rise - 1.96 * error:.2f}, "
            f"{rise + 1.96 * error:.2f}]; KL {kl.mean():.2f} nats a sentence (sd {kl.std():.2f}); finished "
            f"{finished[0]:.2f} -> {finished[1]:.2f}"
        )
        for old, new, old_score, new_score in list(zip(before.turns, after.turns, first, last))[:SHOWN]:
            print(f"  {old.observation}\n    {old_score:+.3f} {old.action!r}\n    {new_score:+.3f} {new.action!r}")


if __name__ == "__main__":
    main()
