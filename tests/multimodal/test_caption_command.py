"""`trillium caption`, and the pipeline behind it, on files of every kind."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from core.cli import main
from core.config import RunConfig
from core.errors import RunError
from core.training import configfile
from multimodal.commands import caption
from multimodal.examples import Medium
from multimodal.media.errors import MediaError
from multimodal.media.kinds import kind_of
from multimodal.pipeline import CaptioningPipeline, _Streamed

TEXTS = {
    "test-green.png": "a green square",
    "test-high.wav": "the tone is high",
    "test-left.gif": "it moves left now",
}


@pytest.fixture
def folder(mixed_run: Any) -> Path:
    return Path(mixed_run.config.data).parent


@pytest.fixture
def call(mixed_run: Any, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command; its exit code and what it printed."""

    def run(*arguments: Any) -> tuple[int, str, str]:
        code = main(["caption", str(mixed_run.config.out), *map(str, arguments), "--device", "cpu"])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.mark.parametrize("options", [[], ["--beams", "3"], ["--stream"]])
def test_files_of_every_kind(folder: Path, call: Any, options: list[str]) -> None:
    expected = "".join(f"{folder / name}\t{text}\n" for name, text in TEXTS.items())
    assert call(*(folder / name for name in TEXTS), *options) == (0, expected, "")


def test_content_and_not_the_name_tells_the_kind(folder: Path, call: Any, tmp_path: Path) -> None:
    for number, name in enumerate(TEXTS):
        shutil.copy(folder / name, tmp_path / f"{number}.bin")
    code, out, _ = call(*sorted(tmp_path.iterdir()))
    assert code == 0
    assert [line.split("\t")[1] for line in out.splitlines()] == list(TEXTS.values())


def test_together_there_is_one_text(folder: Path, call: Any) -> None:
    files = [folder / name for name in TEXTS]
    for option in ("--beams=2", "--stream"):
        code, out, err = call(*files, "--together", option, "--prompt", "a square")
        assert (code, err) == (0, "")
        assert out.count("\n") == 1
        assert out.startswith(f"{files[0]}, {files[1]}, {files[2]}\t")


def test_a_prompt_follows_the_medium(folder: Path, mixed_run: Any) -> None:
    pipeline = CaptioningPipeline.load(mixed_run.config.out, device="cpu")
    medium = Medium("image", folder / "test-red.png")
    store = pipeline.store.beside()
    from multimodal.examples import Example

    example = Example((medium, "a square"), ("",))
    store.add([example])
    words = pipeline.reader.tokenizer.encode("a square")
    assert pipeline.reader.prompt(example, store).ids == [-1] * 4 + [*words, pipeline.reader.bos_id]
    assert isinstance(pipeline.answer([[medium, "a square"]])[0], str)


@pytest.mark.parametrize("options", [[], ["--stream"]])
def test_bad_files_are_named_in_one_line_each_and_the_others_captioned(
    folder: Path, call: Any, tmp_path: Path, options: list[str]
) -> None:
    good = folder / "test-red.png"
    broken, absent, text, empty = (tmp_path / name for name in ("broken.png", "absent.png", "text.txt", "empty.wav"))
    broken.write_bytes(good.read_bytes()[:60])
    text.write_text("hello")
    empty.write_bytes(b"")
    code, out, err = call(broken, absent, good, text, empty, broken, *options)
    assert code == 1
    assert out == f"{good}\ta red square\n"
    lines = err.splitlines()
    assert lines[-1] == "trillium caption: 5 of 6 could not be used"
    for file in (broken, absent, text, empty):
        assert sum(str(file) in line for line in lines) == (2 if options and file == broken else 1)
    assert all(line.startswith("trillium caption: ") for line in lines)
    code, out, err = call(broken, absent, *options)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 3
    code, out, err = call(good, broken, "--together", *options)
    assert (code, out) == (2, "")


