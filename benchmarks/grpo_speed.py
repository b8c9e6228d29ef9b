"""A GRPO step of ours and of TRL's GRPOTrainer, in turns on one thread: completion tokens a second, end to end.

    python benchmarks/grpo_speed.py [--precision bf16] [--steps 6] [--rounds 3]

One model of 4.3M parameters (Llama: width 256, 4 layers, 4 heads, SwiGLU of 1,024, 259 bytes), ours as it is and
exported for TRL; 8 prompts of 16 bytes with 8 completions of exactly 32 tokens, one update a step, AdamW, no divergence
from a reference. A step is everything: sampling, decoding to text, the reward function, the update, the optimiser. TRL
runs in bf16, its default, or in fp32; its gradient checkpointing, which costs time to save memory, is off.
"""

import argparse
import random
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from timing import machine, ratio

from core.config import ModelConfig, OptimConfig
from core.nn.transformer import Transformer
from core.policy import LanguageModelPolicy
from core.text.tokenizer import ByteTokenizer
from core.training.runtime import Runtime
from core.training.update import Updater
from rl.algorithms import build_algorithm
from rl.config import PolicyConfig
from rl.learner import Learner
from rl.rollout import Rollout
from rl.trl import CPU_SETTINGS, to_trl

PROMPTS, COMPLETIONS, READ, WRITTEN = 8, 8, 16, 32
TOKENS = PROMPTS * COMPLETIONS * WRITTEN
LR = 1e-3


def share_of_a(completions: list[str], **columns: Any) -> list[float]:
    """The reward of both sides."""
    return [text.count("a") / max(1, len(text)) for text in completions]


class Ours:
    """Steps of our learner."""

    def __init__(self, model: Transformer, tokenizer: ByteTokenizer, prompts: list[str], dtype: torch.dtype) -> None:
        size = PROMPTS * COMPLETIONS
        config = PolicyConfig(
            algorithm="dapo", dynamic_sampling="off", group_size=COMPLETIONS, batch_size=size, epochs=1, target_kl=0.0,
            entropy_coef=0.0, max_noop_steps=0, optim=OptimConfig(lr=LR, schedule="constant"),
        )  # fmt: skip
        self.runtime = Runtime(torch.device("cpu"), dtype=dtype, threads=1)
        self.runtime.apply()
        policy = LanguageModelPolicy(model, max_new_tokens=WRITTEN)
        updater = Updater(model, config.optim, self.runtime, 10**6)
        self.learner = Learner(
            policy, build_algorithm(config), config, self.runtime, model=updater, longest=(WRITTEN, WRITTEN)
        )
        self.tokenizer, self.contexts, self.steps = tokenizer, [tokenizer.encode(text) for text in prompts], 0

    def step(self) -> dict[str, float]:
        """Sample, decode, judge, update."""
        first = self.steps * PROMPTS % len(self.contexts)
        self.steps += 1
        contexts = [context for context in self.contexts[first : first + PROMPTS] for _ in range(COMPLETIONS)]
        with self.runtime.autocast():
            samples = self.learner.policy.sample(contexts)
        rewards = torch.tensor(share_of_a([self.tokenizer.decode(row) for row in samples.lists()]))
        return self.learner.learn(Rollout.of_samples(contexts, samples, rewards, group_size=COMPLETIONS))


def trl_seconds(model: Any, tokenizer: Any, prompts: list[str], steps: int, precision: str) -> list[float]:
    """Seconds of each step of a new GRPOTrainer but the first, from the beginning of one step to that of the next."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    marks: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            marks.append(time.perf_counter())

        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            marks.append(time.perf_counter())

    settings = {**CPU_SETTINGS, "bf16": precision == "bf16"}
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model, reward_funcs=lambda completions, **columns: share_of_a(completions),
            args=GRPOConfig(
                folder, max_steps=steps + 1, per_device_train_batch_size=PROMPTS * COMPLETIONS,
                num_generations=COMPLETIONS, max_completion_length=WRITTEN, beta=0.0, learning_rate=LR,
                lr_scheduler_type="constant", logging_steps=1, save_strategy="no", disable_tqdm=True,
                generation_kwargs={"min_new_tokens": WRITTEN}, **settings,
            ),
            train_dataset=Dataset.from_dict({"prompt": prompts}), processing_class=tokenizer, callbacks=[Clock()],
        )  # fmt: skip
        trainer.train()
    return [after - before for before, after in pairwise(marks[1:])]


def main() -> None:
    """Measure in turns and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = ByteTokenizer()
    shape = ModelConfig(
        vocab_size=tokenizer.vocab_size, width=256, num_layers=4, num_heads=4, mlp_width=1024, qk_norm=False,
        tied=False, max_length=256,
    )  # fmt: skip
    letters = random.Random(0)
    prompts = ["".join(letters.choice("abcdefgh") for _ in range(READ)) for _ in range(256)]
    torch.manual_seed(0)
    model = Transformer(shape)
    with tempfile.TemporaryDirectory() as folder:
        theirs, their_tokenizer = to_trl(model, tokenizer, Path(folder) / "model")
        dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
        ours = Ours(model, tokenizer, prompts, dtype)
        for _ in range(2):
            ours.step()
        found: dict[str, list[float]] = {"ours": [], "TRL": []}
        for _ in range(options.rounds):
            began = time.perf_counter()
            for _ in range(options.steps):
                learned = ours.step()
            found["ours"].append((time.perf_counter() - began) / options.steps)
            found["TRL"].append(
                statistics.mean(trl_seconds(theirs, their_tokenizer, prompts, options.steps, options.precision))
            )
    print(machine())
    for name, seconds in found.items():
        middle = statistics.median(seconds)
        print(f"{name:5} {options.precision}: {middle:.3f} s a step, {TOKENS / middle:,.0f} completion tokens/s")
    print(f"ours against TRL: {ratio(found['TRL'], found['ours'])}; sampler and update differ by at most "
          f"{learned.get('sampler_gap', learned['ratio/first_error']):.1e} in log-probability")  # fmt: skip


if __name__ == "__main__":
    main()
