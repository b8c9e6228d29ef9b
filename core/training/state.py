"""Training state: random-number generators, and nested dicts as named tensors plus JSON."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

_TAG = "__"


@dataclass(frozen=True)
class RngState:
    """States of the global generators of Python, NumPy, torch and CUDA."""

    python: tuple[Any, ...]
    numpy: tuple[Any, ...]
    torch: Tensor
    cuda: list[Tensor]

    @classmethod
    def capture(cls) -> "RngState":
        """The states now. Cheap: tens of microseconds, and no synchronisation with a GPU."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        return cls(random.getstate(), tuple(np.random.get_state(legacy=True)), torch.get_rng_state(), cuda)

    def restore(self) -> None:
        """Set the generators back to these states."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch)
        if self.cuda and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(self.cuda)

    def state_dict(self) -> dict[str, Any]:
        """The states as tensors and JSON values."""
        name, keys, *rest = self.numpy
        return {
            "python": self.python,
            "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest),
            "torch": self.torch,
            "cuda": self.cuda,
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> "RngState":
        """What `state_dict` gave, as an object."""
        name, keys, *rest = state["numpy"]
        numpy = (name, keys.numpy().astype(np.uint32), *rest)
        return cls(tuple(state["python"]), numpy, state["torch"], list(state["cuda"]))


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy, torch and CUDA."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def pack(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], Any]:
    """Split a nested state into named tensors and a JSON tree that refers to them.

    Dicts, lists, tuples, tensors, strings, numbers, booleans and None are kept exactly, integer keys, tuples and
    non-finite floats included. A tensor that occurs twice (tied weights) is stored once.

    Args:
        state: nested dict.

    Returns:
        (tensors by name, detached, on the CPU and not sharing storage; tree, which `json.dumps` takes as strict JSON).

    Raises:
        TypeError: something else is in the state; the message has its path.
    """
    packer = _Packer()
    tree = packer.walk(state, ())
    return packer.tensors, tree


def unpack(tensors: Mapping[str, Tensor], tree: Any) -> Any:
    """Undo `pack`."""
    if isinstance(tree, list):
        return [unpack(tensors, item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if len(tree) == 1:
        (tag, content), *_ = tree.items()
        if tag == "__tensor__":
            return tensors[content]
        if tag == "__tuple__":
            return tuple(unpack(tensors, item) for item in content)
        if tag == "__float__":
            return float(content)
        if tag == "__dict__":
            return {unpack(tensors, key): unpack(tensors, value) for key, value in content}
    return {key: unpack(tensors, value) for key, value in tree.items()}


class _Packer:
    """One pass over a state."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[tuple[Any, ...], str] = {}
        self._storages: set[tuple[torch.device, int]] = set()

    def walk(self, value: Any, path: tuple[str, ...]) -> Any:
        if value is None or type(value) in (bool, int, str):
            return value
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else {"__float__": str(float(value))}
        if isinstance(value, Tensor):
            return {"__tensor__": self._tensor(value, path)}
        if isinstance(value, list):
            return [self.walk(item, (*path, str(i))) for i, item in enumerate(value)]
        if isinstance(value, tuple):
            return {"__tuple__": [self.walk(item, (*path, str(i))) for i, item in enumerate(value)]}
        if isinstance(value, Mapping):
            if all(isinstance(key, str) and not key.startswith(_TAG) for key in value):
                return {key: self.walk(item, (*path, key)) for key, item in value.items()}
            pairs = [[self.walk(k, (*path, "key")), self.walk(v, (*path, str(k)))] for k, v in value.items()]
            return {"__dict__": pairs}
        raise TypeError(
            f"cannot save {'/'.join(path)}: {type(value).__module__}.{type(value).__qualname__} is neither a tensor "
            "nor a JSON value; let state_dict return tensors, numbers, strings, lists, tuples and dicts"
        )

    def _tensor(self, value: Tensor, path: tuple[str, ...]) -> str:
        name = "/".join(path)
        if value.layout != torch.strided or value.is_quantized or value.is_complex():
            raise TypeError(
                f"cannot save {name}: {value.dtype} {value.layout} tensors are not supported; make it dense"
            )
        value = value.detach()
        storage = (value.device, value.untyped_storage().data_ptr())
        identity = (*storage, value.storage_offset(), value.dtype, tuple(value.shape), value.stride())
        if value.numel() and identity in self._names:
            return self._names[identity]
        while name in self.tensors:
            name += "+"
        stored = value.cpu().contiguous()
        if storage in self._storages and stored.data_ptr() == value.data_ptr():
            stored = stored.clone()  # another view of a storage that is saved already
        elif stored.untyped_storage().nbytes() != stored.nbytes:
            stored = stored.clone()  # a small view of a large storage
        self._storages.add(storage)
        self._names[identity] = name
        self.tensors[name] = stored
        return name
