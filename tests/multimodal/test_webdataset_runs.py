"""Shards in use: what is tested on, damaged members in a run, loader processes, and training."""

import io
import json
import pickle
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from core.training.runtime import Runtime
from multimodal.datasets.webdataset import examples
from multimodal.encoders.cache import encode_media
from multimodal.encoders.grid import PixelGrid
from multimodal.encoders.pictures import PictureEncoder
from multimodal.examples import Example
from multimodal.media.decode import content
from multimodal.trainers import CaptioningTrainer

Files = Sequence[tuple[str, bytes | str]]


def picture(red: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (9, 6), (red, 7, 0)).save(stream, "PNG")
    return stream.getvalue()


def write_shard(path: Path, files: Files) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files:
            data = data.encode() if isinstance(data, str) else data
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def pairs(start: int, stop: int) -> list[tuple[str, bytes | str]]:
    return [
        file for n in range(start, stop) for file in ((f"{n:04}.png", picture(n)), (f"{n:04}.txt", f"picture {n}\n"))
    ]


def test_test_shards_are_not_learnt_from(tmp_path: Path) -> None:
    for number in range(3):
        write_shard(tmp_path / f"s-{number}.tar", pairs(2 * number, 2 * number + 2))
    made = examples(shards=f"{tmp_path}/*.tar", test=f"{tmp_path}/../{tmp_path.name}/s-2.tar")
    assert [example.key for example in made.train] == ["s-0/0000", "s-0/0001", "s-1/0002", "s-1/0003"]
    assert [example.key for example in made.test] == ["s-2/0004", "s-2/0005"]
    assert "1 shards are both to learn from and to test on: they are only tested on" in made.notes[1]
    same = examples(shards=str(tmp_path), test=str(tmp_path))
    assert (len(same.train), len(same.test)) == (6, 6)
    assert "all test samples are trained on as well" in same.notes[1]


def test_damaged_media_are_skipped_and_counted_by_a_run(tmp_path: Path) -> None:
    files = [*pairs(0, 9), ("bad.png", b"junk"), ("bad.txt", "x")]
    shard = str(write_shard(tmp_path / "s.tar", files))
    media = [example.media[0] for example in examples(shards=shard, test=shard).train]
    encoder, runtime = PictureEncoder(PixelGrid(8, 2)), Runtime(torch.device("cpu"))
    for cached in (False, True):
        encoded = encode_media(media, encoder, runtime, folder=tmp_path / "cache", max_bad_fraction=0.2)
        assert encoded.kept == list(range(9))
        assert [str(error.path) for error in encoded.bad] == [f"{shard}:bad.png"]
        assert encoded.was_cached == cached


def first_red(example: Example) -> int:
    return int(content(example.media[0])[0, 0, 0])


@pytest.mark.parametrize("num_workers", [1, 2])
def test_loader_processes_read_the_same(tmp_path: Path, num_workers: int) -> None:
    shard = str(write_shard(tmp_path / "s.tar", pairs(0, 12)))
    train = examples(shards=shard, test=shard).train
    assert [first_red(example) for example in pickle.loads(pickle.dumps(train))] == list(range(12))
    loader: Any = DataLoader(train, batch_size=4, num_workers=num_workers, collate_fn=reds)  # type: ignore[arg-type]
    assert [red for batch in loader for red in batch] == list(range(12))


def reds(batch: Sequence[Example]) -> list[int]:
    return [first_red(example) for example in batch]


def test_a_loader_process_names_the_damaged_member(tmp_path: Path) -> None:
    shard = str(write_shard(tmp_path / "s.tar", [("a.png", b"junk"), ("a.txt", "x")]))
    train = examples(shards=shard, test=shard).train
    with pytest.raises(RuntimeError, match=r"s\.tar:a\.png: cannot be decoded"):  # torch puts it into one
        list(DataLoader(train, num_workers=1, collate_fn=reds))  # type: ignore[arg-type]


def test_a_run_learns_from_shards(tmp_path: Path, runs: Any) -> None:
    folder = runs.write_media(tmp_path / "media", ["image"]).parent
    for part in ("train", "test"):
        files: list[tuple[str, bytes | str]] = []
        for path in sorted(folder.glob(f"{part}-*.png")):
            files += [(path.name, path.read_bytes()), (f"{path.stem}.txt", f"a {path.stem.split('-')[1]} square")]
        write_shard(tmp_path / f"{part}.tar", files)
    data = f"webdataset:shards={tmp_path}/train.tar,test={tmp_path}/test.tar"
    config = runs.config(folder / "x", tmp_path / "run", data=data, steps=60, batch_size=3)
    trainer = CaptioningTrainer(config, quiet=True)
    trainer.train()
    scores = json.loads((tmp_path / "run" / "eval.json").read_text("utf-8"))["metrics"]
    assert scores["exact_match"] == 1
