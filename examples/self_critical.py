"""Self-critical training: go on training a captioner with CIDEr-D as its reward.

    python examples/self_critical.py runs/twemoji runs/self_critical --steps 100
    python examples/self_critical.py runs/twemoji runs/grpo --algorithm grpo

Each picture is captioned several times; a caption is made more likely when it scores better than the others of its
picture, less likely when it scores worse. Algorithms of `rl` without a critic do it: rloo, grpo, dr_grpo, gspo, cispo,
and with greedy captions as baseline remax. Prints the held-out scores before and after, and how many
captions end badly, and saves the captioner.

References:
    Rennie et al. 2016, "Self-critical Sequence Training for Image Captioning", arXiv:1612.00563.
    Luo 2020, "A Better Variant of Self-Critical Sequence Training", arXiv:2003.09971: the mean of the other samples.
"""

import argparse
from pathlib import Path

import torch

from core.config import OptimConfig
from core.training.update import Updater
from multimodal.reward import CiderReward, bad_ending_rate
from multimodal.trainers import CaptioningTrainer
from rl.algorithms import build_algorithm
from rl.config import PolicyConfig
from rl.learner import Learner
from rl.rollout import Rollout

ALGORITHMS = ("rloo", "grpo", "dr_grpo", "gspo", "cispo", "remax")


class Pictures:
    """The prompts of some pictures, of which a learner takes as many as it can read at once."""

    def __init__(self, trainer: CaptioningTrainer, prompts: list) -> None:
        self.trainer, self.prompts = trainer, prompts

    def select(self, rows: list[int]):
        """What the captioner reads of some of them."""
        chosen = [self.prompts[row] for row in rows]
        return self.trainer.reader.contexts(chosen, self.trainer.store).to(self.trainer.task.runtime.device)


def main() -> None:
    """Load a run, train on with the reward, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run directory of a captioner")
    parser.add_argument("out", type=Path, help="folder to save the trained captioner to")
    parser.add_argument("--algorithm", default="rloo", choices=ALGORITHMS)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=16, help="pictures a step")
    parser.add_argument("--num-samples", type=int, default=5, help="captions of each picture")
    parser.add_argument("--lr", type=float, default=2e-5)
    options = parser.parse_args()

    trainer = CaptioningTrainer.load(options.run)
    task, reader, store, runtime = trainer.task, trainer.reader, trainer.store, trainer.runtime
    captioner, examples = task.captioner, trainer.train_examples
    reward = CiderReward([example.targets for example in examples], reader.text, reader.eos_id)
    count = options.num_samples
    config = PolicyConfig(
        algorithm=options.algorithm, batch_size=options.batch_size * count, group_size=count, entropy_coef=0.0,
        steps=options.steps, epochs=1, optim=OptimConfig(lr=options.lr, schedule="constant"),
    )  # fmt: skip
    algorithm = build_algorithm(config)
    updater = Updater(captioner, config.optim, runtime, options.steps)
    longest = (captioner.max_new_tokens, captioner.max_new_tokens)
    learner = Learner(captioner, algorithm, config, runtime, model=updater, longest=longest)
    prompts = [reader.prompt(example, store) for example in examples]
    _report("before", trainer)
    generator = torch.Generator().manual_seed(0)
    for step in range(1, options.steps + 1):
        chosen = torch.randint(len(examples), (options.batch_size,), generator=generator).tolist()
        rows = [index for index in chosen for _ in range(count)]
        pictures = Pictures(trainer, [prompts[index] for index in rows])
        everything, references = list(range(len(rows))), [examples[index].targets for index in rows]
        with runtime.autocast():
            samples = captioner.sample(pictures.select(everything), generator=generator)
            greedy = captioner.sample(pictures.select(everything), greedy=True) if algorithm.greedy else None
        captioner.eval()  # dropout would score other captions than those that were drawn
        learned = learner.learn(
            Rollout.of_samples(
                pictures, samples, reward(samples, references), group_size=count, number=step * len(rows)
            ),
            greedy_E=None if greedy is None else reward(greedy, references),
        )
        if step % 10 == 0:
            print(f"step {step}: mean reward {learned['return']:.3f}, entropy {learned['entropy']:.3f} nats a token")
    _report("after", trainer)
    print(f"saved to {trainer.save(options.out)}")


def _report(when: str, trainer: CaptioningTrainer) -> None:
    scores = trainer.evaluate()
    endings = bad_ending_rate(trainer.evaluation.texts)
    print(
        f"{when}: CIDEr-D {scores['cider_d']:.3f}, exact match {scores['exact_match']:.3f}, bad endings {endings:.3f}"
    )


if __name__ == "__main__":
    main()