def test_a_run_that_reads_one_kind(runs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from multimodal.trainers import CaptioningTrainer

    manifest = runs.write_media(tmp_path / "data", ["image"])
    trainer = CaptioningTrainer(runs.config(manifest, tmp_path / "run", steps=1), quiet=True, report=False)
    trainer.train()
    sound = tmp_path / "x.wav"
    shutil.copy(runs.write_media(tmp_path / "sounds", ["audio"]).parent / "test-low.wav", sound)
    assert main(["caption", str(tmp_path / "run"), str(sound), "--device", "cpu"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"skipped {sound}: " in printed.err
    with pytest.raises(ValueError, match="medium of kind audio, and this run reads image only"):
        CaptioningPipeline.load(tmp_path / "run", device="cpu").answer([[Medium("audio", sound)]])


def test_misuse_ends_with_one_line(
    runs: Any, mixed_run: Any, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RunError, match=r"no config\.json"):
        caption([str(tmp_path), "a.png"])
    assert main(["caption", str(tmp_path), "a.png"]) == 2
    configfile.write(tmp_path / configfile.NAME, RunConfig())
    with pytest.raises(RunError, match="RunConfig, not a captioning run"):
        caption([str(tmp_path), "a.png"])
    configfile.write(tmp_path / configfile.NAME, runs.config(tmp_path / "a.jsonl", tmp_path))
    with pytest.raises(RunError, match="train the run first"):
        caption([str(tmp_path), "a.png"])
    capsys.readouterr()
    run = str(mixed_run.config.out)
    for arguments in ([run], [run, "a.png", "--stream", "--beams", "2"], [run, "a.png", "--beams", "0"]):
        with pytest.raises(SystemExit) as stopped:
            caption(arguments)
        assert stopped.value.code == 2
    capsys.readouterr()
    long = " ".join(["square"] * 70)
    assert main(["caption", run, str(folder / "test-red.png"), "--prompt", long, "--device", "cpu"]) == 2
    assert "model.max_length" in capsys.readouterr().err


def test_kinds_of_files(folder: Path, tmp_path: Path) -> None:
    picture, sound, clip = (folder / name for name in TEXTS)
    assert kind_of(picture, ["image", "video"]) == "image"
    assert kind_of(picture, ["audio", "video"]) == "video"  # a clip of one frame
    assert kind_of(clip, ["image", "audio", "video"]) == "video"
    assert kind_of(clip, ["image", "audio"]) == "image"  # its first frame
    assert kind_of(sound, ["image", "audio", "video"]) == "audio"
    assert kind_of(tmp_path / "absent", ["audio"]) == "audio"  # the reader says what is wrong
    with pytest.raises(MediaError, match=r"none of image, video \(as video: "):
        kind_of(sound, ["image", "video"])
    with pytest.raises(MediaError, match="No such file"):
        kind_of(tmp_path / "absent", ["image", "audio"])


def test_a_clip_with_sound_is_a_clip(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    import numpy

    path = tmp_path / "talk.mp4"
    with av.open(str(path), "w") as file:
        video, audio = file.add_stream("mpeg4", rate=8), file.add_stream("aac", rate=16_000)
        video.width = video.height = 32
        for _ in range(4):
            frame = av.VideoFrame.from_image(Image.new("RGB", (32, 32), (200, 0, 0)))
            file.mux(video.encode(frame))
        for start in range(4):
            sound = av.AudioFrame.from_ndarray(numpy.zeros((1, 1024), dtype="float32"), format="fltp", layout="mono")
            sound.rate, sound.pts = 16_000, start * 1024
            file.mux(audio.encode(sound))
        file.mux(video.encode())
        file.mux(audio.encode())
    assert kind_of(path, ["audio", "video"]) == "video"
    assert kind_of(path, ["image", "audio"]) == "audio"


def test_streamed_pieces_make_the_text_even_where_its_beginning_changes() -> None:
    texts = {
        1: 'he said "',
        2: 'he said" \N{REPLACEMENT CHARACTER}',
        3: 'he said" é',
        4: 'he said" é\N{REPLACEMENT CHARACTER}',
    }
    said: list[str] = []
    stream = _Streamed(lambda ids: texts[len(ids)], said.append)
    for token in range(3):
        stream([0], [token])
    assert said == ['he said "']
    stream([0], [3])
    stream.finish(texts[4])
    assert "".join(said) == 'he said "" é\N{REPLACEMENT CHARACTER}'


def test_the_config_survives_its_file(runs: Any, tmp_path: Path) -> None:
    config = runs.config(tmp_path / "a.jsonl", tmp_path / "run")
    configfile.write(tmp_path / "config.json", config)
    assert configfile.read(tmp_path / "config.json") == dataclasses.replace(config)
