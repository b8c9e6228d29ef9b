"""The synthetic oracle: hand-worked gates, its own entropy, and what is not one."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from adversarial.oracle import START, Oracle, OracleFault

CLASSIC = Path(__file__).parents[3] / "shared" / "data" / "oracle" / "oracle_len20.npz"


def write_oracle(path: Path, vocab_size: int = 7, width: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    shapes = {"embedding": (vocab_size, width), "Wo": (width, vocab_size), "bo": (vocab_size,)}
    for gate in ("i", "f", "og", "c"):
        shapes |= {f"W{gate}": (width, width), f"U{gate}": (width, width), f"b{gate}": (width,)}
    arrays = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    np.savez(path, **arrays)
    return arrays


def nll_by_hand(a: dict[str, np.ndarray], tokens: list[int]) -> float:
    """The equations of the file's format, one step at a time."""

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    h, c, read, total = np.zeros(3), np.zeros(3), START, 0.0
    for token in tokens:
        x = a["embedding"][read]
        i, f, o = (sigmoid(x @ a[f"W{gate}"] + h @ a[f"U{gate}"] + a[f"b{gate}"]) for gate in ("i", "f", "og"))
        c = f * c + i * np.tanh(x @ a["Wc"] + h @ a["Uc"] + a["bc"])
        h = o * np.tanh(c)
        logits = h @ a["Wo"] + a["bo"]
        total -= logits[token] - math.log(np.exp(logits).sum())
        read = token
    return total / len(tokens)


@pytest.mark.parametrize("transposed", [False, True])
def test_scores_by_hand(tmp_path: Path, transposed: bool) -> None:
    arrays = write_oracle(tmp_path / "o.npz")
    oracle = Oracle.load(tmp_path / "o.npz", length=4, transposed=transposed)
    if transposed:
        arrays |= {f"{kind}{gate}": arrays[f"{kind}{gate}"].T for kind in "WU" for gate in ("i", "f", "og", "c")}
    sequences = [[1, 0, 6, 3], [0, 0, 0, 0]]
    expected = torch.tensor([nll_by_hand(arrays, tokens) for tokens in sequences]).float()
    torch.testing.assert_close(oracle.nll(torch.tensor(sequences)), expected)
    assert ("transposed" in oracle.name) == transposed


def test_its_samples_have_the_entropy_that_enumeration_gives() -> None:
    oracle = Oracle.random(3, vocab_size=6, width=4, length=3)
    every = torch.cartesian_prod(*[torch.arange(6)] * 3)
    nll = oracle.nll(every).double() * 3
    assert nll.neg().exp().sum().item() == pytest.approx(1, abs=1e-5)
    entropy = (nll.neg().exp() * nll).sum().item() / 3
    scores = oracle.nll(oracle.sample(20_000, seed=1))
    error = scores.std().item() / math.sqrt(len(scores))
    assert abs(scores.mean().item() - entropy) < 4 * error


def test_equal_seeds_give_equal_weights_and_sequences() -> None:
    one, same, other = (Oracle.random(seed, vocab_size=50, width=8) for seed in (0, 0, 1))
    assert torch.equal(one.sample(7, seed=5), same.sample(7, seed=5))
    assert torch.equal(one.sample(7, seed=5), one.sample(1500, seed=5)[:7])
    assert not torch.equal(one.sample(7, seed=5), one.sample(7, seed=6))
    assert not torch.equal(one.sample(7, seed=5), other.sample(7, seed=5))
    assert one.sample(1500, seed=5).shape == (1500, 20)
    assert one.sample(0, seed=5).shape == (0, 20)


@pytest.mark.skipif(not CLASSIC.is_file(), reason=f"the classic oracle is not at {CLASSIC}")
@pytest.mark.parametrize(("transposed", "published"), [(False, 5.7488), (True, 5.771)])
def test_the_classic_oracle_scores_its_own_samples_as_published(transposed: bool, published: float) -> None:
    oracle = Oracle.load(CLASSIC, transposed=transposed)
    assert oracle.nll(oracle.sample(10_000, seed=0)).mean().item() == pytest.approx(published, abs=0.01)


def test_what_is_no_oracle_or_no_sequence_of_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(OracleFault, match=r"absent.npz holds no oracle"):
        Oracle.load(tmp_path / "absent.npz")
    (tmp_path / "text.npz").write_text("no arrays")
    with pytest.raises(OracleFault, match=r"text.npz holds no oracle"):
        Oracle.load(tmp_path / "text.npz")
    np.savez(tmp_path / "half.npz", embedding=np.zeros((3, 2)), Wo=np.zeros((2, 3)))
    with pytest.raises(OracleFault, match=r"half.npz holds no oracle"):
        Oracle.load(tmp_path / "half.npz")
    oracle = Oracle.random(vocab_size=5, width=2, length=3)
    with pytest.raises(ValueError, match=r"sequences of 3 tokens, got \(1, 4\)"):
        oracle.nll(torch.zeros(1, 4, dtype=torch.long))
    with pytest.raises(ValueError, match=r"tokens must be in \[0, 5\)"):
        oracle.nll(torch.full((1, 3), 5))
