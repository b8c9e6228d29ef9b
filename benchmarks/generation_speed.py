"""Generation speed against transformers.generate: same architecture, same weights, same precision, alternating.

Usage: python benchmarks/generation_speed.py [--batch 64] [--rounds N]
"""

import argparse
import statistics

import torch
from timing import alternate, machine, ratio

from core.config import ModelConfig
from core.generate import generate
from core.nn.transformer import Transformer
from core.pretrained.huggingface import to_hf

PROMPT, NEW = 8, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(2)
    model = Transformer(
        ModelConfig(vocab_size=65, width=384, num_layers=6, num_heads=6, mlp_width=1024, max_length=256, qk_norm=False)
    ).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.05)
    peer = to_hf(model).eval()
    peer.generation_config.pad_token_id = 0
    peer.generation_config.eos_token_id = None
    prompts = torch.randint(0, 65, (options.batch, PROMPT))
    rows = prompts.tolist()
    print(machine())
    for dtype in (torch.float32, torch.bfloat16):
        mine, theirs = model.to(dtype), peer.to(dtype)

        def ours(mine: Transformer = mine) -> None:
            assert generate(mine, rows, max_new_tokens=NEW).tokens_BT.shape == (options.batch, NEW)

        @torch.no_grad()
        def transformers(theirs: torch.nn.Module = theirs) -> None:
            out = theirs.generate(prompts, max_new_tokens=NEW, do_sample=True, top_k=0, min_new_tokens=NEW)
            assert out.shape == (options.batch, PROMPT + NEW)

        seconds = alternate({"ours": ours, "transformers": transformers}, rounds=options.rounds)
        for name, values in seconds.items():
            speed = options.batch * NEW / statistics.median(values)
            print(f"{dtype} batch {options.batch} {name:13s} {speed:8.0f} tokens/s")
        print(f"{dtype} batch {options.batch}: ours is {ratio(seconds['transformers'], seconds['ours'])} as fast")


if __name__ == "__main__":
    main()
