"""Listeners that write down what they hear: how intelligible generated speech is, in word error rate.

Shape suffixes: S = samples, N = sounds, M = mel bands, T = frames of the spectrogram, L = tokens, V = vocabulary.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from core.pretrained.sources import MissingData, locate
from core.training.runtime import Runtime
from multimodal.encoders.ctranslate2 import read_whisper
from multimodal.encoders.whisper import MAX_SECONDS, RATE, SOURCE, WhisperMel
from multimodal.examples import Medium
from multimodal.metrics.words import normalise_words
from multimodal.speaking.config import SpeakingConfig
from multimodal.speaking.data import Spoken

BATCH = 16
LEAD = RATE // 2
"""Samples of silence before each sound that Whisper hears: without, it misses the first word now and then."""
_TOKENS_A_WORD = 4
_MOST_TOKENS = 440
"""Tokens that Whisper may write of one sound: some more than its words have; more than the last it cannot."""
_START, _NO_TIMES, _END = 50257, 50362, 50256
"""Of the English models: start of transcript, no timestamps, end of text. Larger ids than the end are markers."""
_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


class Judge(Protocol):
    """A recogniser."""

    description: str
    """Who it is, for the notes of a report."""

    def hear(self, sounds: Sequence[Tensor]) -> dict[str, list[str]]:
        """By name of a score, a normalised transcript for each waveform_S at 16 kHz."""
        ...


class RunJudge:
    """A captioning run of our own that recognises speech.

    Args:
        run: its directory.
        runtime: of the process; the run's own settings of it do not outlast the loading.

    Raises:
        RunError: not the directory of such a run.
    """

    def __init__(self, run: Path, runtime: Runtime) -> None:
        from multimodal.pipeline import CaptioningPipeline

        self.description = f"the run {run}"
        self._name = run.resolve().name
        self._pipeline = CaptioningPipeline.load(run, device=str(runtime.device))
        runtime.apply()

    def hear(self, sounds: Sequence[Tensor]) -> dict[str, list[str]]:
        """A transcript for each waveform_S at 16 kHz, by the name of the run."""
        # What has no samples has no words, and no encoder takes it.
        media = [Medium("audio", sound if len(sound) else torch.zeros(RATE // 10), RATE) for sound in sounds]
        texts: list[str] = []
        for start in range(0, len(media), BATCH):
            texts += self._pipeline.answer([[medium] for medium in media[start : start + BATCH]])
        return {self._name: [spelt(text) for text in texts]}


class WhisperJudge:
    """Whisper tiny.en: a recogniser of real speech that was trained on nothing of ours.

    It listens twice. For `whisper` it may write words of the vocabulary only, any number of them in any order: which of
    these words does it hear? For `whisper_open` it may write what it likes, and words without a context are then
    easily taken for others: "orange pencil" for "I'm in Japan".

    Args:
        vocabulary: the words.
        longest: words of the longest text.

    Raises:
        MissingData: transformers, or the weights, are not on this machine.

    References:
        Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision", arXiv:2212.04356.
    """

    def __init__(self, vocabulary: Collection[str], *, longest: int = 6) -> None:
        if find_spec("transformers") is None:
            raise MissingData("the package transformers, which runs Whisper as a judge, is not on this machine")
        folder = locate(SOURCE)
        from tokenizers import Tokenizer

        self.description = (
            f"Whisper tiny.en: `whisper` writes words of the {len(vocabulary)} there are, `whisper_open` any words"
        )
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._model = whisper_model(folder / "model.bin")
        self._suppressed = json.loads((folder / "config.json").read_text(encoding="utf-8"))["suppress_ids"]
        self._mel = WhisperMel(self._model.config.num_mel_bins)
        self._next = next_tokens(self._spellings(vocabulary))
        self._most_tokens = min(_TOKENS_A_WORD * max(longest, 6), _MOST_TOKENS)

    @torch.no_grad()
    def hear(self, sounds: Sequence[Tensor]) -> dict[str, list[str]]:
        """Transcripts for each waveform_S at 16 kHz, which counts to 29.5 s: `whisper` and `whisper_open`."""
        size = int(MAX_SECONDS * RATE)
        heard: dict[str, list[str]] = {"whisper": [], "whisper_open": []}
        for start in range(0, len(sounds), BATCH):
            cut = [sound[: size - LEAD] for sound in sounds[start : start + BATCH]]
            padded_NS = torch.stack([F.pad(sound, (LEAD, size - LEAD - len(sound))) for sound in cut])
            encoded = self._model.model.encoder(self._mel(padded_NS))
            for name, closed in (("whisper", True), ("whisper_open", False)):
                rows = self._write(encoded, len(cut), closed=closed)
                heard[name] += [spelt(self._tokenizer.decode(row)) for row in rows]
        return heard

    def _write(self, encoded: Any, count: int, *, closed: bool) -> list[list[int]]:
        """Greedy transcripts as tokens, without the end."""
        read_NL = torch.tensor([[_START, _NO_TIMES]]).expand(count, 2)
        written: list[list[int]] = [[] for _ in range(count)]
        within: list[tuple[int, ...]] = [()] * count  # the tokens of the word that is being written
        over = [False] * count
        cache: Any = None
        for step in range(self._most_tokens):
            output = self._model(
                encoder_outputs=encoded, decoder_input_ids=read_NL, past_key_values=cache, use_cache=True
            )
            cache = output.past_key_values
            logits_NV = output.logits[:, -1]
            logits_NV[:, self._suppressed] = -torch.inf
            logits_NV[:, _END + 1 :] = -torch.inf
            if step == 0:
                logits_NV[:, _END] = -torch.inf  # as Whisper itself begins: never with the end
            if closed:
                allowed_NV = torch.zeros_like(logits_NV, dtype=torch.bool)
                for row, tokens in enumerate(within):
                    allowed_NV[row, list(self._next[tokens] if step else self._next[()] - {_END})] = True
                logits_NV = logits_NV.masked_fill(~allowed_NV, -torch.inf)
            chosen = logits_NV.argmax(-1).tolist()
            for row, token in enumerate(chosen):
                over[row] = over[row] or token == _END
                if over[row]:
                    within[row] = ()
                    continue
                written[row].append(token)
                if closed:
                    longer = (*within[row], token)
                    within[row] = longer if longer in self._next else (token,)
            if all(over):
                break
            read_NL = torch.tensor(chosen)[:, None]
        return written

    def _spellings(self, vocabulary: Iterable[str]) -> list[tuple[int, ...]]:
        """The tokens of each word behind a space, in lower case and with a capital."""
        forms = sorted({form for word in vocabulary for form in (word, word.capitalize())})
        return [tuple(self._tokenizer.encode(f" {form}", add_special_tokens=False).ids) for form in forms]


def next_tokens(words: Iterable[tuple[int, ...]]) -> Mapping[tuple[int, ...], set[int]]:
    """What may follow the tokens of a word: more of it or, where it is whole, another word or the end.

    Args:
        words: tokens of each word.

    Returns:
        From the tokens so far to the next ones; () stands for the start of a text.
    """
    follow: dict[tuple[int, ...], set[int]] = {(): {_END}}
    whole = set(words)
    for word in whole:
        for length in range(len(word)):
            follow.setdefault(word[:length], set()).add(word[length])
    for word in whole:
        follow[word] = follow.get(word, set()) | follow[()]
    return follow


def find_judges(config: SpeakingConfig, texts: Sequence[Spoken], runtime: Runtime) -> tuple[list[Judge], list[str]]:
    """Who can listen on this machine, and notes on who cannot.

    Args:
        config: says who is wanted.
        texts: all that will be spoken, for the vocabulary and the longest transcript.
        runtime: of the run.

    Raises:
        RunError: `config.judge` is not the directory of a captioning run.
    """
    judges: list[Judge] = []
    if config.judge is not None:
        judges.append(RunJudge(config.judge, runtime))
    if not config.whisper:
        return judges, []
    try:
        longest = max(len(spoken.text.split()) for spoken in texts)
        judges.append(WhisperJudge({word for spoken in texts for word in spoken.text.split()}, longest=longest))
    except MissingData as error:
        return judges, [f"Whisper does not listen: {error}"]
    return judges, []


def spelt(text: str) -> str:
    """`normalise_words` with numbers below 100 in words, others digit by digit: what is said is the same."""
    return " ".join(
        _number(word) if word.isascii() and word.isdigit() else word for word in normalise_words(text).split()
    )


def _number(digits: str) -> str:
    value = int(digits)
    if len(digits) > 2 or (len(digits) == 2 and digits[0] == "0"):
        return " ".join(_ONES[int(digit)] for digit in digits)
    if value < 20:
        return _ONES[value]
    tens = _TENS[value // 10 - 2]
    return tens if value % 10 == 0 else f"{tens} {_ONES[value % 10]}"


def whisper_model(path: Path) -> Any:
    """Transformers' whole Whisper, in evaluation mode, from a CTranslate2 `model.bin`.

    Raises:
        DamagedData: not such a file.
    """
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    state = read_whisper(path)
    width, num_mels, _ = state["model.encoder.conv1.weight"].shape
    layers = {
        side: 1 + max(int(name.split(".")[3]) for name in state if name.startswith(f"model.{side}.layers."))
        for side in ("encoder", "decoder")
    }
    hidden = len(state["model.encoder.layers.0.fc1.weight"])
    config = WhisperConfig(
        vocab_size=len(state["model.decoder.embed_tokens.weight"]), num_mel_bins=num_mels, d_model=width,
        encoder_layers=layers["encoder"], decoder_layers=layers["decoder"],
        encoder_attention_heads=width // 64, decoder_attention_heads=width // 64,
        encoder_ffn_dim=hidden, decoder_ffn_dim=hidden, bos_token_id=_END, eos_token_id=_END, pad_token_id=_END,
        decoder_start_token_id=_START, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    model.load_state_dict(state)
    return model.eval()
