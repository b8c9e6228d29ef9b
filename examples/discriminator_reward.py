"""A text GAN's discriminator as the reward of another model.

    trillium train adversarial:gan
    python examples/discriminator_reward.py runs/gan runs/rewarded --steps 60

What learns is the generator as it was after maximum likelihood, by any algorithm of `rl` without a critic; it is paid
for what the discriminator takes for real, and pays for moving away from its start, without which it would soon write
what pleases the discriminator and nobody else. Prints the mean reward, the share of different sentences and, where the
run knows, the share of valid ones, before and after; saves the model as a Hugging Face folder.
"""

import argparse
import copy
from pathlib import Path

import torch

from adversarial.trainers import GANTrainer
from core.config import OptimConfig
from core.nn.transformer import Transformer
from core.policy import LanguageModelPolicy
from core.pretrained.huggingface import save_hf
from core.training.update import Updater
from rl.algorithms import build_algorithm
from rl.config import PolicyConfig
from rl.learner import Learner
from rl.rollout import Rollout


def main() -> None:
    """Load a run, learn from its discriminator, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run directory of a text GAN with a Transformer")
    parser.add_argument("out", type=Path, help="folder to save the model to")
    parser.add_argument(
        "--algorithm", default="rloo", choices=("reinforce", "rloo", "grpo", "dr_grpo", "gspo", "cispo")
    )
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=64, help="sentences a step")
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--kl-coef", type=float, default=0.02, help="price of a nat of divergence from the start")
    options = parser.parse_args()

    trainer = GANTrainer.load(options.run)
    corpus, runtime = trainer.corpus, trainer.runtime
    model = trainer.mle_start()
    if not isinstance(model, Transformer):
        parser.error(f"{options.run} has no Transformer that went into a game: train one with --network transformer")
    reward = trainer.reward(corpus.tokenizer.decode, probability=True)
    config = PolicyConfig(
        algorithm=options.algorithm, steps=options.steps, batch_size=options.batch_size, group_size=options.batch_size,
        entropy_coef=0.0, epochs=2, kl_coef=options.kl_coef, optim=OptimConfig(lr=options.lr),
    )  # fmt: skip

    def policy(network: Transformer) -> LanguageModelPolicy:
        return LanguageModelPolicy(network, max_new_tokens=corpus.max_tokens, eos_id=corpus.tokenizer.eos_id)

    updater = Updater(model.eval(), config.optim, runtime, config.steps)
    learner = Learner(
        policy(model), build_algorithm(config), config, runtime, model=updater,
        reference=policy(copy.deepcopy(model).requires_grad_(False)), longest=(corpus.max_tokens, corpus.max_tokens),
    )  # fmt: skip
    contexts = [[corpus.tokenizer.bos_id]] * options.batch_size
    _report("before", trainer, model)
    generator = torch.Generator().manual_seed(0)
    for step in range(options.steps):
        updater.follow(step, options.steps)
        samples = learner.policy.sample(contexts, generator=generator)
        rollout = Rollout.of_samples(
            contexts, samples, reward(samples), group_size=options.batch_size, number=step * options.batch_size
        )
        learned = learner.learn(rollout)
        if (step + 1) % 10 == 0:
            moved = f", divergence {learned['kl_to_start']:.2f} nats" if options.kl_coef else ""
            print(f"step {step + 1}: reward {learned['return']:.3f}{moved}")
    _report("after", trainer, model)
    save_hf(model, options.out, corpus.tokenizer)
    print(f"saved to {options.out}")


def _report(when: str, trainer: GANTrainer, model: Transformer) -> None:
    texts = trainer.evaluation.generate(model, 500)
    worth = trainer.reward(trainer.corpus.tokenizer.decode, probability=True).score(texts).mean()
    print(f"{when}: reward {worth:.3f}, {len(set(texts)) / len(texts):.1%} different", end="")
    if trainer.corpus.grammar is not None:
        print(f", {sum(map(trainer.evaluation.accepts, texts)) / len(texts):.1%} valid", end="")
    print(f"; for example: {texts[0]}")


if __name__ == "__main__":
    main()
