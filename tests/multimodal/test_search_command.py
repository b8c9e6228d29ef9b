"""`trillium search`, and the index behind it, on folders written here."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from core.cli import main
from core.config import OptimConfig, RunConfig
from core.errors import RunError
from core.training import configfile
from multimodal.retrieval import index as index_module
from multimodal.retrieval.config import RetrievalConfig
from multimodal.retrieval.index import Index, IndexFault, best, files_of
from multimodal.retrieval.retriever import Retriever
from multimodal.retrieval.trainers import RetrievalTrainer

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def run(runs: Any, tmp_path_factory: pytest.TempPathFactory) -> RetrievalTrainer:
    """A run that has learnt pictures and sounds by heart."""
    folder = tmp_path_factory.mktemp("search")
    config = RetrievalConfig(
        out=folder / "run", data=str(runs.write_media(folder / "data", ["image", "audio"])), tower="features",
        image_encoder="pixels", image_side=20, grid=2, encoder_width=64, max_seconds=2.0, cache=folder / "cache",
        vector_width=32, media_width=64, media_layers=1, text_width=64, text_layers=1, max_text_tokens=8, steps=40,
        batch_size=6, threads=1, device="cpu", precision="fp32", optim=OptimConfig(lr=3e-3, warmup_steps=5),
    )  # fmt: skip
    trainer = RetrievalTrainer(config, quiet=True, report=False)
    trainer.train()
    return trainer


@pytest.fixture
def media(run: RetrievalTrainer, tmp_path: Path) -> Path:
    """The run's six test files, in a folder and a subfolder."""
    folder = tmp_path / "media"
    (folder / "sounds").mkdir(parents=True)
    for file in Path(run.config.data).parent.glob("test-*"):
        shutil.copy(file, folder / "sounds" if file.suffix == ".wav" else folder)
    return folder


