"""Speaking, learnt end to end from tones: the word `high` is a high tone. A judge of its own tells tones by pitch.

Shape suffix: S = samples.
"""

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from core.cli import main
from core.config import ModelConfig, OptimConfig
from core.errors import RunError, UserError
from core.training import configfile
from multimodal.config import CaptioningConfig
from multimodal.media.audio import load_audio, save_audio
from multimodal.speaking import trainer as trainer_module
from multimodal.speaking.config import SpeakingConfig
from multimodal.speaking.data import load_spoken
from multimodal.speaking.speaker import CannotSpeak, Speaker
from multimodal.speaking.trainer import SpeakingTrainer

RATE = 16_000
HERTZ = {"low": 300.0, "mid": 700.0, "high": 1500.0}
WORD = RATE // 5
GAP = RATE // 10
TEST = ("low high", "high mid", "mid mid low", "high low mid", "mid low high low")


def tones(text: str) -> Tensor:
    """A tone for each word, with silence between them."""
    times_S = torch.arange(WORD) / RATE
    parts = [0.5 * torch.sin(2 * math.pi * HERTZ[word] * times_S) for word in text.split()]
    return torch.cat([torch.nn.functional.pad(part, (0, GAP)) for part in parts])[:-GAP]


class ToneJudge:
    """Writes the word of the loudest tone of every stretch of sound."""

    description = "pitch"

    def hear(self, sounds: Sequence[Tensor]) -> dict[str, list[str]]:
        return {"pitch": [self._words(sound) for sound in sounds]}

    def _words(self, sound_S: Tensor) -> str:
        words: list[str] = []
        step = RATE // 20
        previous = ""
        for piece in sound_S.split(step):
            if len(piece) < step or float(piece.square().mean()) < 0.02:
                previous = ""
                continue
            spectrum = torch.fft.rfft(piece * torch.hann_window(len(piece))).abs()
            hertz = float(spectrum.argmax()) * RATE / len(piece)
            word = min(HERTZ, key=lambda name: abs(HERTZ[name] - hertz))
            if word != previous:
                words.append(word)
            previous = word
        return " ".join(words)


