import json
import math
import random
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from core.training import checkpoint
from core.training.checkpoint import CorruptCheckpoint, UnknownFormat
from core.training.state import RngState, pack, unpack

FILES = (checkpoint.TENSORS, checkpoint.STATE, checkpoint.MANIFEST)


def state_of(step: int) -> dict[str, Any]:
    return {"weights": torch.full((50,), float(step)), "n": step, "text": "x" * 50}


def folder_with(tmp_path: Path, *steps: int) -> Path:
    for step in steps:
        checkpoint.save(tmp_path, step, state_of(step))
    return tmp_path


def round_trip(state: dict[str, Any]) -> Any:
    tensors, tree = pack(state)
    return unpack(tensors, json.loads(json.dumps(tree, allow_nan=False)))


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b))
    return bool(a == b) or (a != a and b != b)


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from([torch.arange(3), torch.ones(2, 2, dtype=torch.bfloat16), torch.zeros(0), torch.tensor(True)])
)
KEYS = st.text(max_size=3) | st.sampled_from(["__tensor__", "a/b", "__dict__"]) | st.integers()
STATES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(KEYS, STATES, max_size=4))
def test_pack_keeps_every_value_exactly(state: dict[Any, Any]) -> None:
    assert equal(round_trip(state), state)


def test_tied_weights_and_views_are_stored_apart_once() -> None:
    shared = torch.arange(6.0)
    state = {"a": shared, "b": shared, "half": shared[:3], "turned": shared.view(2, 3).T}
    tensors, _ = pack(state)
    assert sorted(tensors) == ["a", "half", "turned"]
    assert equal(round_trip(state), state)


def test_names_that_collide_are_told_apart() -> None:
    state = {"a/b": torch.zeros(1), "a": {"b": torch.ones(1)}}
    assert equal(round_trip(state), state)


@pytest.mark.parametrize(
    ("value", "kind"),
    [(object(), "object"), (np.zeros(2), "ndarray"), ({1, 2}, "set"), (b"x", "bytes"), (nn.Linear(1, 1), "Linear")],
)
def test_other_objects_are_refused_with_their_path_and_nothing_is_written(
    tmp_path: Path, value: object, kind: str
) -> None:
    with pytest.raises(TypeError, match=rf"cannot save task/parts/1: .*{kind}"):
        checkpoint.save(tmp_path / "checkpoints", 1, {"task": {"parts": [torch.zeros(1), value]}})
    assert not list(tmp_path.iterdir())


def test_sparse_tensors_are_refused() -> None:
    with pytest.raises(TypeError, match=r"cannot save x: .*make it dense"):
        pack({"x": torch.eye(2).to_sparse()})


def test_generators_continue_exactly() -> None:
    def draw() -> tuple[float, float, float, float]:
        return random.gauss(0, 1), float(np.random.standard_normal()), float(torch.rand(())), float(torch.randn(()))

    draw()  # an odd number of normal numbers leaves a spare one in Python's and NumPy's generators
    state = round_trip(RngState.capture().state_dict())
    expected = [draw() for _ in range(3)]
    RngState.from_state_dict(state).restore()
    assert [draw() for _ in range(3)] == expected


def test_save_and_load(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, 1, 2)
    found = checkpoint.latest(folder)
    assert found is not None
    assert (found.step, found.path.name) == (2, "step-00000002")
    assert equal(found.state, state_of(2))
    assert checkpoint.latest(tmp_path / "absent") is None


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def swap(path: Path) -> None:
    other = path.with_name(FILES[FILES.index(path.name) - 1])
    content = other.read_bytes()
    other.write_bytes(path.read_bytes())
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [flip, truncate, swap, empty, Path.unlink])
def test_damage_is_named_and_the_previous_checkpoint_is_used(tmp_path: Path, name: str, damage: Any) -> None:
    folder = folder_with(tmp_path, 1, 2)
    damage(checkpoint.path_of(folder, 2) / name)
    with pytest.raises(CorruptCheckpoint):
        checkpoint.load(checkpoint.path_of(folder, 2))
    with pytest.warns(UserWarning, match=r"skipping a damaged checkpoint: .*step-00000002/.*: \w+") as caught:
        found = checkpoint.latest(folder)
    assert len(caught) == 1
    assert found is not None
    assert equal(found.state, state_of(1))


def test_every_bit_of_the_manifest_counts(tmp_path: Path) -> None:
    path = checkpoint.path_of(folder_with(tmp_path, 1), 1)
    content = (path / checkpoint.MANIFEST).read_bytes()
    for i in range(len(content)):
        damaged = bytearray(content)
        damaged[i] ^= 1 << (i % 7)
        (path / checkpoint.MANIFEST).write_bytes(damaged)
        with pytest.raises(CorruptCheckpoint):
            checkpoint.verify(path)


