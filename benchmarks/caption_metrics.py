"""Speed of the caption scores on made-up captions, beside pycocoevalcap's CIDEr where that is installed.

Usage: python benchmarks/caption_metrics.py [--pictures 5000] [--references 5] [--rounds 3] [--seed 0]

One core; document frequencies are counted. The words of a caption follow Zipf's law over 8,000 words, as in speech.
"""

import argparse
import random
import statistics
from collections.abc import Callable

import torch
from timing import alternate, machine, ratio

from multimodal.metrics.captions import CiderD, caption_scores
from multimodal.metrics.meteor import meteor_exact_stem


def captions(number: int, chance: random.Random) -> list[str]:
    """Captions of 7 to 15 words."""
    words = [f"word{rank}" for rank in range(8000)]
    weights = [1 / (rank + 1) for rank in range(8000)]
    return [" ".join(chance.choices(words, weights, k=chance.randint(7, 15))) for _ in range(number)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--references", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    chance = random.Random(options.seed)
    said = captions(options.pictures, chance)
    references = [captions(options.references, chance) for _ in said]
    tokens = [text.split() for text in said]
    tokens_of_references = [[text.split() for text in own] for own in references]
    means: dict[str, float] = {}

    def cider() -> None:
        means["cider"] = CiderD(tokens_of_references).scores(tokens, tokens_of_references).mean().item()

    def meteor() -> None:
        means["meteor"] = meteor_exact_stem(tokens, tokens_of_references).value

    def every_score() -> None:
        means["every score"] = caption_scores(said, references)["cider_d"]

    variants: dict[str, Callable[[], None]] = {"cider": cider, "meteor": meteor, "every score": every_score}
    try:
        from pycocoevalcap.cider.cider import Cider
    except ImportError:
        print("pycocoevalcap is not installed: its CIDEr is left out")
    else:

        def pycocoevalcap() -> None:
            given, asked = dict(enumerate(references)), {n: [text] for n, text in enumerate(said)}
            means["pycocoevalcap cider"] = float(Cider().compute_score(given, asked)[0])

        variants["pycocoevalcap cider"] = pycocoevalcap
    print(machine())
    print(f"{options.pictures} captions, {options.references} references each, seed {options.seed}")
    seconds = alternate(variants, rounds=options.rounds)
    for name, values in seconds.items():
        print(f"{name:20s} {statistics.median(values):6.2f} s   score {means[name]:.6f}")
    if "pycocoevalcap cider" in seconds:
        print(f"cider is faster by {ratio(seconds['pycocoevalcap cider'], seconds['cider'])}")


if __name__ == "__main__":
    main()
