"""A reward model as a Hugging Face folder: a sequence classifier of one label, which transformers and TRL load.

Hugging Face's classifiers look for the last token that is not padding, by its id. So the folder's padding token must
never end a text.
"""

import copy
import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from core.nn.lora import merge_lora
from core.pretrained.architectures import (
    CLASSES,
    ExportError,
    UnsupportedModel,
    absent_biases,
    family,
    from_config_json,
    to_config_json,
)
from core.pretrained.huggingface import load_with_transformers
from core.pretrained.weights import SINGLE, build, from_ours, read_safetensors, to_ours
from core.text.atomic import write_json
from core.text.huggingface import HFTokenizer
from core.text.tokenizer import load_tokenizer
from rl.preferences.reward_model import RewardModel
from rl.preferences.scoring import frozen

HEAD = "score.weight"
"""Hugging Face's name of the head."""
MAX_DIFFERENCE = 1e-4
"""Largest difference that the check of an export lets pass, times the largest reward where that is above 1."""

Rewards = Callable[[Sequence[Sequence[int]]], Tensor]
"""From rows of token ids to reward_B."""


def save_classifier(reward_model: RewardModel, folder: Path | str, *, overwrite: bool = False) -> float:
    """Write a folder that `AutoModelForSequenceClassification.from_pretrained` loads, and check it.

    The folder appears whole or not at all. Adapters are merged into a copy of the weights.

    Args:
        reward_model: on any device.
        folder: where to; it must not exist, or be empty, unless `overwrite`.
        overwrite: replace an existing folder.

    Returns:
        The largest difference between rewards before and after.

    Raises:
        ExportError: the model has no Hugging Face form, the folder is in use, or what came back was not the same.
    """
    folder = Path(folder)
    if folder.exists() and not overwrite and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportError(f"{folder} exists already: choose another place, or allow it to be overwritten")
    plain = copy.deepcopy(reward_model).to(device="cpu", dtype=torch.float32)
    merge_lora(plain.language_model)
    plain.language_model.reset_rotary()
    folder.parent.mkdir(parents=True, exist_ok=True)
    part, old = (folder.parent / f".{folder.name}.{os.getpid()}.{kind}" for kind in ("part", "old"))
    try:
        _write(plain, part)
        difference = _check(plain, part)
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
    finally:
        for path in (part, old):
            shutil.rmtree(path, ignore_errors=True)
    return difference


def load_classifier(folder: Path | str) -> RewardModel:
    """Read a Llama, Qwen3, Qwen2 or GPT-2 sequence classifier with one label, without transformers.

    Returns:
        The reward model in float32 on the CPU, in evaluation mode.

    Raises:
        UnsupportedModel: no such folder, another architecture, more than one label, or no tokenizer.
    """
    folder = Path(folder)
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnsupportedModel(f"no readable config.json in {folder}: give a folder with a reward model") from error
    tensors = read_safetensors(folder)
    head = tensors.pop(HEAD, None)
    if head is None or len(head) != 1:
        labels = "no head" if head is None else f"{len(head)} labels"
        raise UnsupportedModel(f"{folder} has {labels}: a reward model is a sequence classifier with one label")
    # A classifier has no output projection, so the embedding stands in for it.
    config = replace(from_config_json(settings), tied=True)
    language_model = build(config, to_ours(tensors, config), torch.float32, zero_biases=absent_biases(settings))
    if not (folder / "tokenizer.json").is_file():
        raise UnsupportedModel(f"{folder} has no tokenizer.json: a reward model needs one to read text")
    loaded = RewardModel(language_model, load_tokenizer(folder))
    with torch.no_grad():
        loaded.head.weight.copy_(head)
    return loaded.eval()


def _write(plain: RewardModel, folder: Path) -> None:
    model, tokenizer = plain.language_model, plain.tokenizer
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tokenizer.save(folder)
    pad_id = _pad(tokenizer)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        content = json.loads((folder / name).read_text(encoding="utf-8")) | {"pad_token": tokenizer.id_to_token(pad_id)}
        if tokenizer.kind != "hf":
            # transformers shall take `<eos>` in a text for the token: TRL and chat templates spell it out.
            content.pop("split_special_tokens", None)
        write_json(folder / name, content)
    settings = to_config_json(model.config, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id, pad_id=pad_id)
    kind = CLASSES[family(model.config)].replace("ForCausalLM", "").replace("LMHeadModel", "")
    settings |= {
        "architectures": [f"{kind}ForSequenceClassification"],
        "id2label": {"0": "reward"},
        "label2id": {"reward": 0},
    }
    write_json(folder / "config.json", settings)
    tensors = {name: tensor for name, tensor in from_ours(model).items() if name != "lm_head.weight"}
    save_file({**tensors, HEAD: plain.head.weight.detach()}, folder / SINGLE, metadata={"format": "pt"})
    # safetensors makes its file private, which would keep a server under another user from reading it.
    (folder / SINGLE).chmod((folder / "config.json").stat().st_mode)
    with (folder / SINGLE).open("rb") as stream:
        os.fsync(stream.fileno())


def _pad(tokenizer: HFTokenizer) -> int:
    """A special token that ends no text."""
    ends = tokenizer.stop_ids
    named = (tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id)
    for token in (*named, *tokenizer.special_tokens().values()):
        if token is not None and token not in ends:
            return token
    raise ExportError("the tokenizer has no special token that could pad texts without being their end: add one")


def _check(plain: RewardModel, folder: Path) -> float:
    """The largest difference between the rewards of padded rows before and after."""
    generator = torch.Generator().manual_seed(0)
    longest = min(24, plain.language_model.config.max_length)
    pad_id, end = _pad(plain.tokenizer), plain.tokenizer.eos_id
    rows = []
    for length in (longest, max(1, longest // 2)):
        row = torch.randint(plain.language_model.vocab_size, (length,), generator=generator).tolist()
        rows.append([*row[:-1], row[-1] if end is None else end])
    theirs = _with_transformers(folder, pad_id) if importlib.util.find_spec("transformers") else load_classifier(folder)
    with frozen(plain):
        ours_B = plain(rows)
        difference = float((ours_B - theirs(rows)).abs().max())
    if not difference <= MAX_DIFFERENCE * max(1.0, float(ours_B.abs().max())):  # NaN fails too
        raise ExportError(
            f"the export gives rewards that differ by {difference:.2g}, so it was deleted; please report this together "
            "with the model's config"
        )
    return difference


def _with_transformers(folder: Path, pad_id: int) -> Rewards:
    from transformers import AutoModelForSequenceClassification

    loaded = load_with_transformers(AutoModelForSequenceClassification, folder)

    def rewards(rows: Sequence[Sequence[int]]) -> Tensor:
        longest = max(map(len, rows))
        padded = torch.tensor([[*row, *[pad_id] * (longest - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        return loaded(input_ids=padded, attention_mask=mask).logits.squeeze(-1)

    return rewards