def test_unknown_format_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_with(tmp_path, 1)
    monkeypatch.setattr(checkpoint, "FORMAT_VERSION", 2)
    folder_with(tmp_path, 2)
    monkeypatch.undo()
    with pytest.raises(UnknownFormat, match="format 2, this Trillium reads format 1: use the version that wrote it"):
        checkpoint.latest(folder)


def test_stored_checkpoint_of_format_1_still_loads(tmp_path: Path) -> None:
    """Written by hand, so that a change of the writer cannot make it agree with a changed reader."""
    path = tmp_path / "step-00000003"
    path.mkdir()
    header = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    (path / "tensors.safetensors").write_bytes(
        len(header).to_bytes(8, "little") + header + np.array([1.5, -2.0], "<f4").tobytes()
    )
    (path / "state.json").write_text('{"w": {"__tensor__": "a"}, "t": {"__tuple__": [1, {"__float__": "-inf"}]}}')
    (path / "manifest.json").write_text(
        """{
 "format_version": 1,
 "step": 3,
 "files": {
  "tensors.safetensors": {
   "bytes": 70,
   "sha256": "@0"
  },
  "state.json": {
   "bytes": 74,
   "sha256": "@1"
  }
 },
 "sha256": "@2"
}"""
    )
    import hashlib

    hashes = [hashlib.sha256((path / name).read_bytes()).hexdigest() for name in FILES[:2]]
    flat = (
        '{"files": {"state.json": {"bytes": 74, "sha256": "@1"}, "tensors.safetensors": {"bytes": 70, "sha256": "@0"}},'
        ' "format_version": 1, "step": 3}'
    )
    for i, digest in enumerate(hashes):
        flat = flat.replace(f"@{i}", digest)
    text = (path / "manifest.json").read_text()
    for i, digest in enumerate([*hashes, hashlib.sha256(flat.encode()).hexdigest()]):
        text = text.replace(f"@{i}", digest)
    (path / "manifest.json").write_text(text)
    state = checkpoint.load(path).state
    assert equal(state, {"w": torch.tensor([1.5, -2.0]), "t": (1, -math.inf)})


def test_retention_keeps_the_newest(tmp_path: Path) -> None:
    for step in range(1, 6):
        checkpoint.save(tmp_path, step, state_of(step), keep=3)
    assert checkpoint.steps_in(tmp_path) == [3, 4, 5]


def test_retention_never_deletes_the_last_valid_checkpoint(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, 1, 2, 3, 4)
    for step in (2, 3, 4):
        flip(checkpoint.path_of(folder, step) / checkpoint.TENSORS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = checkpoint.latest(folder)
    assert found is not None
    assert found.step == 1
    checkpoint.save(folder, 2, state_of(20), keep=1)  # training went on from step 1
    assert checkpoint.steps_in(folder) == [2]
    assert equal(checkpoint.load(checkpoint.path_of(folder, 2)).state, state_of(20))


def test_leftovers_of_a_killed_save_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".part-00000001").mkdir()
    (tmp_path / ".part-00000001" / "x").write_text("x")
    checkpoint.save(tmp_path, 2, state_of(2))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


def test_hostile_tensor_files_raise_and_run_nothing(tmp_path: Path) -> None:
    path = checkpoint.path_of(folder_with(tmp_path, 1), 1)
    hole = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}'
    huge = (10**12).to_bytes(8, "little") + b"{}"
    pickled = b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x05touch\x94\x85\x94R\x94."
    for content in (len(hole).to_bytes(8, "little") + hole + bytes(8), huge, pickled, b""):
        (path / checkpoint.TENSORS).write_bytes(content)
        manifest = json.loads((path / checkpoint.MANIFEST).read_text())
        del manifest["sha256"]
        manifest["files"][checkpoint.TENSORS] = {
            "bytes": len(content),
            "sha256": checkpoint._sha256(path / checkpoint.TENSORS),
        }
        (path / checkpoint.MANIFEST).write_bytes(checkpoint._seal(manifest))
        with pytest.raises(CorruptCheckpoint):
            checkpoint.load(path)


def test_saving_over_a_damaged_checkpoint_of_the_same_step(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, 1)
    shutil.rmtree(checkpoint.path_of(folder, 1))
    checkpoint.path_of(folder, 1).mkdir()
    folder_with(tmp_path, 1)
    assert equal(checkpoint.load(checkpoint.path_of(folder, 1)).state, state_of(1))
