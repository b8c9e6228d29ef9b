"""A captioner's training step on cached features, against transformers' VisionEncoderDecoder given the same ones.

Both read the features of EfficientNet-Lite0 for 64 pictures and learn 64 captions: ours as a prefix of the language
model, theirs by cross-attention of a GPT-2 decoder of the same width and depth (`encoder_outputs`, so that their
encoder does not run). Ours goes through everything a training run does: collating, guard, clipping, schedule.

Usage: python benchmarks/captioner_speed.py [--rounds N] [--caption-tokens N] [--threads N]
Prints captions/s of each variant and the ratios that benchmarks/RESULTS.md records.
"""

import argparse
import random
from collections.abc import Callable

import torch
from timing import alternate, machine, ratio
from torch import Tensor, nn

from core.config import ModelConfig, OptimConfig
from core.nn.transformer import Transformer
from core.training.runtime import Runtime
from multimodal.batch import Prompt, caption_batch, media_batches
from multimodal.build import build_captioner
from multimodal.config import CaptioningConfig
from multimodal.encoders.encoder import Encoder
from multimodal.examples import Kind
from multimodal.task import CaptioningTask

WIDTH, LAYERS, HEADS, VOCAB, BATCH, POSITIONS, FEATURES = 256, 4, 4, 1800, 64, 9, 1984


class Cached(Encoder):
    """Stands for an encoder whose features are cached."""

    kind: Kind = "image"
    frozen = True
    name = "cached"
    num_features = FEATURES
    positions_per_step = POSITIONS


def ours(
    features: list[Tensor], captions: list[list[int]], precision: str, threads: int, compile: str
) -> Callable[[], object]:
    """One step of our captioner, from stored features to updated weights."""
    config = CaptioningConfig(precision=precision, compile=compile, threads=threads)  # type: ignore[arg-type]
    runtime = Runtime.from_config(config)
    runtime.apply()
    shape = ModelConfig(vocab_size=VOCAB, width=WIDTH, num_layers=LAYERS, num_heads=HEADS, max_length=64, dropout=0.1)
    captioner = build_captioner(config, {"image": Cached()}, Transformer(shape), bos_id=0, eos_id=1)
    task = CaptioningTask(captioner, OptimConfig(), runtime, 10_000)
    prompts = [Prompt([-1] * POSITIONS + [0], (("image", index),)) for index in range(BATCH)]

    def step() -> object:
        media = media_batches(prompts, {"image": features}, lambda kind, index: POSITIONS)
        return task.train_step([caption_batch([prompt.ids for prompt in prompts], captions, media)])

    return step


def peer(features: list[Tensor], captions: list[list[int]], precision: str, compiled: bool) -> Callable[[], object]:
    """One step of transformers' model in the plain loop that its users write."""
    from transformers import GPT2Config, GPT2LMHeadModel, VisionEncoderDecoderModel, ViTConfig, ViTModel
    from transformers.modeling_outputs import BaseModelOutput

    decoder = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCAB, n_positions=64, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, add_cross_attention=True,
            is_decoder=True, bos_token_id=0, eos_token_id=1,
        )
    )  # fmt: skip
    unused = ViTModel(
        ViTConfig(hidden_size=FEATURES, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=32)
    )
    model = VisionEncoderDecoderModel(encoder=unused, decoder=decoder)
    model.config.decoder_start_token_id, model.config.pad_token_id = 0, 1
    trained: list[nn.Parameter] = [*model.decoder.parameters(), *model.enc_to_dec_proj.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, fused=True)
    longest = max(map(len, captions))
    model.train()
    if compiled:
        model.compile()

    def step() -> None:
        labels = torch.full((BATCH, longest), -100)
        for row, caption in zip(labels, captions):
            row[: len(caption)] = torch.tensor(caption)
        stored = torch.stack(features).float()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(encoder_outputs=BaseModelOutput(last_hidden_state=stored), labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def main() -> None:
    """Time both in alternating rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--caption-tokens", type=int, default=9, help="longest caption, end-of-sequence counted")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    draw = random.Random(0)
    features = [torch.randn(POSITIONS, FEATURES).half() for _ in range(BATCH)]
    captions = [
        [draw.randrange(2, VOCAB) for _ in range(draw.randint(3, options.caption_tokens - 1))] + [1]
        for _ in range(BATCH)
    ]
    captions[0] = [2] * (options.caption_tokens - 1) + [1]
    print(machine())
    variants: dict[str, Callable[[], object]] = {}
    for precision in ("bf16", "fp32"):
        for how, compiled in (("eager", False), ("compiled", True)):
            own = "on" if compiled else "off"
            variants[f"ours {precision} {how}"] = ours(features, captions, precision, options.threads, own)
            variants[f"transformers {precision} {how}"] = peer(features, captions, precision, compiled)
    variants["ours bf16 whole"] = ours(features, captions, "bf16", options.threads, "whole")
    seconds = alternate(variants, rounds=options.rounds)
    for name, times in seconds.items():
        median = sorted(times)[len(times) // 2]
        print(f"{name:28} {1000 * median:6.0f} ms {BATCH / median:8,.0f} captions/s")
    pairs = [(name, name) for name in ("bf16 eager", "fp32 eager", "fp32 compiled")]
    peers = ("fp32 eager", "bf16 eager", "bf16 compiled")
    for own, theirs in [*((own, theirs) for own in ("bf16 whole", "bf16 compiled") for theirs in peers), *pairs]:
        found = ratio(seconds[f"transformers {theirs}"], seconds[f"ours {own}"])
        print(f"ours {own} against transformers {theirs}: {found}")


if __name__ == "__main__":
    main()
