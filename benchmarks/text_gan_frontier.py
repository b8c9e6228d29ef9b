"""An adversarial generator against its own MLE start, at equal NLL_oracle, over seeds.

    trillium frontier runs/coop-0 runs/coop-1 …
    python benchmarks/text_gan_frontier.py runs/coop-0 runs/coop-1 …

Each run has been through `trillium frontier`. The MLE's curve is the better of temperature and rejection at every
point, the generator's its temperature alone. Printed are the means over the runs, their paired difference (below 0 the
adversarial one is better) with its 95 % interval by Student's t, and beside them the best published NLL_test of any
method and of an MLE (Caccia et al. 2020, the transposed classic oracle).

Runs on BabyAI's missions are compared by coverage instead, at temperatures where equally many sentences are valid.
"""

import argparse
import itertools
import json
from pathlib import Path

import numpy as np
from student import interval

from adversarial.frontier import Point, interpolate, lowest

AT = (5.75, 6.0, 6.321, 6.5, 6.68, 7.038, 7.69, 8.0, 8.247, 8.736, 9.038)
PUBLISHED_MLE = (9.587, 9.263, 8.986, 8.860, 8.734, 8.513, 8.201, 8.064, 7.964, 7.777, 7.690)
PUBLISHED_BEST = (9.587, 9.263, 8.986, 8.860, 8.725, 8.431, 8.057, 7.920, 7.828, 7.687, 7.622)


def curves(run: Path) -> dict[str, list[Point]]:
    """The curves of a run's frontier.json, by name."""
    stored = json.loads((run / "frontier.json").read_text())
    return {name: [Point(**point) for point in points] for name, points in stored["curves"].items()}


VALID = (0.99, 0.995, 0.998, 0.999, 0.9995)


def coverage_at(points: list[Point], level: float) -> float:
    """The largest coverage at which so many sentences are valid, linear between temperatures."""
    order = sorted(points, key=lambda point: -point.x)
    for wider, narrower in itertools.pairwise(order):
        if wider.y >= level:
            return wider.x
        if narrower.y >= level:
            return wider.x + (narrower.x - wider.x) * (level - wider.y) / (narrower.y - wider.y)
    return float("nan")


def compare_coverage(found: list[dict[str, list[Point]]]) -> None:
    """Coverage at equal validity: x is coverage, y the share of valid sentences."""
    print("valid at least   MLE      model    difference [95 %]")
    for level in VALID:
        mle, ours = (np.array([coverage_at(run[name], level) for run in found]) for name in ("MLE start", "model"))
        print(
            f"{level:12.4f}  {mle.mean():8.4f} {ours.mean():8.4f}   {(ours - mle).mean():+.4f} {interval(ours - mle)}"
        )


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    runs = parser.parse_args().runs
    found = [curves(run) for run in runs]
    if json.loads((runs[0] / "frontier.json").read_text())["axes"] == ["coverage", "valid"]:
        compare_coverage(found)
        return
    ours = np.stack([interpolate(run["model"], AT) for run in found])
    starts = [run.get("MLE start", run["model"]) for run in found]
    rejected = [run.get("MLE start, rejection", run["model, rejection"]) for run in found]
    mle = np.stack([lowest(pair, AT) for pair in zip(starts, rejected)])
    print("NLL_oracle   MLE      model    difference [95 %]             published: best, MLE")
    for index, at in enumerate(AT):
        change = ours[:, index] - mle[:, index]
        print(
            f"{at:8.3f}  {mle[:, index].mean():8.4f} {ours[:, index].mean():8.4f}  {change.mean():+.4f} "
            f"{interval(change):20}  "
            f"{PUBLISHED_BEST[index]:.3f} {PUBLISHED_MLE[index]:.3f}"
        )
    for name, points in (("MLE", starts), ("model", [run["model"] for run in found])):
        sums = [min(point.x + point.y for point in run) for run in points]
        print(f"best sum NLL_oracle + NLL_test, {name}: {np.mean(sums):.3f} [{min(sums):.3f}, {max(sums):.3f}]")


if __name__ == "__main__":
    main()
