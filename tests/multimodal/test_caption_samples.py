"""What a report shows of an example."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from multimodal.examples import Example, Medium
from multimodal.media.decode import waveform
from multimodal.samples import sample_row


def test_media_without_files_are_written_once(tmp_path: Path) -> None:
    pytest.importorskip("soundfile")
    generator = torch.Generator().manual_seed(0)
    picture = torch.randint(256, (3, 6, 9), generator=generator, dtype=torch.uint8)
    clip = torch.randint(256, (5, 3, 6, 9), generator=generator, dtype=torch.uint8)
    sound = torch.rand(4000, generator=generator) - 0.5
    prompt = (
        "what",
        Medium("image", picture),
        Medium("audio", lambda: sound, 16_000),
        "and",
        Medium("video", clip, 10),
    )
    row = sample_row(Example(prompt, ("a  b", "c")), "a b", tmp_path)
    assert (row["prompt"], row["text"], row["reference"], row["ok"]) == ("what and", "a b", ["a  b", "c"], True)
    with Image.open(tmp_path / row["image"]) as image:
        assert torch.equal(torch.tensor(list(image.tobytes())).view(6, 9, 3).permute(2, 0, 1), picture.long())
    with Image.open(tmp_path / row["video"]) as frames:
        assert frames.n_frames == 5
    written = waveform(Medium("audio", tmp_path / row["audio"]), 16_000)
    torch.testing.assert_close(written, sound, atol=1e-4, rtol=0)
    again = sample_row(Example(prompt, ("x",)), "y", tmp_path)
    assert [again[kind] for kind in ("image", "audio", "video")] == [row[kind] for kind in ("image", "audio", "video")]
    assert (again["reference"], again["ok"]) == ("x", False)
    assert len(list((tmp_path / "samples" / "media").iterdir())) == 3


def test_files_are_shown_where_they_are(tmp_path: Path) -> None:
    files = [tmp_path / "data" / f"{number}.png" for number in range(2)]
    prompt = tuple(Medium("image", file) for file in files)
    assert sample_row(Example(prompt, ("x",)), "x", tmp_path / "run")["image"] == ["../data/0.png", "../data/1.png"]
    row = sample_row(Example((), ("x",)), "x", tmp_path / "run")
    assert row == {"text": "x", "reference": "x", "ok": True}
