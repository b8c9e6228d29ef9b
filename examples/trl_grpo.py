"""Train a policy in a Gymnasium text environment with GRPOTrainer of TRL, and take it back.

    python examples/trl_grpo.py trillium/Copy-v0 runs/trl
    python examples/trl_grpo.py my_module:my/Environment-v0 runs/trl --init-from runs/exported

The policy starts fresh, with one token per character, or from a Hugging Face folder, a .gguf file or a run. What TRL
trained lies in `policy` afterwards, from where every recipe of ours goes on (`--init-from runs/trl/policy`).
"""

import argparse
import os
import sys
from pathlib import Path

from core.config import ModelConfig
from core.nn.transformer import Transformer
from core.pretrained.interchange import load_model
from rl.environments import make_environment
from rl.interface import build_tokenizer
from rl.trl import CPU_SETTINGS, from_trl, to_trl, trl_rollout

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched, and TRL does not report that it is used


def main() -> None:
    """Export, train, load what was trained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env", help="Gymnasium id; `module:id` imports the module first")
    parser.add_argument("out", type=Path, help="folder for the model before, TRL's checkpoints and the policy")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--episodes", type=int, default=128, help="episodes a step, eight from each start")
    parser.add_argument("--init-from", type=Path)
    options = parser.parse_args()
    sys.path.append(".")  # so that an environment's module may be a file here

    if options.init_from is None:
        tokenizer = build_tokenizer(make_environment(options.env, {}))
        sizes = ModelConfig(vocab_size=tokenizer.vocab_size, width=64, num_layers=2, num_heads=2, max_length=512)
        model = Transformer(sizes)
    else:
        model, tokenizer = load_model(options.init_from)
    start, tokens = to_trl(model, tokenizer, options.out / "start", overwrite=True)

    from trl import GRPOConfig, GRPOTrainer

    config = GRPOConfig(
        str(options.out / "checkpoints"),
        max_steps=options.steps,
        per_device_train_batch_size=options.episodes,
        num_generations=8,
        learning_rate=1e-3 if options.init_from is None else 1e-5,
        loss_type="dr_grpo",
        scale_rewards="none",
        disable_tqdm=True,
        **CPU_SETTINGS,
    )
    trainer = GRPOTrainer(start, args=config, processing_class=tokens, **trl_rollout(options.env, tokens, max_turns=20))
    trainer.train()
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    print(f"return {rewards[0]:.3f} at first, {rewards[-1]:.3f} at last")
    trainer.save_model(str(options.out / "policy"))
    policy, _ = from_trl(options.out / "policy")
    print(f"{options.out / 'policy'}: {policy.num_parameters():,} parameters")


if __name__ == "__main__":
    main()
