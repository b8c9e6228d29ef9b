"""Self-critical training: go on training a captioner with CIDEr-D as its reward.

    python examples/self_critical.py runs/twemoji runs/self_critical --steps 100

Each picture is captioned several times; a caption is made more likely when it scores better than the others of its
picture, less likely when it scores worse (REINFORCE with a leave-one-out baseline). Prints the held-out scores before
and after, and how many captions end badly, and saves the captioner.

References:
    Rennie et al. 2016, "Self-critical Sequence Training for Image Captioning", arXiv:1612.00563.
    Luo 2020, "A Better Variant of Self-Critical Sequence Training", arXiv:2003.09971: the mean of the other samples.
"""

import argparse
from pathlib import Path

import torch

from core.config import OptimConfig
from core.losses import masked_mean
from core.training.update import Updater
from multimodal.reward import CiderReward, bad_ending_rate
from multimodal.trainers import CaptioningTrainer
from rl.losses import reinforce_loss


def main() -> None:
    """Load a run, train on with the reward, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run directory of a captioner")
    parser.add_argument("out", type=Path, help="folder to save the trained captioner to")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=16, help="pictures a step")
    parser.add_argument("--num-samples", type=int, default=5, help="captions of each picture")
    parser.add_argument("--lr", type=float, default=2e-5)
    options = parser.parse_args()

    trainer = CaptioningTrainer.load(options.run)
    task, reader, store, runtime = trainer.task, trainer.reader, trainer.store, trainer.runtime
    captioner, examples = task.captioner, trainer.train_examples
    reward = CiderReward([example.targets for example in examples], reader.text, reader.eos_id)
    updater = Updater(captioner, OptimConfig(lr=options.lr, schedule="constant"), runtime, options.steps)
    prompts = [reader.prompt(example, store) for example in examples]
    _report("before", trainer)
    generator = torch.Generator().manual_seed(0)
    count = options.num_samples
    for step in range(1, options.steps + 1):
        chosen = torch.randint(len(examples), (options.batch_size,), generator=generator).tolist()
        rows = [index for index in chosen for _ in range(count)]
        contexts = reader.contexts([prompts[index] for index in rows], store).to(runtime.device)
        with runtime.autocast():
            samples = captioner.sample(contexts, generator=generator)
        rewards_GK = reward(samples, [examples[index].targets for index in rows]).view(-1, count)
        others_GK = (rewards_GK.sum(1, keepdim=True) - rewards_GK) / (count - 1)
        advantage_B1 = (rewards_GK - others_GK).flatten()[:, None]
        captioner.eval()  # dropout would score other captions than those that were drawn
        with runtime.autocast():
            logprobs_BT = captioner.logprobs(contexts, samples)
        loss = masked_mean(reinforce_loss(logprobs_BT, advantage_B1), samples.mask_BT)
        updater.step(loss)
        if step % 10 == 0:
            print(
                f"step {step}: mean reward {rewards_GK.mean():.3f}, {samples.mask_BT.sum(1).float().mean():.1f} tokens"
            )
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
