"""Speech for any text, by eSpeak NG out of the package `espeakng-loader`.

Shape suffix: S = samples.
"""

import _ctypes
import ctypes
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.pretrained.sources import MissingData, source

SPEEDS_WPM = (80, 450)
"""Slowest and fastest speech, in words a minute, that eSpeak makes."""
PITCHES = (0, 100)
"""Lowest and highest pitch; 50 is the voice's own."""

# From eSpeak's speak_lib.h.
_OUTPUT_SYNCHRONOUS = 2
_DONT_EXIT = 0x8000
_RATE, _PITCH = 1, 3
_UTF8 = 1
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)

_UNREPEATABLE = ("Reed", "caleb")
"""Variants whose noise comes from the C library's random numbers, which are not ours to seed: not listed."""
_LOCK = threading.Lock()
"""The library speaks for one caller at a time."""


class Synthesiser:
    """Speech from text, a pure function of its arguments.

    eSpeak keeps the phases of its oscillators from one text to the next, in variables that nothing resets: the same
    words sound a little different the second time. So the library is loaded anew for every text, which takes 3 of the
    4 ms that a sentence takes. (Were the same library file also loaded by something else in the process, it would stay
    loaded, and would lose its state to ours.)

    May be used from several threads, and from several processes at once: an object holds two paths and no state of the
    library, so that it can be pickled and survives a fork.

    Raises:
        MissingData: the package is not installed.

    References:
        eSpeak NG, https://github.com/espeak-ng/espeak-ng: speech by rule, from formants, without recordings.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            entry = source("espeakng-loader")
            raise MissingData(f"{entry.name} ({entry.purpose}) is not on this machine: {entry.how_to_get}") from error
        self._library = str(espeakng_loader.get_library_path())
        self._data = str(espeakng_loader.get_data_path())

    def variants(self) -> Sequence[str]:
        """Names of the ways to speak, such as `f2` or `Storm`, sorted; a voice is a language and one of them."""
        folder = Path(self._data) / "voices" / "!v"
        return sorted({path.name for path in folder.iterdir()} - set(_UNREPEATABLE))

    def say(self, text: str, *, voice: str = "en-us", speed_wpm: int = 175, pitch: int = 50) -> tuple[Tensor, int]:
        """Speak a text.

        Args:
            text: what to say; letters, digits and punctuation.
            voice: a language, or a language, `+` and a variant: `en-us`, `en+f2`
                (`en` is British).
            speed_wpm: words a minute, in `SPEEDS_WPM`.
            pitch: in `PITCHES`.

        Returns:
            waveform_S, float32 in [-1, 1], and its samples a second (22,050).

        Raises:
            ValueError: a number out of range, an unknown voice, or a text that leaves nothing to say.
        """
        for name, value, (least, most) in (("speed_wpm", speed_wpm, SPEEDS_WPM), ("pitch", pitch, PITCHES)):
            if not least <= value <= most:
                raise ValueError(f"{name} must be in [{least}, {most}], got {value}")
        language, _, variant = voice.partition("+")
        # Of an unknown variant eSpeak would take no notice.
        if not language or (variant and not (Path(self._data) / "voices" / "!v" / variant).is_file()):
            raise ValueError(f"there is no voice {voice!r}: give a language, or a language + a variant, as en-us+f2")
        with _LOCK:
            library = ctypes.CDLL(self._library)
            try:
                samples_S, rate = self._say(library, text, voice, speed_wpm, pitch)
            finally:
                _unload(library)
        if not samples_S.any():
            raise ValueError(f"there is nothing to say in {text!r}")
        return torch.from_numpy(samples_S.astype(np.float32) / 2**15), rate

    def _say(self, library: ctypes.CDLL, text: str, voice: str, speed_wpm: int, pitch: int) -> tuple[np.ndarray, int]:
        """samples_S int16, and the rate."""
        rate = library.espeak_Initialize(_OUTPUT_SYNCHRONOUS, 0, self._data.encode(), _DONT_EXIT)
        if rate <= 0:
            raise RuntimeError(f"eSpeak does not start with the data in {self._data} (code {rate})")
        try:
            parts: list[np.ndarray] = []

            def collect(samples: "ctypes._Pointer[ctypes.c_short]", count: int, _: int) -> int:
                if count > 0:
                    parts.append(np.ctypeslib.as_array(samples, (count,)).copy())
                return 0

            # A name of its own, so that Python keeps it while C holds its address.
            callback = _CALLBACK(collect)
            library.espeak_SetSynthCallback(callback)
            # By default it is seeded with the time.
            library.espeak_ng_SetRandSeed(ctypes.c_long(1))
            if library.espeak_SetVoiceByName(voice.encode()) != 0:
                raise ValueError(f"there is no voice {voice!r}: eSpeak does not know the language")
            library.espeak_SetParameter(_RATE, speed_wpm, 0)
            library.espeak_SetParameter(_PITCH, pitch, 0)
            spoken = text.encode()
            code = library.espeak_Synth(spoken, ctypes.c_size_t(len(spoken) + 1), 0, 0, 0, _UTF8, None, None)
            if code != 0:
                raise RuntimeError(f"eSpeak could not say {text!r} (code {code})")
            return np.concatenate(parts) if parts else np.zeros(0, np.int16), rate
        finally:
            library.espeak_Terminate()


def _unload(library: ctypes.CDLL) -> None:
    if sys.platform == "win32":
        _ctypes.FreeLibrary(library._handle)
    else:
        _ctypes.dlclose(library._handle)
