"""Shards of media and texts: the format, parity with the package webdataset, and what may be wrong with them."""

import io
import json
import math
import struct
import tarfile
import wave
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from multimodal.datasets import packed
from multimodal.datasets.files import LayoutError
from multimodal.datasets.named import load_examples
from multimodal.datasets.webdataset import Member, examples, expand
from multimodal.examples import Example, Examples, Medium
from multimodal.media.audio import load_audio
from multimodal.media.decode import content, frames, image_content, waveform
from multimodal.media.errors import MediaError
from multimodal.media.image import load_image
from multimodal.media.video import load_clip

Files = Sequence[tuple[str, bytes | str]]


def picture(red: int, size: tuple[int, int] = (9, 6), format: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (red, 7, 0)).save(stream, format)
    return stream.getvalue()


def sound(seconds: float = 0.1, rate: int = 8000) -> bytes:
    stream = io.BytesIO()
    steps = torch.arange(int(seconds * rate)) / rate
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((torch.sin(2 * math.pi * 440 * steps) * 9000).to(torch.int16).numpy().tobytes())
    return stream.getvalue()


def animation() -> bytes:
    stream = io.BytesIO()
    pictures = [Image.new("RGB", (12, 12), (80 * number, 0, 0)) for number in range(3)]
    pictures[0].save(stream, "GIF", save_all=True, append_images=pictures[1:], duration=100)
    return stream.getvalue()