def write_manifest(folder: Path) -> Path:
    texts = [" ".join(words) for count in (1, 2, 3, 4) for words in itertools.product(HERTZ, repeat=count)]
    rows = []
    for number, text in enumerate(texts):
        save_audio(folder / f"{number}.wav", tones(text), RATE)
        split = "test" if text in TEST else "train"
        rows.append({"audio": f"{number}.wav", "caption": text.capitalize() + ".", "split": split})
    path = folder / "tones.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def config(folder: Path, manifest: Path, **changes: Any) -> SpeakingConfig:
    settings: dict[str, Any] = {
        "data": str(manifest), "out": folder / "run", "steps": 150, "batch_size": 16, "num_codes": 24, "chunk": 4,
        "whisper": False, "device": "cpu", "precision": "fp32",
        "model": ModelConfig(width=64, num_layers=2, num_heads=2),
        "optim": OptimConfig(optimizer="muon", lr=3e-3, warmup_steps=10),
    }  # fmt: skip
    return SpeakingConfig(**{**settings, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SpeakingTrainer:
    folder = tmp_path_factory.mktemp("speaking")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            trainer_module, "find_judges", lambda config, texts, runtime: ([ToneJudge()], ["Whisper does not listen"])
        )
        trainer = SpeakingTrainer(config(folder, write_manifest(folder)), quiet=True)
        trainer.train()
    return trainer


def rows_of(run: SpeakingTrainer) -> dict[str, Any]:
    stored = json.loads((run.config.out / "eval.json").read_text(encoding="utf-8"))
    return {row["name"]: row for row in stored["rows"]}


def test_the_judge_itself() -> None:
    assert ToneJudge().hear([tones("low mid high"), torch.zeros(0), tones("mid mid")]) == {
        "pitch": ["low mid high", "", "mid mid"]
    }


def test_held_out_texts_are_spoken_in_the_right_tones(run: SpeakingTrainer) -> None:
    rows = rows_of(run)
    assert rows["real sounds"]["wer/pitch"]["value"] == 0
    assert rows["real codes"]["wer/pitch"]["value"] == 0
    assert rows["model"]["wer/pitch"]["value"] <= 0.2
    assert (
        rows["model"]["wer/pitch"]["low"] <= rows["model"]["wer/pitch"]["value"] <= rows["model"]["wer/pitch"]["high"]
    )


def test_the_control_is_wrong(run: SpeakingTrainer) -> None:
    rows = rows_of(run)
    assert rows["another text"]["wer/pitch"]["value"] > 0.5
    assert rows["another text"]["code_error_rate"] > 2 * rows["model"]["code_error_rate"]


def test_notes_say_who_did_not_listen(run: SpeakingTrainer) -> None:
    notes = json.loads((run.config.out / "eval.json").read_text(encoding="utf-8"))["notes"]
    assert "Whisper does not listen" in notes
    assert "wer/NAME: by pitch" in notes


def test_samples_can_be_played(run: SpeakingTrainer) -> None:
    (path,) = (run.config.out / "samples").glob("step-*.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [row["reference"] for row in rows] == [spoken.text for spoken in run.test_spoken]
    for row in rows:
        heard = ToneJudge().hear([load_audio(run.config.out / row["audio"])])["pitch"]
        assert heard == [row["text"]]
    assert (run.config.out / "report.html").read_text(encoding="utf-8").count("<audio") == len(rows)


def test_the_command_writes_a_sound(run: SpeakingTrainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "said.wav"
    assert main(["speak", str(run.config.out), "Low, HIGH!", "--out", str(out), "--device", "cpu"]) == 0
    sound = load_audio(out)
    assert capsys.readouterr().out == f"{out}\t{len(sound) / RATE:.2f} s\n"
    assert ToneJudge().hear([sound]) == {"pitch": ["low high"]}


def test_texts_longer_than_those_learnt_are_spoken_in_pieces(run: SpeakingTrainer) -> None:
    assert run.speaker.limits.most_words == 4
    assert run.speaker.pieces("low low low low high mid") == ["low low low low", "high mid"]
    long = run.speaker.speak("low high low mid low high")
    alone = run.speaker.speak("low high low mid")
    assert torch.equal(run.speaker.codec.decode(run.speaker.codes(["low high low mid"])[0]), alone)
    assert len(long) > 1.2 * len(alone)


def test_a_text_sounds_the_same_whatever_is_spoken_with_it(run: SpeakingTrainer) -> None:
    texts = ["low", "high mid", "mid low high"]
    together = run.speaker.codes(texts, seed=3)
    assert together == [run.speaker.codes([text], seed=3)[0] for text in texts]


def test_saved_loaded_and_resumed_speakers_agree(run: SpeakingTrainer, tmp_path: Path) -> None:
    expected = run.speaker.codes(["low mid", "high"])
    run.save(tmp_path)
    for folder in (run.config.out, tmp_path):
        assert Speaker.load(folder, device="cpu").codes(["low mid", "high"]) == expected
    resumed = SpeakingTrainer.load(run.config.out, device="cpu")
    assert resumed.speaker.codes(["low mid", "high"]) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("low 7", "'7' in 'low 7' cannot be spoken"),
        ("high" * 9, "longer than any text of the run"),
        ("...", "nothing to say"),
    ],
)
def test_what_cannot_be_spoken(
    run: SpeakingTrainer, tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CannotSpeak, match=message):
        run.speaker.speak(text)
    out = tmp_path / "said.wav"
    assert main(["speak", str(run.config.out), text, "--out", str(out), "--device", "cpu"]) != 0
    printed = capsys.readouterr()
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert not out.exists()


def test_codes_are_never_letters_and_end_in_time(run: SpeakingTrainer) -> None:
    limits = run.speaker.limits
    for codes in run.speaker.codes(["low", "mid high low"], seed=1):
        assert codes
        assert all(0 <= code < 24 for code in codes)
        assert len(codes) <= limits.most_codes + 1


def test_folders_that_hold_no_speaker(run: SpeakingTrainer, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run directory"):
        Speaker.load(tmp_path)
    configfile.write(tmp_path / configfile.NAME, CaptioningConfig(), None)
    with pytest.raises(RunError, match="not a speaking run"):
        Speaker.load(tmp_path)
    configfile.write(tmp_path / configfile.NAME, run.config, None)
    with pytest.raises(RunError, match="train the run first"):
        Speaker.load(tmp_path)


def test_sounds_that_nothing_can_be_learnt_from(tmp_path: Path) -> None:
    save_audio(tmp_path / "silent.wav", torch.zeros(RATE), RATE)
    for name, word in (("tone.wav", "low"), ("mid.wav", "mid")):
        save_audio(tmp_path / name, tones(word), RATE)
    path = tmp_path / "bad.jsonl"
    for name, caption, message in (
        ("silent.wav", "low", "is silent"),
        ("tone.wav", "...", "not one sound with a text"),
    ):
        rows = [
            {"audio": name, "caption": caption, "split": "train"},
            {"audio": "mid.wav", "caption": "mid", "split": "test"},
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        with pytest.raises(UserError, match=message):
            load_spoken(config(tmp_path, path))


@pytest.mark.parametrize(
    "changes",
    [{"num_codes": 6401}, {"hop": 32}, {"chunk": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"label_smoothing": 1.0}],
)
def test_settings_out_of_range(changes: dict[str, Any]) -> None:
    (name,) = changes
    with pytest.raises(ValueError, match=name):
        SpeakingConfig(**changes)
