"""What every loader of a trained run does: find its config, its tokenizer and its newest weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from safetensors.torch import load_file
from torch import Tensor

from core.config import RunConfig
from core.errors import RunError
from core.text.tokenizer import Tokenizer, load_tokenizer
from core.training import checkpoint, configfile
from core.training.resume import CHECKPOINTS_NAME
from core.training.runtime import Runtime, for_use
from multimodal.examples import KINDS, Kind

WEIGHTS_NAME = "model.safetensors"
TOKENIZER_NAME = "tokenizer"

Config = TypeVar("Config", bound=RunConfig)


def open_run(folder: Path, kind: type[Config], what: str, device: str) -> tuple[Config, Runtime]:
    """The config of a run directory, or of a folder that a run was saved to, and where its model shall compute.

    Args:
        folder: the run.
        kind: class that its config must have.
        what: such a run in words, for the message.
        device: where to compute, whatever the config says; nothing is compiled.

    Raises:
        RunError: not a run, or another kind of run.
    """
    if not (folder / configfile.NAME).is_file():
        raise RunError(f"{folder} is not a run directory: it has no {configfile.NAME}")
    config = configfile.read(folder / configfile.NAME)
    if not isinstance(config, kind):
        raise RunError(f"{folder} holds a {type(config).__name__}, not a {what}")
    runtime = Runtime.from_config(for_use(config, device))
    runtime.apply()
    return config, runtime


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a run. Raises `RunError` where there is none."""
    if not (folder / TOKENIZER_NAME).is_dir():
        raise RunError(f"{folder} has no tokenizer: train the run first")
    return load_tokenizer(folder / TOKENIZER_NAME)


def read_weights(folder: Path, prefix: str) -> dict[str, Tensor]:
    """A module's state dict from saved weights, or from a run's newest good checkpoint, averaged where there are any.

    Args:
        folder: the run.
        prefix: what names begin with that belongs to what was trained around the module.

    Raises:
        RunError: neither weights nor a checkpoint.
    """
    if (folder / WEIGHTS_NAME).is_file():
        stored = load_file(folder / WEIGHTS_NAME)
    else:
        found = checkpoint.latest(folder / CHECKPOINTS_NAME)
        if found is None:
            raise RunError(f"{folder} has no good checkpoint: train it first")
        updater = found.state["task"]["updater"]
        stored = {**updater["module"], **updater["ema"]}
    return {name.removeprefix(prefix): value for name, value in stored.items()}


def kinds_of(weights: Mapping[str, Tensor]) -> list[Kind]:
    """The kinds of media that weights have an adapter for."""
    return [kind for kind in KINDS if any(name.startswith(f"adapters.{kind}.") for name in weights)]


def with_tied_head(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A captioner's weights with embedding and head under both names: tied ones are stored under either, once."""
    head, embedding = "model.lm_head.weight", "model.model.embed_tokens.weight"
    tied = weights[embedding] if embedding in weights else weights[head]
    return {**weights, head: tied, embedding: tied}
