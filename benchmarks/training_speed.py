"""Training speed against transformers: like with like, alternating, two threads.

Usage: python benchmarks/training_speed.py [small|large] [llama|qwen3] [--rounds N]
Prints tokens/s of each variant and the ratios that benchmarks/RESULTS.md records.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from timing import alternate, machine, ratio

from core.config import ModelConfig, OptimConfig, RunConfig
from core.language.task import NextTokenLoss
from core.nn.transformer import Transformer
from core.training.runtime import Runtime
from core.training.update import Updater

SHAPES = {
    "small": {"layers": 4, "heads": 4, "width": 128, "length": 64, "batch": 12, "mlp": 384},
    "large": {"layers": 6, "heads": 6, "width": 384, "length": 256, "batch": 12, "mlp": 1024},
}
VOCAB = 65


def ours(shape: dict[str, int], qk_norm: bool, compile: bool) -> Callable[[], object]:
    """One step of our model through the updater of the training loop: guard, clipping, schedule and all."""
    model = Transformer(
        ModelConfig(
            vocab_size=VOCAB, width=shape["width"], num_layers=shape["layers"], num_heads=shape["heads"],
            mlp_width=shape["mlp"], max_length=shape["length"], qk_norm=qk_norm,
        )
    )  # fmt: skip
    runtime = Runtime.from_config(RunConfig(precision="bf16", compile="on" if compile else "off", threads=2))
    runtime.apply()
    updater = Updater(NextTokenLoss(model), OptimConfig(), runtime, 10_000)
    updater.module.train()
    runtime.maybe_compile(updater.module)
    x = torch.randint(0, VOCAB, (shape["batch"], shape["length"] + 1))

    def loss(batch: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        with runtime.autocast():
            return updater(*batch)

    return lambda: updater.step_micro([(x[:, :-1].contiguous(), x[:, 1:].contiguous())], loss)


def peer(shape: dict[str, int], qk_norm: bool, dtype: str, compile: bool) -> Callable[[], object]:
    """One step of transformers' model: fused AdamW and clipping, in the plain loop its users write."""
    import transformers

    name = "Qwen3" if qk_norm else "Llama"
    config = getattr(transformers, f"{name}Config")(
        vocab_size=VOCAB, hidden_size=shape["width"], num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"], num_key_value_heads=shape["heads"],
        head_dim=shape["width"] // shape["heads"], intermediate_size=shape["mlp"],
        max_position_embeddings=shape["length"], tie_word_embeddings=True, use_cache=False,
    )  # fmt: skip
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    x = torch.randint(0, VOCAB, (shape["batch"], shape["length"] + 1))

    def loss_fn(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(input_ids=inputs).logits.flatten(0, 1).float(), targets.flatten())

    forward = torch.compile(loss_fn) if compile else loss_fn

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
            loss = forward(x[:, :-1].contiguous(), x[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES, nargs="?", default="small")
    parser.add_argument("model", choices=("llama", "qwen3"), nargs="?", default="llama")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--only", nargs="+", help="names of the variants to run (default: all)")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(2)
    shape, qk_norm = SHAPES[options.shape], options.model == "qwen3"
    variants: dict[str, Callable[[], object]] = {}
    makers: dict[str, Callable[[], Callable[[], object]]] = {
        "ours bf16 compiled": lambda: ours(shape, qk_norm, True),
        "ours bf16 eager": lambda: ours(shape, qk_norm, False),
        "transformers bf16 compiled": lambda: peer(shape, qk_norm, "bf16", True),
        "transformers bf16 eager": lambda: peer(shape, qk_norm, "bf16", False),
        "transformers fp32 eager": lambda: peer(shape, qk_norm, "fp32", False),
    }
    for name, make in makers.items():
        if options.only and name not in options.only:
            continue
        start = time.perf_counter()
        variants[name] = make()
        variants[name]()
        print(f"{name}: first step after {time.perf_counter() - start:.1f} s", flush=True)
    seconds = alternate(variants, rounds=options.rounds, calls=40 if options.shape == "small" else 5)
    tokens = shape["batch"] * shape["length"]
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"{name:28s} {median * 1e3:8.1f} ms/step  {tokens / median:9.0f} tokens/s")
    mine = seconds["ours bf16 compiled"]
    for name in [name for name in seconds if name.startswith("transformers")]:
        print(f"ours against {name}: {ratio(seconds[name], mine)}")
    print(machine())


if __name__ == "__main__":
    main()
