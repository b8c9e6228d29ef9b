"""Speech by eSpeak: the same bits for the same words, whoever asks and whenever."""

import hashlib
import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest
import torch

from core.pretrained.sources import MissingData
from multimodal.datasets.espeak import Synthesiser

TEXTS = ("seven yellow birds", "the window is open", "a quiet garden")
NOISY = "en-us+whisperf"
"""A voice that is made of noise and flutter, where the library's hidden state shows most."""


@pytest.fixture(scope="module")
def synthesiser() -> Synthesiser:
    try:
        return Synthesiser()
    except MissingData as error:
        pytest.skip(str(error))


def digest(text: str) -> bytes:
    return Synthesiser().say(text, voice=NOISY)[0].numpy().tobytes()


def test_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(MissingData, match=r"speech for any text.*`pip install espeakng-loader==0\.2\.4`"):
        Synthesiser()


def test_speech_is_a_waveform_of_plausible_length(synthesiser: Synthesiser):
    waveform_S, rate = synthesiser.say("seven three one")
    assert rate == 22_050
    assert waveform_S.dtype == torch.float32
    assert waveform_S.ndim == 1
    assert 0.7 < len(waveform_S) / rate < 2.5
    assert 0.1 < waveform_S.abs().max() <= 1


def test_speed_and_pitch_are_heard(synthesiser: Synthesiser):
    def length(speed_wpm: int) -> int:
        return len(synthesiser.say(TEXTS[1], speed_wpm=speed_wpm)[0])

    assert length(120) > 1.4 * length(240)

    def period_s(pitch: int) -> float:
        """By autocorrelation of a long vowel, between 60 and 250 Hz."""
        waveform_S, rate = synthesiser.say("ah ah ah ah", pitch=pitch, speed_wpm=80)
        middle_S = waveform_S[len(waveform_S) // 4 :][: rate // 5]
        correlation = torch.fft.irfft(torch.fft.rfft(middle_S, 2**15).abs() ** 2)
        shortest, longest = rate // 250, rate // 60
        return (shortest + int(correlation[shortest:longest].argmax())) / rate

    assert period_s(50) > 1.2 * period_s(100)


def test_the_same_text_gives_the_same_bits_whatever_was_said_before(synthesiser: Synthesiser):
    first = {text: digest(text) for text in TEXTS}
    for voice in ("en-us", "en+f2", "en-us+klatt4", "en-us+Storm"):
        synthesiser.say("something else", voice=voice)
    assert {text: digest(text) for text in reversed(TEXTS)} == first
    assert len(set(first.values())) == len(TEXTS)


def test_another_process_gives_the_same_bits(synthesiser: Synthesiser):
    script = (
        "import hashlib; from multimodal.datasets.espeak import Synthesiser; "
        f"print(hashlib.sha256(Synthesiser().say({TEXTS[0]!r}, voice={NOISY!r})[0].numpy().tobytes()).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == hashlib.sha256(digest(TEXTS[0])).hexdigest()


def test_threads_and_forked_processes_do_not_disturb_one_another(synthesiser: Synthesiser):
    expected = [digest(text) for text in TEXTS * 4]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(digest, TEXTS * 4)) == expected
    if "fork" in multiprocessing.get_all_start_methods():
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
            assert list(pool.map(digest, TEXTS * 4)) == expected


def test_a_synthesiser_can_be_pickled(synthesiser: Synthesiser):
    copy = pickle.loads(pickle.dumps(synthesiser))
    assert torch.equal(copy.say(TEXTS[0])[0], synthesiser.say(TEXTS[0])[0])


def test_variants_differ_and_are_all_repeatable(synthesiser: Synthesiser):
    variants = synthesiser.variants()
    assert len(variants) == 102
    assert {"f1", "Storm", "Mr serious"} < set(variants)
    spoken = {}
    for variant in (*variants[::2], *reversed(variants[::2])):
        said = synthesiser.say("seven", voice=f"en-us+{variant}")[0].numpy().tobytes()
        assert spoken.setdefault(variant, said) == said
    assert len(set(spoken.values())) > 0.9 * len(spoken)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"speed_wpm": 20}, r"speed_wpm must be in \[80, 450\], got 20"),
        ({"pitch": 101}, r"pitch must be in \[0, 100\], got 101"),
        ({"voice": "en-us+nobody"}, "no voice 'en-us\\+nobody'"),
        ({"voice": "en-us+../../x"}, "no voice"),
        ({"voice": "klingonese"}, "does not know the language"),
        ({"voice": "+f2"}, "no voice"),
    ],
)
def test_bad_options_are_refused(synthesiser: Synthesiser, options: dict, words: str):
    with pytest.raises(ValueError, match=words):
        synthesiser.say("hello", **options)
    # The library is usable after a refusal.
    assert len(synthesiser.say("hello")[0]) > 1000


@pytest.mark.parametrize("text", ["", "   ", "..."])
def test_a_text_without_words_is_refused(synthesiser: Synthesiser, text: str):
    with pytest.raises(ValueError, match="nothing to say"):
        synthesiser.say(text)