@pytest.fixture
def call(
    run: RetrievalTrainer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Call:
    """Run the command with a cache of its own; its exit code and what it printed."""
    monkeypatch.setenv("TRILLIUM_CACHE", str(tmp_path / "cache"))

    def search(*arguments: Any, run_dir: Path = run.config.out) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["search", str(run_dir), *map(str, arguments), "--device", "cpu"])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return search


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were encoded, as they are."""
    files: list[Path] = []
    plain = Retriever.media

    def media(self: Retriever, media: Any) -> Any:
        files.extend(medium.source for medium in media)
        return plain(self, media)

    monkeypatch.setattr(Retriever, "media", media)
    return files


def test_the_best_file_comes_first(call: Call, media: Path) -> None:
    for query, name in {"a red square": "test-red.png", "The tone is HIGH": "sounds/test-high.wav"}.items():
        code, out, err = call(query, "--in", media, "--top", 3)
        lines = [line.split("\t") for line in out.splitlines()]
        assert (code, err, len(lines)) == (0, "", 3)
        assert lines[0][1] == str(media / name)
        cosines = [float(cosine) for cosine, _ in lines]
        assert cosines == sorted(cosines, reverse=True)
        assert 0.5 < cosines[0] <= 1
    assert len(call("square", "--in", media)[1].splitlines()) == 6


def test_more_like_this_finds_the_near_copy(call: Call, media: Path, tmp_path: Path) -> None:
    with Image.open(media / "test-blue.png") as image:
        near = image.copy()
    near.putpixel((0, 0), (250, 250, 250))
    near.save(media / "near.png")
    code, out, _ = call("--like", media / "test-blue.png", "--in", media, "--top", 2)
    assert code == 0
    first, second = (line.split("\t") for line in out.splitlines())
    assert first[1] == str(media / "near.png")  # the file itself is not among those like it
    assert float(first[0]) > 0.99 > float(second[0])
    shutil.copy(media / "sounds" / "test-low.wav", tmp_path / "elsewhere.wav")
    assert call("--like", tmp_path / "elsewhere.wav", "--in", media, "--top", 1)[1].endswith("test-low.wav\n")


def test_the_index_encodes_only_what_is_new(call: Call, media: Path, tmp_path: Path, encoded: list[Path]) -> None:
    first = call("a red square", "--in", media)
    assert sorted(encoded) == sorted([*media.glob("*.png"), *media.glob("sounds/*")])
    encoded.clear()
    assert call("a red square", "--in", media) == first
    assert encoded == []
    # A copy and a file that was moved have a content that is known; the time of a change alone is none.
    shutil.copy(media / "test-red.png", media / "copy.png")
    (media / "test-green.png").rename(media / "moved.png")
    Image.new("RGB", (20, 20), (9, 9, 9)).save(media / "new.png")
    (media / "test-blue.png").touch()
    out = call("a red square", "--in", media)[1]
    assert encoded == [media / "new.png"]
    assert {line.split("\t")[1] for line in out.splitlines()[:2]} == {
        str(media / "copy.png"), str(media / "test-red.png"),
    }  # fmt: skip
    assert "test-green" not in out
    encoded.clear()
    # What an index holds of other folders is not shown.
    assert len(call("tone", "--in", media / "sounds")[1].splitlines()) == 3
    # A file that has changed is encoded again.
    shutil.copy(media / "new.png", media / "test-red.png")
    Image.new("RGB", (20, 20), (99, 9, 9)).save(media / "new.png")
    call("tone", "--in", media)
    assert encoded == [media / "new.png"]
    own = tmp_path / "own.safetensors"
    assert call("tone", "--in", media, "--index", own)[0] == 0
    assert own.is_file()
    assert len(encoded) == 1 + 8  # another index begins with nothing


def test_damaged_files_are_named_counted_and_skipped(call: Call, media: Path, encoded: list[Path]) -> None:
    (media / "broken.png").write_bytes((media / "test-red.png").read_bytes()[:60])
    (media / "text.wav").write_text("hello")
    (media / "notes.txt").write_text("hello")
    (media / ".hidden.png").write_text("hello")
    for again in range(2):
        code, out, err = call("a red square", "--in", media)
        assert code == 0
        assert out.splitlines()[0].endswith("test-red.png")
        assert len(out.splitlines()) == 6
        lines = err.splitlines()
        assert lines[0] == "trillium search: left out 1 files that are none of image, audio by their endings"
        assert sum("broken.png" in line for line in lines) == sum("text.wav" in line for line in lines) == 1
        assert lines[-1] == "trillium search: 2 of 8 could not be used"
        assert len(lines) == 4
        assert bool(encoded) is not bool(again)  # damaged files are not tried again
        encoded.clear()


def test_a_run_of_pictures_leaves_sounds_out(runs: Any, call: Call, media: Path, tmp_path: Path) -> None:
    config = RetrievalConfig(
        out=tmp_path / "run", data=str(runs.write_media(tmp_path / "data", ["image"])), image_side=20, patch=10,
        media_width=64, text_width=64, media_layers=1, text_layers=1, max_text_tokens=8, steps=1, batch_size=3,
        threads=1, device="cpu",
    )  # fmt: skip
    RetrievalTrainer(config, quiet=True, report=False).train()
    code, out, err = call("square", "--in", media, run_dir=tmp_path / "run")
    assert (code, len(out.splitlines())) == (0, 3)
    assert err == "trillium search: left out 3 files that are none of image by their endings\n"


def test_misuse_ends_with_one_line_and_code_2(
    runs: Any, run: RetrievalTrainer, call: Call, media: Path, tmp_path: Path
) -> None:
    empty, damaged = tmp_path / "empty", tmp_path / "damaged"
    empty.mkdir()
    damaged.mkdir()
    (damaged / "a.png").write_text("no picture")
    configfile.write(tmp_path / configfile.NAME, RunConfig())
    for arguments, run_dir, message in (
        (("a", "--in", tmp_path / "absent"), None, "absent is not a folder"),
        (("square", "--in", tmp_path / "absent"), None, "absent is not a folder"),
        (("square", "--in", media, empty / "x"), None, "x is not a folder"),
        (("square", "--in", empty), None, "holds no file with one of the endings"),
        (("zebra", "--in", media), None, "no word of 'zebra' is in the vocabulary"),
        (("square", "--in", media), empty, "is not a run directory"),
        (("square", "--in", media), tmp_path, "holds a RunConfig, not a retrieval run"),
        (("square " * 9, "--in", media), None, "max_text_tokens"),
        (("--like", empty / "x.png", "--in", media), None, "x.png"),
        (("square", "--in", media, "--index", damaged / "a.png"), None, "no index that can be read: remove it"),
    ):
        code, out, err = call(*arguments, **({} if run_dir is None else {"run_dir": run_dir}))
        assert (code, out) == (2, ""), arguments
        assert message in err
        assert len(err.splitlines()) == 1
    code, out, err = call("square", "--in", damaged)
    assert (code, out) == (2, "")
    assert "none of the 1 files" in err.splitlines()[-1]
    for wrong in (("--in", media), ("square", "--like", media / "test-red.png", "--in", media), ("square",)):
        code, out, err = call(*wrong)
        assert (code, out) == (2, "")
    assert call("a purple square", "--in", media)[2] == "trillium search: not in the vocabulary of this run: purple\n"


def test_an_index_of_another_run_or_a_damaged_one_is_refused(
    run: RetrievalTrainer, media: Path, tmp_path: Path
) -> None:
    retriever = Retriever.load(run.config.out, device="cpu")
    path = tmp_path / "index.safetensors"
    files, _ = files_of([media], retriever.kinds)
    Index(retriever, path).look_up(files)
    with torch.no_grad():
        retriever.towers.scale[0].add_(1)
    with pytest.raises(IndexFault, match="made by another run"):
        Index(retriever, path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(IndexFault, match="is damaged: remove it"):
        Index(retriever, path)
    configfile.write(tmp_path / configfile.NAME, run.config)
    with pytest.raises(RunError, match="no tokenizer: train the run first"):
        Retriever.load(tmp_path)


def test_a_long_build_says_how_far_it_is_and_keeps_what_it_has(
    run: RetrievalTrainer, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded: list[Path]
) -> None:
    for name in ("CHUNK", "TELL_EVERY_S", "SAVE_EVERY_S"):
        monkeypatch.setattr(index_module, name, 2 if name == "CHUNK" else 0.0)
    retriever = Retriever.load(run.config.out, device="cpu")
    files, _ = files_of([media], retriever.kinds)
    told: list[str] = []
    whole = Index(retriever, tmp_path / "whole.safetensors", tell=told.append).look_up(files)
    assert [line.split(" files")[0] for line in told] == ["encoded 2 of 6", "encoded 4 of 6"]
    encoded.clear()

    def interrupt(text: str) -> None:
        if text.startswith("encoded 4"):
            raise KeyboardInterrupt

    path = tmp_path / "part.safetensors"
    with pytest.raises(KeyboardInterrupt):
        Index(retriever, path, tell=interrupt).look_up(files)
    encoded.clear()
    found = Index(retriever, path).look_up(files)
    assert encoded == files[2:]  # the first two were written before
    torch.testing.assert_close(found.vectors_IV, whole.vectors_IV, atol=1e-6, rtol=0)
    assert best(found, found.vectors_IV[3], 1)[0][1] == files[3]
