"""How well generated speech is understood, beside what tells whether that means anything."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor

from core.metrics.edits import edit_distance
from multimodal.metrics.words import WordScores, word_scores
from multimodal.speaking.data import Spoken
from multimodal.speaking.judge import Judge, spelt
from multimodal.speaking.speaker import Speaker

T = TypeVar("T")


class SpeechEvaluation:
    """Speaks held-out texts and lets judges listen.

    Args:
        speaker: the model.
        test: the held-out texts with real sounds.
        coded: the codes of the real sounds.
        judges: who listens; may be none.
        seed: of the speech and of the confidence intervals.
    """

    def __init__(
        self, speaker: Speaker, test: Sequence[Spoken], coded: Sequence[Sequence[int]], judges: Sequence[Judge], *,
        seed: int = 0,
    ) -> None:  # fmt: skip
        self.speaker = speaker
        self.test = test
        self.coded = coded
        self.judges = judges
        self.seed = seed
        self.codes: list[list[int]] = []
        """What the model wrote when it was scored last."""
        self.sounds: list[Tensor] = []
        """The same as waveforms."""
        self._transcripts: dict[str, list[str]] = {}

    @property
    def texts(self) -> list[str]:
        """The held-out texts."""
        return [spoken.text for spoken in self.test]

    def score(self) -> Mapping[str, float]:
        """Word error rate by each judge, and how far the codes are from the real ones.

        `code_error_rate` is edits of codes over codes, as a word error rate: it needs no judge, but two codes may sound
        alike, so that it is an upper bound of what is wrong.
        """
        self.codes = self.speaker.codes(self.texts, seed=self.seed)
        self.sounds = [self.speaker.codec.decode(codes) for codes in self.codes]
        self._transcripts = self._listen(self.sounds)
        scores = {f"wer/{name}": self._scores(heard)["wer"] for name, heard in self._transcripts.items()}
        return {**scores, "code_error_rate": self._code_error_rate(self.codes)}

    def heard(self) -> list[str]:
        """What the first judge heard of the model; empty texts without a judge."""
        return next(iter(self._transcripts.values()), [""] * len(self.test))

    def rows(self) -> list[dict[str, Any]]:
        """The model and its controls with confidence intervals, as rows of `eval.json`.

        `another text`: the model's speech of one text, scored against another one's words: what a judge gives to
        speech that has nothing to do with the text. `real codes`: the ceiling of the codec. `real sounds`: the ceiling
        of the judge.
        """
        if not self.codes:
            self.score()
        rows = [
            self._row("model", self._transcripts, self.codes),
            self._row("another text", {name: _moved(heard) for name, heard in self._transcripts.items()},
                      _moved(self.codes)),
        ]  # fmt: skip
        if self.judges:
            decoded = [self.speaker.codec.decode(codes) for codes in self.coded]
            rows.append(self._row("real codes", self._listen(decoded)))
            rows.append(self._row("real sounds", self._listen([spoken.waveform_S for spoken in self.test])))
        return rows

    def notes(self) -> list[str]:
        """Who listened, and how the scores were made."""
        if not self._transcripts:
            return ["nobody listened: code_error_rate alone does not tell whether the speech is understood"]
        signature = self._scores(self.heard()).signature
        return [f"wer/NAME: by {judge.description}" for judge in self.judges] + [
            f"intervals are 95 % over the test texts; {signature}"
        ]

    def _listen(self, sounds: Sequence[Tensor]) -> dict[str, list[str]]:
        heard: dict[str, list[str]] = {}
        for judge in self.judges:
            heard |= judge.hear(sounds)
        return heard

    def _scores(self, heard: Sequence[str]) -> WordScores:
        # As the judges write: "chapter 12" is spoken as "chapter twelve".
        return word_scores(heard, [spelt(text) for text in self.texts], seed=self.seed)

    def _code_error_rate(self, codes: Sequence[Sequence[int]]) -> float:
        wrong = sum(edit_distance(real, own) for real, own in zip(self.coded, codes))
        return wrong / sum(map(len, self.coded))

    def _row(
        self, name: str, transcripts: Mapping[str, Sequence[str]], codes: Sequence[Sequence[int]] | None = None
    ) -> dict[str, Any]:
        row: dict[str, Any] = {"name": name}
        for judge, heard in transcripts.items():
            interval = self._scores(heard).intervals["wer"]
            row[f"wer/{judge}"] = {key: getattr(interval, key) for key in ("value", "low", "high")}
        if codes is not None:
            row["code_error_rate"] = self._code_error_rate(codes)
        return row


def _moved(items: Sequence[T]) -> list[T]:
    """Each item at its successor's place."""
    return [*items[-1:], *items[:-1]]
