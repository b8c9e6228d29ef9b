"""Language models that come without their text: model folders, and runs whose text is elsewhere."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from core.errors import RunError
from core.generate import generate
from core.nn.transformer import Transformer
from core.sampling import Sampling
from core.text.tokenizer import Tokenizer


def start_ids(tokenizer: Tokenizer) -> list[int]:
    """What a text starts from without a prompt: the token that begins one, or the one that ends the text before."""
    start = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
    return [start or 0]


def continuations(
    model: Transformer,
    tokenizer: Tokenizer,
    ids: Sequence[int],
    num_samples: int,
    *,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    generator: torch.Generator | None = None,
) -> list[str]:
    """Texts that go on from some tokens, those included; cut where the model's length ends.

    Args:
        model: the language model.
        tokenizer: its tokenizer.
        ids: tokens to go on from, at least one.
        num_samples: how many.
        max_new_tokens: most tokens to add.
        sampling: how tokens are chosen; temperature 0.8 by default.
        generator: source of randomness; the global one by default.
    """
    room = model.config.max_length + 1 - len(ids)
    samples = generate(
        model, [ids], num_samples=num_samples, max_new_tokens=min(max_new_tokens, room),
        sampling=sampling or Sampling(temperature=0.8), eos_id=tokenizer.eos_id, generator=generator,
    )  # fmt: skip
    return [tokenizer.decode([*ids, *row]) for row in samples.lists()]


class AbsentText:
    """Stands for the batches of a text that is not there; asking for one says so."""

    def __init__(self, message: str) -> None:
        self.message = message

    def __iter__(self) -> Iterator[Any]:
        raise RunError(self.message)

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""


class PretrainedModel:
    """A model folder where a command expects a run: it can be sampled and exported, not scored.

    Args:
        folder: a Hugging Face folder.
        device: `auto` or a torch device.
    """

    task = None

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        from core.config import RunConfig
        from core.pretrained.huggingface import from_hf
        from core.training.runtime import Runtime

        self.folder = folder
        self.runtime = Runtime.from_config(RunConfig(device=device, compile="off"))
        self.runtime.apply()
        model, self.tokenizer = from_hf(folder)
        self.model = model.to(self.runtime.device)

    def sample(self, num_samples: int, *, prompt: str = "", max_new_tokens: int = 200) -> list[str]:
        """Continuations of a prompt, or of the token that starts a text."""
        if self.tokenizer is None:
            raise RunError(f"{self.folder} has no tokenizer.json, so its samples cannot be written as text")
        ids = self.tokenizer.encode(prompt) or start_ids(self.tokenizer)
        with self.runtime.autocast():
            return continuations(self.model, self.tokenizer, ids, num_samples, max_new_tokens=max_new_tokens)

    def evaluate(self) -> NoReturn:
        """There is nothing to score it on."""
        raise RunError(f"{self.folder} is a model folder without a text to score it on: train from it with --init-from")

    def export_parts(self) -> tuple[Transformer, Tokenizer | None]:
        """The model and its tokenizer."""
        return self.model, self.tokenizer