def bomb() -> bytes:
    """A small file that claims to be a picture of 1.2 GB."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + header
        + struct.pack(">I", zlib.crc32(header))
        + bytes(4)
        + b"IDAT"
    )


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


def sides(made: Examples) -> list[Example]:
    return [*made.train, *made.test]


def one(tmp_path: Path, files: Files) -> Example:
    """The only training example of a shard with these members."""
    write_shard(tmp_path / "one.tar", files)
    write_shard(tmp_path / "test.tar", pairs(0, 1))
    (example,) = examples(shards=str(tmp_path / "one.tar"), test=str(tmp_path / "test.tar")).train
    return example


def test_media_come_from_their_place_as_from_a_file(tmp_path: Path) -> None:
    texts = [("a.txt", "red"), ("b.txt", "hum"), ("c.txt", "it moves")]
    files: Files = [("a.png", picture(200)), ("b.wav", sound()), ("c.mp4", animation()), *texts]
    write_shard(tmp_path / "s.tar", files)
    made = examples(shards=str(tmp_path / "s.tar"), test=str(tmp_path / "s.tar"), side=16)
    image, audio, video = (example.media[0] for example in made.train)
    for name, data in files:
        (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    assert torch.equal(content(image), load_image(tmp_path / "a.png"))
    assert torch.equal(image_content(image, 12), load_image(tmp_path / "a.png", side=12))
    assert (audio.rate, audio.kind) == (packed.RATE, "audio")
    assert torch.equal(waveform(audio, packed.RATE), load_audio(tmp_path / "b.wav", rate=packed.RATE))
    # The content decides: a GIF in a member named .mp4 is a clip of three frames.
    assert torch.equal(content(video), load_clip(tmp_path / "c.mp4", side=16))
    assert frames(video, 2, side=8).shape == (2, 3, 8, 8)
    assert [example.targets for example in made.train] == [("red",), ("hum",), ("it moves",)]
    assert made.train[0].key == "s/a"


def test_the_package_webdataset_reads_the_same(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    for number in range(2):
        with webdataset.TarWriter(str(tmp_path / f"s-{number:06}.tar")) as writer:
            for n in range(3 * number, 3 * number + 3):
                writer.write({"__key__": f"deep/er/{n:03}", "png": picture(n), "txt": f"told {n}", "cls": b"3"})
    pattern = str(tmp_path / "s-{000000..000001}.tar")
    ours = examples(shards=pattern, test=pattern).train
    theirs = list(webdataset.WebDataset(pattern, shardshuffle=False))
    keys = [f"s-00000{n // 3}/{sample['__key__']}" for n, sample in enumerate(theirs)]
    assert [example.key for example in ours] == keys
    assert len(keys) == 6
    for example, sample in zip(ours, theirs):
        assert example.targets == (sample["txt"].decode(),)
        (tmp_path / "same.png").write_bytes(sample["png"])
        assert torch.equal(content(example.media[0]), load_image(tmp_path / "same.png"))


def test_both_tar_formats_and_long_names(tmp_path: Path) -> None:
    key = "folder/" + "long" * 60 + "ü"
    for format in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        path = tmp_path / f"{format}.tar"
        with tarfile.open(path, "w", format=format) as archive:
            for name, data in ((f"{key}.png", picture(3)), (f"{key}.txt", b"x")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        (example,) = examples(shards=str(path), test=str(path)).train
        assert example.key == f"{format}/{key}"
        assert content(example.media[0])[0, 0, 0] == 3


@pytest.mark.parametrize(
    ("record", "targets", "text"),
    [
        ({"caption": "a cat", "url": "x"}, ("a cat",), None),
        ({"text": ["a cat", "one  cat", "a cat"]}, ("a cat", "one cat"), None),
        ({"question": "what?", "answer": "a cat"}, ("a cat",), "what?"),
        ({"prompt": "see: <image>", "caption": "", "answer": "a cat"}, ("a cat",), "see:"),
    ],
)
def test_json_records(tmp_path: Path, record: dict[str, Any], targets: tuple[str, ...], text: str | None) -> None:
    example = one(tmp_path, [("a.jpg", picture(9, format="JPEG")), ("a.json", json.dumps(record))])
    assert example.targets == targets
    assert [part for part in example.prompt if isinstance(part, str)] == ([text] if text else [])
    assert isinstance(example.prompt[-1], Medium) == (text in (None, "see:"))


def test_the_caption_is_the_txt_where_both_are_there(tmp_path: Path) -> None:
    files: Files = [
        ("a.png", picture(9)),
        ("a.txt", "from txt"),
        ("a.json", '{"caption": "from json", "prompt": "say"}'),
    ]
    example = one(tmp_path, files)
    assert (example.targets, example.prompt[1]) == (("from txt",), "say")


def test_several_media_of_a_sample_go_by_kind_and_name(tmp_path: Path) -> None:
    files: Files = [("a.wav", sound()), ("a.txt", "x"), ("a.PNG", picture(1)), ("a.jpg", picture(2, format="JPEG"))]
    sources = [medium.source for medium in one(tmp_path, files).media]
    assert [source.name for source in sources if isinstance(source, Member)] == ["a.PNG", "a.jpg", "a.wav"]


def test_other_members_are_counted_and_ignored(tmp_path: Path) -> None:
    files = [*pairs(0, 30), ("0001.cls", "3"), ("0001.seg.png", picture(1)), ("0002.cls", "3"), ("README", "hello")]
    made = examples(shards=str(write_shard(tmp_path / "s.tar", files)))
    assert len(sides(made)) == 30
    assert (
        made.notes[-1]
        == "members that are neither media nor texts are ignored: 2 of .cls, 1 of .seg.png, 1 of .no ending"
    )


def test_samples_stay_on_their_side_when_shards_are_added(tmp_path: Path) -> None:
    write_shard(tmp_path / "s-0.tar", pairs(0, 60))
    few = {example.key for example in examples(shards=str(tmp_path / "s-0.tar")).test}
    write_shard(tmp_path / "s-1.tar", pairs(60, 200))
    made = load_examples(f"webdataset:shards={tmp_path}/s-{{0..1}}.tar")
    many = {example.key for example in made.test}
    assert few == {key for key in many if key.startswith("s-0/")}
    assert 8 <= len(many) <= 36  # 10 % of 200, give or take three standard deviations
    assert len(sides(made)) == 200


def test_a_limit_opens_no_further_shards(tmp_path: Path) -> None:
    write_shard(tmp_path / "s-0.tar", pairs(0, 4))
    write_shard(tmp_path / "test.tar", pairs(4, 8))
    (tmp_path / "s-1.tar").write_bytes(b"no archive")
    made = examples(shards=f"{tmp_path}/s-*.tar", test=str(tmp_path / "test.tar"), limit=3)
    assert (len(made.train), len(made.test)) == (3, 3)


def test_patterns(tmp_path: Path) -> None:
    names = [f"a-{number:03}.tar" for number in (8, 9, 10)]
    for name in names:
        (tmp_path / name).touch()
    wanted = [tmp_path / name for name in names]
    assert expand(f"{tmp_path}/a-{{008..010}}.tar") == wanted
    assert expand(str(tmp_path)) == expand(f"{tmp_path}/a-*.tar") == wanted
    assert expand(f"{tmp_path}/a-0{{0..0}}{{8..9}}.tar") == wanted[:2]
    for pattern, message in [
        ("a-{008..012}.tar", "2 of 5 shards are missing, the first is .*a-011.tar"),
        ("b-*.tar", "no shard"),
        ("absent.tar", "1 of 1 shards are missing"),
        ("a-{9..8}.tar", "must stand for 1 to 100000 shards"),
        ("a-{0..99999999999}.tar", "must stand for 1 to 100000 shards"),
        ("a-{0..999}{0..999}.tar", "must stand for 1 to 100000 shards"),
    ]:
        with pytest.raises(LayoutError, match=message):
            expand(f"{tmp_path}/{pattern}")


def test_samples_without_a_partner_are_named_counted_or_left_out(tmp_path: Path) -> None:
    files = [
        *pairs(0, 30),
        ("lone.png", picture(1)),
        ("silent.txt", "x"),
        ("blank.png", picture(2)),
        ("blank.txt", "\n"),
    ]
    shard = str(write_shard(tmp_path / "s.tar", files))
    with pytest.raises(
        LayoutError, match=r"3 samples lack a medium or a text, the first is .*s.tar:lone: complete them"
    ):
        examples(shards=shard)
    made = examples(shards=shard, skip_missing=True)
    assert len(sides(made)) == 30
    assert "3 samples without medium or text are left out" in made.notes[1]


def test_empty_shards_are_named_counted_or_left_out(tmp_path: Path) -> None:
    write_shard(tmp_path / "s-0.tar", pairs(0, 30))
    write_shard(tmp_path / "s-1.tar", [])
    with pytest.raises(LayoutError, match=r"1 shards are empty, the first is .*s-1\.tar"):
        examples(shards=str(tmp_path))
    assert "1 empty shards are left out" in examples(shards=str(tmp_path), skip_missing=True).notes[1]


def test_a_key_in_two_shards_is_an_error(tmp_path: Path) -> None:
    write_shard(tmp_path / "s-0.tar", pairs(0, 3))
    write_shard(tmp_path / "s-1.tar", pairs(2, 5))
    with pytest.raises(LayoutError, match=r"the key 0002 is in .*s-0\.tar and in .*s-1\.tar"):
        examples(shards=str(tmp_path))
    # Training and test shards may both start at 0.
    made = examples(shards=str(tmp_path / "s-0.tar"), test=str(tmp_path / "s-1.tar"))
    assert (made.train[2].key, made.test[0].key) == ("s-0/0002", "s-1/0002")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([("a.png", b"x"), ("a.png", b"y")], "s.tar:a.png is there twice"),
        ([("../a.png", b"x")], "'../a.png', which leaves the archive"),
        ([("/etc/a.png", b"x")], "'/etc/a.png', which leaves the archive"),
        ([("b/../../a.png", b"x")], "which leaves the archive"),
        ([("a.txt", b"\xff\xfe")], "s.tar:a.txt is not UTF-8"),
        ([("a.json", "{")], "s.tar:a.json is not JSON"),
        ([("a.json", "[1]")], "s.tar:a.json must be an object"),
        ([("a.json", "[" * 100_000)], "s.tar:a.json is not JSON"),
        ([("a.txt", b"x" * (2**20 + 1))], "s.tar:a.txt has 1048577 bytes; 1048576 are allowed"),
        ([("a.txt", b"x" * 10_001)], "s.tar:a: a text of 10001 characters"),
        ([("a.txt", b"a\0b")], "s.tar:a: a text holds NUL"),
        ([("a.png", b"x"), ("a.json", '{"caption": 3}')], "s.tar:a: a text is wanted, not int"),
        ([("a.png", b"x"), ("a.json", '{"caption": "x", "prompt": "<audio>"}')], "has the mark <image> 0 times for 1"),
    ],
)
def test_hostile_members_are_refused(tmp_path: Path, files: Files, message: str) -> None:
    shard = write_shard(tmp_path / "s.tar", files)
    with pytest.raises(LayoutError, match=message):
        examples(shards=str(shard), skip_missing=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.tar"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        member = tarfile.TarInfo("a.png")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(LayoutError, match=r"s\.tar:a\.png is a link, a device or sparse"):
        examples(shards=str(tmp_path / "s.tar"))


def test_folders_within_a_shard_are_harmless(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        folder = tarfile.TarInfo("deep")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in (("deep/a.png", picture(4)), ("deep/a.txt", b"x")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    (example,) = examples(shards=str(tmp_path / "s.tar"), test=str(tmp_path / "s.tar")).train
    assert content(example.media[0])[0, 0, 0] == 4


def damage(data: bytes, how: str) -> bytes:
    header = 2 * 512  # of the first member and its only block
    return {
        "empty": b"",
        "noise": bytes(range(256)) * 8,
        "cut in a member": data[: header - 100],
        "cut in a header": data[: header + 100],
        "cut between members": data[:header],
        "a header overwritten": data[:header] + b"\xaa" * 512 + data[header + 512 :],
        "a size that is too large": data[: header + 124] + b"77777777777\0" + data[header + 136 :],
    }[how]


@pytest.mark.parametrize(
    "how",
    ["empty", "noise", "cut in a member", "cut in a header", "cut between members", "a header overwritten",
     "a size that is too large"],
)  # fmt: skip
def test_damaged_shards_are_named_and_lose_nothing_in_silence(tmp_path: Path, how: str) -> None:
    shard = write_shard(tmp_path / "s.tar", [(f"{n}.txt", "x") for n in range(4)])
    shard.write_bytes(damage(shard.read_bytes(), how))
    with pytest.raises(LayoutError, match=r"s\.tar is (not a whole|damaged or cut off)"):
        examples(shards=str(shard), skip_missing=True)


@pytest.mark.parametrize("mode", ["w:gz", "w:xz"])
def test_compressed_shards_are_refused(tmp_path: Path, mode: Any) -> None:
    with tarfile.open(tmp_path / "s.tar", mode) as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
    with pytest.raises(LayoutError, match="compressed one must be decompressed"):
        examples(shards=str(tmp_path / "s.tar"))


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.png", picture(1)[:40], "cannot be decoded"),
        ("a.png", b"", "empty file"),
        ("a.png", b"<svg/>", "cannot be decoded"),
        ("a.png", bomb(), "decompression bomb"),
        ("a.wav", sound()[:-50], "cut off"),
        ("a.wav", sound(2.0), "2.0 s long, more than 1"),
        ("a.wav", b"not a sound", "not a sound"),
        ("a.mp4", b"not a clip", "cannot be decoded"),
    ],
)
def test_damaged_media_are_named_by_shard_and_member(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    shard = str(write_shard(tmp_path / "s.tar", [(name, data), ("a.txt", "x")]))
    (example,) = examples(shards=shard, test=shard, max_seconds=1.0).train
    with pytest.raises(MediaError) as raised:
        content(example.media[0])
    assert str(raised.value.path) == f"{shard}:{name}"
    assert reason in raised.value.reason
    assert "trillium-" not in str(raised.value)  # the temporary file is nobody's business


def test_too_large_members_are_refused_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = one(tmp_path, [("a.png", picture(1)), ("a.txt", "x")])
    monkeypatch.setitem(packed.MAX_BYTES, "image", 20)
    with pytest.raises(MediaError, match=r"one\.tar:a\.png: \d+ bytes, more than 20"):
        content(example.media[0])


def test_a_shard_that_goes_or_shrinks_is_damage(tmp_path: Path) -> None:
    example = one(tmp_path, [("a.png", picture(1)), ("a.txt", "x")])
    shard = tmp_path / "one.tar"
    shard.write_bytes(shard.read_bytes()[:530])
    with pytest.raises(MediaError, match=r"one\.tar:a\.png: the shard has become shorter"):
        content(example.media[0])
    shard.unlink()
    with pytest.raises(MediaError, match=r"one\.tar:a\.png: No such file"):
        content(example.media[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"limit": -1}, "limit"), ({"test_fraction": 0.0}, "test_fraction"), ({"max_seconds": 0.0}, "max_seconds"),
     ({"side": 4}, "side must be in")],
)  # fmt: skip
def test_options_out_of_range(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        examples(shards=str(tmp_path), **options)
