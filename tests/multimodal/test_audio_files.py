"""Sounds: every format, rate and number of channels gives a right waveform, in bounded time and memory."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from multimodal.media.audio import load_audio, resample, save_audio
from multimodal.media.errors import MediaError, MissingDecoder

CONTAINERS = {
    "x.m4a": ("ipod", "aac"),
    "x.mp4": ("mp4", "aac"),
    "x.aac": ("adts", "aac"),
    "x.opus": ("ogg", "libopus"),
    "x.webm": ("webm", "libopus"),
    "x.mka": ("matroska", "flac"),
}
SOUND_FILES = {"x.wav": "PCM_16", "x.flac": "PCM_16", "x.ogg": "VORBIS", "x.mp3": None}


def tone(rate: int, seconds: float = 1.0, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def write_container(path: Path, samples: np.ndarray, rate: int, *, format: str, codec: str) -> Path:
    with av.open(str(path), "w", format=format) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.layout = "mono"
        size = 960 if codec == "libopus" else 1024
        for start in range(0, len(samples), size):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + size], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = rate, start
            if codec == "flac":
                frame = av.AudioResampler(format="s16").resample(frame)[0]
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def strongest_hertz(waveform: Tensor, rate: int) -> float:
    return float(np.abs(np.fft.rfft(waveform)).argmax() * rate / len(waveform))


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_any_rate_becomes_the_wanted_one(tmp_path: Path, rate: int):
    soundfile.write(tmp_path / "x.wav", tone(rate), rate)
    loaded = load_audio(tmp_path / "x.wav")
    assert loaded.shape == (16_000,)
    assert loaded.dtype == torch.float32
    # A sine is known at every moment: compared with the same tone sampled at 16 kHz, away from the edges.
    assert np.abs(loaded.numpy() - tone(16_000))[500:-500].max() < 2e-3


@pytest.mark.parametrize("name", SOUND_FILES)
def test_sound_files(tmp_path: Path, name: str):
    soundfile.write(tmp_path / name, tone(44_100), 44_100, subtype=SOUND_FILES[name])
    # The content decides: under any name the same sound comes out.
    (tmp_path / "renamed.mp4").write_bytes((tmp_path / name).read_bytes())
    loaded = load_audio(tmp_path / name)
    assert abs(len(loaded) - 16_000) <= 16_000 * 0.05
    assert abs(strongest_hertz(loaded, 16_000) - 440) < 2
    assert loaded.abs().max() == pytest.approx(0.5, abs=0.02)
    assert torch.equal(load_audio(tmp_path / "renamed.mp4"), loaded)


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers(tmp_path: Path, name: str):
    format, codec = CONTAINERS[name]
    path = write_container(tmp_path / name, tone(48_000), 48_000, format=format, codec=codec)
    (tmp_path / "renamed.wav").write_bytes(path.read_bytes())
    loaded = load_audio(path)
    assert abs(len(loaded) - 16_000) <= 16_000 * 0.05
    assert abs(strongest_hertz(loaded, 16_000) - 440) < 2
    # Encoders add noise, but the power of a sine of 0.5 stays.
    assert loaded[2_000:-2_000].square().mean().sqrt() == pytest.approx(0.5 / 2**0.5, abs=0.01)
    assert torch.equal(load_audio(tmp_path / "renamed.wav"), loaded)


def test_a_lossless_container_agrees_with_libsndfile(tmp_path: Path):
    samples = tone(16_000)
    path = write_container(tmp_path / "x.mka", samples, 16_000, format="matroska", codec="flac")
    save_audio(tmp_path / "x.flac", torch.from_numpy(samples), 16_000)
    torch.testing.assert_close(load_audio(path), load_audio(tmp_path / "x.flac"), atol=1 / 32_768, rtol=0)


def test_channels_are_averaged(tmp_path: Path):
    # By hand: the mean of 0.5, 0.25 and -0.15 is 0.2.
    channels = np.tile(np.array([0.5, 0.25, -0.15], np.float32), (800, 1))
    soundfile.write(tmp_path / "x.wav", channels, 8_000, subtype="FLOAT")
    torch.testing.assert_close(load_audio(tmp_path / "x.wav", rate=8_000), torch.full((800,), 0.2))


def test_float_files_are_clipped(tmp_path: Path):
    soundfile.write(tmp_path / "x.wav", np.array([0.0, 1.5, -3e38, 0.5], np.float32), 8_000, subtype="FLOAT")
    assert load_audio(tmp_path / "x.wav", rate=8_000).tolist() == [0.0, 1.0, -1.0, 0.5]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, value: float):
    samples = tone(8_000)
    samples[100] = value
    soundfile.write(tmp_path / "x.wav", samples, 8_000, subtype="FLOAT")
    with pytest.raises(MediaError, match="not finite"):
        load_audio(tmp_path / "x.wav")


def test_no_samples_are_refused(tmp_path: Path):
    soundfile.write(tmp_path / "x.wav", np.zeros(0, np.float32), 8_000)
    with pytest.raises(MediaError, match="holds no samples"):
        load_audio(tmp_path / "x.wav")


@pytest.mark.parametrize("format", ["AIFF", "AU", "CAF", "W64"])
def test_other_formats_are_refused(tmp_path: Path, format: str):
    # libsndfile reads more formats than these; not all of them tell when they were cut off.
    soundfile.write(tmp_path / "x.wav", tone(8_000), 8_000, format=format, subtype="PCM_16")
    with pytest.raises(MediaError, match="not a sound in a format that is read here"):
        load_audio(tmp_path / "x.wav")


@pytest.mark.parametrize("rate", [44_101, 15_999, 7_919])
def test_awkward_rates_need_no_gigabytes(rate: int):
    # A filter for 44101 to 16000 exactly would have 700 million taps.
    loaded = resample(torch.from_numpy(tone(rate)), rate, 16_000)
    assert abs(len(loaded) - 16_000) <= 16
    assert abs(strongest_hertz(loaded, 16_000) - 440) <= 1


def test_too_long_sounds_are_refused_by_their_header(tmp_path: Path):
    save_audio(tmp_path / "x.flac", torch.zeros(8_000), 8_000)
    with pytest.raises(MediaError, match=r"1\.0 s long, more than 0\.5"):
        load_audio(tmp_path / "x.flac", max_seconds=0.5)
    path = write_container(tmp_path / "x.m4a", tone(48_000), 48_000, format="ipod", codec="aac")
    with pytest.raises(MediaError, match=r"1\.0 s long, more than 0\.5"):
        load_audio(path, max_seconds=0.5)
    assert len(load_audio(tmp_path / "x.flac", max_seconds=1.0)) == 16_000


def test_decoding_stops_where_the_header_told_nothing(tmp_path: Path):
    flac = tmp_path / "x.flac"
    save_audio(flac, torch.zeros(80_000), 8_000)
    # STREAMINFO starts at byte 8; its number of samples is the last 36 bits of 18 bytes, and 0 means unknown.
    data = bytearray(flac.read_bytes())
    assert int.from_bytes(data[18:26], "big") & (2**36 - 1) == 80_000
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    flac.write_bytes(data)
    adts = write_container(tmp_path / "x.aac", tone(48_000, 10), 48_000, format="adts", codec="aac")
    for path in (flac, adts):
        with pytest.raises(MediaError, match="longer than 5 s"):
            load_audio(path, max_seconds=5)
        assert len(load_audio(path)) == pytest.approx(160_000, rel=0.01)


def test_a_wav_that_was_cut_off_is_noticed(tmp_path: Path):
    save_audio(tmp_path / "x.wav", torch.zeros(8_000), 8_000)
    data = (tmp_path / "x.wav").read_bytes()
    (tmp_path / "x.wav").write_bytes(data[: len(data) // 2])
    with pytest.raises(MediaError, match="cut off: the header says 16000 bytes"):
        load_audio(tmp_path / "x.wav")
    # A program that writes to a pipe leaves the largest number as the length.
    streamed = data[:40] + struct.pack("<I", 0xFFFF_FFFF) + data[44:]
    (tmp_path / "x.wav").write_bytes(streamed)
    assert len(load_audio(tmp_path / "x.wav")) == 16_000


def test_a_ten_hour_silent_flac_costs_no_memory(tmp_path: Path):
    bomb, small = tmp_path / "bomb.flac", tmp_path / "small.flac"
    save_audio(small, torch.zeros(8_000), 8_000)
    with soundfile.SoundFile(str(bomb), "w", 8_000, 1, format="FLAC") as stream:
        block = np.zeros(8_000 * 600, np.int16)
        for _ in range(60):
            stream.write(block)
    assert soundfile.info(str(bomb)).duration == 36_000
    # The same without a length in its header.
    data = bytearray(bomb.read_bytes())
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    silent = tmp_path / "silent.flac"
    silent.write_bytes(data)
    # The peak of a process of its own, read where a parent's is not counted.
    script = """
