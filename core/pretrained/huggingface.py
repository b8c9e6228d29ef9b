"""Hugging Face folders: save a model as Qwen3, Llama or GPT-2, load one, and look at one through transformers.

`transformers` is imported only by `to_hf` and by the check of an export: it costs seconds.
"""

import copy
import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from core.generate import decoding
from core.nn.transformer import Transformer
from core.pretrained.architectures import (
    ExportError,
    Family,
    UnsupportedModel,
    absent_biases,
    family,
    from_config_json,
    to_config_json,
)
from core.pretrained.weights import SINGLE, build, from_ours, read_safetensors, to_ours
from core.text.atomic import write_json
from core.text.tokenizer import HFTokenizer, load_tokenizer

MAX_DIFFERENCE = 1e-4
"""Largest logit difference that the check of an export lets pass, times the spread of the logits where that is > 1."""


@dataclass(frozen=True)
class Export:
    """What `save_hf` wrote, and how it was checked."""

    folder: Path
    family: Family
    checked_by: str
    """`transformers`, `trillium` (our own reader, where transformers is not installed), or empty without a check."""
    max_difference: float
    """Largest absolute difference between the logits before and after, in float32; NaN without a check."""


def save_hf(
    model: nn.Module,
    folder: Path | str,
    tokenizer: HFTokenizer | None = None,
    *,
    check: bool = True,
    overwrite: bool = False,
) -> Export:
    """Write a folder that `AutoModelForCausalLM.from_pretrained`, TRL, PEFT and vLLM load as it is.

    The folder appears whole or not at all: it is written beside its place, read back and compared, then moved there.

    Args:
        model: a core Transformer; its weights are stored in the dtype that they have.
        folder: where to; it must not exist, or be empty, unless `overwrite`.
        tokenizer: saved along, and its special tokens named in the configs. transformers will read special tokens in
            texts (`<eos>`) as such, which TRL counts on; `from_hf` gives back a tokenizer that does as this one.
        check: read the folder back and compare logits (and token ids, with a tokenizer).
        overwrite: replace an existing folder.

    Raises:
        ExportError: the model has no Hugging Face form, the folder is in use, or what came back was not the same.
    """
    folder = Path(folder)
    if not isinstance(model, Transformer):
        raise ExportError(f"only the core Transformer has a Hugging Face form, not {type(model).__name__}")
    if any(".lora_" in name for name, _ in model.named_parameters()):
        raise ExportError("the model carries a LoRA adapter: merge it first with core.nn.lora.merge_lora")
    if folder.exists() and not overwrite and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportError(f"{folder} exists already: choose another place, or allow it to be overwritten")
    if tokenizer is not None and tokenizer.vocab_size > model.vocab_size:
        raise ExportError(
            f"the tokenizer has {tokenizer.vocab_size} ids, the model's vocabulary {model.vocab_size}: "
            "this tokenizer does not belong to this model"
        )
    name = family(model.config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.parent / f".{folder.name}.{os.getpid()}.part"
    try:
        _write(model, part, tokenizer)
        checked_by, difference = _check(model, part, tokenizer) if check else ("", float("nan"))
        old = folder.parent / f".{folder.name}.{os.getpid()}.old"
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Export(folder, name, checked_by, difference)


def from_hf(folder: Path | str, *, dtype: torch.dtype = torch.float32) -> tuple[Transformer, HFTokenizer | None]:
    """Load a folder with a Llama, Qwen3, Qwen2 or GPT-2 language model, without transformers.

    Args:
        folder: config.json and safetensors, in one file or in shards.
        dtype: of the parameters; training wants float32, which autocast makes fast.

    Returns:
        The model on the CPU in training mode, and the tokenizer, or None where the folder has no tokenizer.json.

    Raises:
        UnsupportedModel: the architecture or the weights don't fit ours; the message names the field.
    """
    folder = Path(folder)
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UnsupportedModel(f"no config.json in {folder}: give a folder that save_pretrained wrote") from error
    except ValueError as error:
        raise UnsupportedModel(f"{folder / 'config.json'} is not JSON: {error}") from error
    if not isinstance(settings, dict):
        raise UnsupportedModel(f"{folder / 'config.json'} must hold a JSON object, found {type(settings).__name__}")
    config = from_config_json(settings)
    tensors = to_ours(read_safetensors(folder), config)
    model = build(config, tensors, dtype, zero_biases=absent_biases(settings))
    tokenizer = load_tokenizer(folder) if (folder / "tokenizer.json").is_file() else None
    return model, tokenizer


def to_hf(model: Transformer) -> Any:
    """The transformers model over the same storage: training either one trains both.

    Returns:
        A `Qwen3ForCausalLM` or `LlamaForCausalLM`. Its configuration names no special tokens, and trainers that load
        a reference model by name need a folder from `save_hf` instead.

    Raises:
        ExportError: GPT-2, whose projections are stored transposed and fused, or a model without Hugging Face form.
    """
    name = family(model.config)
    if name == "gpt2":
        raise ExportError("GPT-2 stores its projections transposed, so no view can share them: use save_hf")
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = to_config_json(model.config)
    del settings["torch_dtype"]
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    weight = model.model.embed_tokens.weight
    # The random weights that transformers draws here are thrown away; they should not move the caller's generators.
    with torch.random.fork_rng(devices=[]):
        view = AutoModelForCausalLM.from_config(config, dtype=weight.dtype)
    view.load_state_dict(model.state_dict(), strict=True, assign=True)
    view.tie_weights()
    return view.to(weight.device).train(model.training)


def _write(model: Transformer, folder: Path, tokenizer: HFTokenizer | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    special = {
        f"{role}_id": None if tokenizer is None else getattr(tokenizer, f"{role}_id") for role in ("bos", "eos", "pad")
    }
    dtype = str(model.model.embed_tokens.weight.dtype).removeprefix("torch.")
    write_json(folder / "config.json", to_config_json(model.config, dtype=dtype, **special))
    generation: dict[str, Any] = {f"{role.removesuffix('_id')}_token_id": value for role, value in special.items()}
    if tokenizer is not None and len(tokenizer.stop_ids) > 1:
        generation["eos_token_id"] = list(tokenizer.stop_ids)
    write_json(folder / "generation_config.json", generation)
    save_file(from_ours(model), folder / SINGLE, metadata={"format": "pt"})
    # safetensors makes its file private, which would keep a server under another user from reading it.
    (folder / SINGLE).chmod((folder / "config.json").stat().st_mode)
    if tokenizer is not None:
        tokenizer.save(folder)
        if tokenizer.kind != "hf":
            _parse_special_tokens(folder / "tokenizer_config.json")
    with (folder / SINGLE).open("rb") as stream:
        os.fsync(stream.fileno())


def _parse_special_tokens(file: Path) -> None:
    """Let transformers read a special token that is spelled out in a text, which our trained tokenizers switch off.

    TRL and chat templates write `<eos>` as text and expect its id: without this no example would ever end.
    """
    settings = json.loads(file.read_text(encoding="utf-8"))
    settings.pop("split_special_tokens", None)
    write_json(file, settings)


def _check(model: Transformer, folder: Path, tokenizer: HFTokenizer | None) -> tuple[str, float]:
    """Read a folder back and compare. Returns who read it and the largest logit difference."""
    reference = model
    weight = model.model.embed_tokens.weight
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        reference = copy.deepcopy(model).to(device="cpu", dtype=torch.float32)
        reference.reset_rotary()  # casting rounded its table too
    length = min(32, model.config.max_length)
    tokens_BT = torch.randint(model.vocab_size, (2, length), generator=torch.Generator().manual_seed(0))
    read: Callable[[Path], tuple[Callable[[Tensor], Tensor], Callable[[str], Sequence[int]] | None]]
    if importlib.util.find_spec("transformers"):
        reader, read = "transformers", _read_with_transformers
    else:
        reader, read = "trillium", _read_ourselves
    theirs, encode = read(folder)
    with decoding(reference):
        ours_BTV = reference.logits(reference(tokens_BT))
        difference = float((theirs(tokens_BT) - ours_BTV).abs().max())
    allowed = MAX_DIFFERENCE * max(1.0, float(ours_BTV.std()))
    if not difference <= allowed:  # NaN fails too
        raise ExportError(
            f"the export computes something else: {reader} finds logits that differ by {difference:.2g} (at most "
            f"{allowed:.2g} is rounding), so it was deleted; please report this together with the model's config"
        )
    if tokenizer is not None and encode is not None:
        parses = None if tokenizer.kind == "hf" else True
        text = tokenizer.decode(sorted(tokenizer.vocabulary().values())[:256], skip_special=False)
        if list(encode(text)) != tokenizer.encode(text, special=parses):
            raise ExportError(
                f"{reader} splits a text into other tokens than the tokenizer that was exported, so the export was "
                "deleted; please report this together with its tokenizer.json"
            )
    return reader, difference


def load_with_transformers(auto: Any, folder: Path) -> Any:
    """The model of a folder in evaluation mode and float32, as one of transformers' Auto classes loads it.

    Raises:
        ExportError: a weight is missing, or there is one too many.
    """
    from transformers.utils import logging

    load: Any = auto.from_pretrained
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # one bar per export is noise among the user's own output
    try:
        loaded, info = load(folder, dtype=torch.float32, output_loading_info=True, local_files_only=True)
    finally:
        if bars:
            logging.enable_progress_bar()
    wrong = {kind: sorted(map(str, names)) for kind, names in info.items() if names}
    if wrong:
        raise ExportError(f"transformers does not take the exported weights as they are: {wrong}")
    loaded.eval()
    return loaded


def _read_with_transformers(folder: Path) -> tuple[Callable[[Tensor], Tensor], Callable[[str], Sequence[int]] | None]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = load_with_transformers(AutoModelForCausalLM, folder)
    encode = None
    if (folder / "tokenizer.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)

        def encode(text: str) -> Sequence[int]:
            return tokenizer(text, add_special_tokens=False)["input_ids"]

    return lambda tokens_BT: loaded(tokens_BT, use_cache=False).logits, encode


def _read_ourselves(folder: Path) -> tuple[Callable[[Tensor], Tensor], Callable[[str], Sequence[int]] | None]:
    loaded, tokenizer = from_hf(folder)
    loaded.eval()
    encode = None if tokenizer is None else partial(tokenizer.encode, special=None if tokenizer.kind == "hf" else True)
    return lambda tokens_BT: loaded.logits(loaded(tokens_BT)), encode
