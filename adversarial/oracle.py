"""The oracle of the synthetic benchmark: a random LSTM that both makes the data and can score any text exactly.

Every sequence has the same length; there is no end and no padding, and token 0, with which all begin, is an ordinary
token too. Figures of different oracles cannot be compared: `Oracle.name` says which one it is.

Shape suffixes: N = sequences, L = tokens, V = vocabulary, E = embedding width, H = state width.

References:
    Yu et al. 2017, "SeqGAN", arXiv:1609.05473, section 4: the benchmark.
    Caccia et al. 2020, "Language GANs Falling Short", arXiv:1811.02549: its curves are of the transposed one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from core.errors import UserError
from core.losses import token_logprobs
from core.nn.lstm import LSTM
from core.sampling import draw

START = 0
"""The token that stands before every sequence and is not part of it."""
_GATES = ("i", "f", "c", "og")
"""Input, forget, cell and output gate, in the order of torch's LSTM."""
_AT_ONCE = 1024


class OracleFault(UserError, ValueError):
    """A file that holds no oracle."""


@dataclass(frozen=True)
class Oracle:
    """A language model that is the truth."""

    network: LSTM
    """In evaluation mode."""
    length: int
    """L."""
    name: str
    """Tells oracles apart in scores."""

    @classmethod
    def load(cls, path: Path, *, length: int = 20, transposed: bool = False) -> Self:
        """An oracle from a file of arrays by their classic names.

        Args:
            path: .npz with `embedding` (V, E), `Wi`, `Wf`, `Wog`, `Wc` (E, H), `Ui` … (H, H), `bi` … (H), `Wo` (H, V)
                and `bo` (V).
            length: of its sequences.
            transposed: read the square matrices of the gates the other way round, as some published curves did.

        Raises:
            OracleFault: the file is not such a one.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: torch.from_numpy(file[name]).float() for name in file.files}
            network = _network(arrays, transposed=transposed)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise OracleFault(
                f"{path} holds no oracle ({error}): give a .npz with embedding, gates and output"
            ) from error
        return cls(network, length, f"{path.stem}{' transposed' if transposed else ''}, length {length}")

    @classmethod
    def random(cls, seed: int = 0, *, vocab_size: int = 5000, width: int = 32, length: int = 20) -> Self:
        """An oracle that everyone can make: all weights standard normal, as the classic one's were.

        Args:
            seed: equal seeds give equal weights.
            vocab_size: V.
            width: E and H.
            length: L.
        """
        network = LSTM(vocab_size, width, width)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                # torch has two biases for each gate and the classic LSTM one.
                std = 0.0 if name == "lstm.bias_hh_l0" else 1.0
                parameter.normal_(std=std, generator=generator)
        return cls(network.eval(), length, f"seed {seed}, {vocab_size} words, width {width}, length {length}")

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.network.vocab_size

    @torch.no_grad()
    def sample(self, count: int, *, seed: int) -> Tensor:
        """int64 tokens_NL drawn from the oracle; equal seeds give equal first ones, however many."""
        parts = []
        for start in range(0, count, _AT_ONCE):
            generator = torch.Generator().manual_seed(seed * 1_000_003 + start)
            token_N1 = torch.full((_AT_ONCE, 1), START)
            state = self.network.new_cache(_AT_ONCE, self.length)
            drawn = []
            for _ in range(self.length):
                logits_NV = self.network.logits(self.network(token_N1, cache=state)[:, -1])
                token_N1 = draw(logits_NV, torch.rand(_AT_ONCE, generator=generator, dtype=torch.float64))[:, None]
                drawn.append(token_N1)
            parts.append(torch.cat(drawn, 1)[: count - start])
        return torch.cat(parts) if parts else torch.empty(0, self.length, dtype=torch.long)

    @torch.no_grad()
    def nll(self, tokens_NL: Tensor) -> Tensor:
        """nll_N in nats a token: of each sequence the mean over its L tokens.

        Raises:
            ValueError: sequences of another length, or tokens that the oracle does not have.
        """
        if tokens_NL.ndim != 2 or tokens_NL.shape[1] != self.length:
            raise ValueError(f"the oracle scores sequences of {self.length} tokens, got {tuple(tokens_NL.shape)}")
        if len(tokens_NL) and not 0 <= int(tokens_NL.min()) <= int(tokens_NL.max()) < self.vocab_size:
            raise ValueError(f"tokens must be in [0, {self.vocab_size}): encode them with the oracle's vocabulary")
        scores = []
        for part_NL in tokens_NL.split(_AT_ONCE):
            read_NL = torch.cat((torch.full_like(part_NL[:, :1], START), part_NL[:, :-1]), 1)
            logprobs_NL = token_logprobs(self.network.logits(self.network(read_NL)), part_NL)
            scores.append(-logprobs_NL.mean(1))
        return torch.cat(scores) if scores else torch.empty(0)


def _network(arrays: Mapping[str, Tensor], *, transposed: bool) -> LSTM:
    vocab_size, width = arrays["embedding"].shape
    hidden = arrays["Wo"].shape[0]
    turned = (lambda matrix: matrix) if transposed else (lambda matrix: matrix.T)
    network = LSTM(vocab_size, width, hidden)
    network.load_state_dict(
        {
            "embed_tokens.weight": arrays["embedding"],
            "lstm.weight_ih_l0": torch.cat([turned(arrays[f"W{gate}"]) for gate in _GATES]),
            "lstm.weight_hh_l0": torch.cat([turned(arrays[f"U{gate}"]) for gate in _GATES]),
            "lstm.bias_ih_l0": torch.cat([arrays[f"b{gate}"] for gate in _GATES]),
            "lstm.bias_hh_l0": torch.zeros(4 * hidden),
            "lm_head.weight": arrays["Wo"].T,
            "lm_head.bias": arrays["bo"],
        }
    )
    return network.eval()


class OracleTokens:
    """Sequences of an oracle as texts, `17 4093 5`, behind the surface of a tokenizer. Nothing ends a sequence.

    Args:
        vocab_size: V.
    """

    pad_id = eos_id = unk_id = None
    bos_id = START

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    @property
    def fingerprint(self) -> str:
        """Equal fingerprints mean equal ids for every text."""
        return f"oracle tokens, {self.vocab_size}"

    def encode(self, text: str, *, add_bos: bool = False, add_eos: bool = False) -> list[int]:
        """Ids of a text.

        Raises:
            ValueError: a word that is no token of the oracle, or an end is asked for.
        """
        if add_eos:
            raise ValueError("sequences of an oracle have no end")
        ids = [int(word) if word.isdecimal() else -1 for word in text.split()]
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            raise ValueError(f"{text[:60]!r} has words that are no number from 0 to {self.vocab_size - 1}")
        return [START, *ids] if add_bos else ids

    def encode_batch(self, texts: Sequence[str], *, add_bos: bool = False, add_eos: bool = False) -> list[list[int]]:
        """Ids of several texts."""
        return [self.encode(text, add_bos=add_bos, add_eos=add_eos) for text in texts]

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Text of ids."""
        return " ".join(str(int(number)) for number in ids)

    def split(self, text: str) -> list[str]:
        """The words of a text."""
        return text.split()

    def token_to_id(self, token: str) -> int | None:
        """Id of a word, `None` where it is no token."""
        return int(token) if token.isdecimal() and int(token) < self.vocab_size else None

    def save(self, folder: Path | str) -> None:
        """Nothing has to be written: a token's text is its number."""