import sys
from pathlib import Path
from multimodal.media.audio import load_audio
from multimodal.media.errors import MediaError
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
load_audio(Path(sys.argv[1]))
before = peak()
for name in sys.argv[2:]:
    try:
        load_audio(Path(name))
    except MediaError as error:
        print(error.reason)
print(peak() - before)
"""
    command = [sys.executable, "-c", script, str(small), str(bomb), str(silent)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    refused, stopped, growth_kb = result.stdout.splitlines()
    assert refused == "36000.0 s long, more than 60"
    assert stopped == "longer than 60 s"
    assert int(growth_kb) < 256 * 1024


@pytest.mark.parametrize("name", ["x.wav", "x.flac", "X.FLAC"])
def test_saving_and_loading(tmp_path: Path, name: str):
    samples = torch.from_numpy(tone(16_000))
    save_audio(tmp_path / name, samples, 16_000)
    torch.testing.assert_close(load_audio(tmp_path / name), samples, atol=1 / 32_768, rtol=0)


def test_what_cannot_be_saved(tmp_path: Path):
    for name in ("x.ogg", "x.mp3", "x"):
        with pytest.raises(ValueError, match=r"\.wav or \.flac"):
            save_audio(tmp_path / name, torch.zeros(10), 8_000)
    for waveform in (torch.zeros(1, 10), torch.zeros(10, dtype=torch.int16), torch.tensor([0.0, torch.nan])):
        with pytest.raises(ValueError, match="a waveform is finite"):
            save_audio(tmp_path / "x.wav", waveform, 8_000)
    with pytest.raises(ValueError, match="scale it down"):
        save_audio(tmp_path / "x.wav", torch.tensor([0.0, 2.0]), 8_000)
    assert not list(tmp_path.iterdir())


def test_arguments_are_checked(tmp_path: Path):
    with pytest.raises(ValueError, match="rate and max_seconds must be positive"):
        load_audio(tmp_path / "x.wav", rate=0)
    with pytest.raises(ValueError, match="rate and max_seconds must be positive"):
        load_audio(tmp_path / "x.wav", max_seconds=float("nan"))


def test_a_missing_decoder_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save_audio(tmp_path / "x.wav", torch.zeros(100), 8_000)
    aac = write_container(tmp_path / "x.m4a", tone(48_000), 48_000, format="ipod", codec="aac")
    monkeypatch.setitem(sys.modules, "soundfile", None)
    monkeypatch.setitem(sys.modules, "av", None)
    for path, package in ((tmp_path / "x.wav", "soundfile"), (aac, "av")):
        with pytest.raises(MissingDecoder, match=rf"{package}.*pip install 'trillium-lm\[media\]'"):
            load_audio(path)


def test_files_are_closed(tmp_path: Path):
    save_audio(tmp_path / "x.wav", torch.zeros(100), 8_000)
    write_container(tmp_path / "x.m4a", tone(48_000, 0.2), 48_000, format="ipod", codec="aac")
    (tmp_path / "bad.wav").write_bytes((tmp_path / "x.wav").read_bytes()[:50])
    (tmp_path / "bad.m4a").write_bytes((tmp_path / "x.m4a").read_bytes()[:500])
    load_audio(tmp_path / "x.m4a")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        load_audio(tmp_path / "x.wav")
        load_audio(tmp_path / "x.m4a")
        for name in ("bad.wav", "bad.m4a"):
            with pytest.raises(MediaError):
                load_audio(tmp_path / name)
    assert len(os.listdir("/proc/self/fd")) == before
