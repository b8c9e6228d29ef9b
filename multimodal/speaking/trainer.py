"""The public trainer of speakers."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.interfaces import BatchSource, Task
from core.training import distributed
from core.training.batches import ShuffledBatches
from core.training.log import write_samples
from core.training.resume import CHECKPOINTS_NAME
from core.training.trainer import Trainer
from multimodal.batch import CaptionBatch, caption_batch
from multimodal.examples import Example, Medium
from multimodal.samples import sample_row
from multimodal.speaking.codec import FILES, RATE, CodecSettings, SpeechCodec
from multimodal.speaking.config import SpeakingConfig
from multimodal.speaking.data import Spoken, load_spoken
from multimodal.speaking.evaluation import SpeechEvaluation
from multimodal.speaking.judge import find_judges
from multimodal.speaking.speaker import PARTS_NAME, Limits, Speaker, build_speaker, load_parts, train_tokenizer
from multimodal.task import CaptioningTask

EVALUATION_BATCH = 64
_Pair = tuple[list[int], list[int]]
"""Ids of a text, and of its codes."""


class SpeakingTrainer(Trainer):
    """Trains a language model to speak: the letters of a text in, the codes of its sound out.

    >>> from multimodal.speaking.config import SpeakingConfig
    >>> SpeakingTrainer(SpeakingConfig(data="voice/recordings.jsonl")).train()  # doctest: +SKIP
    """

    own_files = (PARTS_NAME, *FILES)
    config: SpeakingConfig
    speaker: Speaker
    evaluation: SpeechEvaluation

    def build(self) -> tuple[Task, BatchSource]:
        """Make or read the sounds, learn the codec on those to train on, make the model, its task and batches."""
        config = self.config
        self.train_spoken, self.test_spoken, notes = load_spoken(config)
        if not (self.train_spoken and self.test_spoken):
            raise ValueError(f"{config.data} has no sound to train on, or none to test on")
        everything = [*self.train_spoken, *self.test_spoken]
        # A resumed run reads its own codec and tokenizer, so that the same ids mean the same.
        if any((config.out / CHECKPOINTS_NAME).glob("step-*")):
            self.speaker = load_parts(config.out, config, self.runtime)
            coded = self._coded(self.speaker.codec, everything)
        else:
            settings = CodecSettings(hop=config.hop, chunk=config.chunk, num_codes=config.num_codes)
            codec = SpeechCodec.fit([spoken.waveform_S for spoken in self.train_spoken], settings, seed=config.seed)
            coded = self._coded(codec, everything)
            tokenizer = train_tokenizer([spoken.text for spoken in self.train_spoken], config.num_codes)
            self.speaker = build_speaker(config, self.runtime, tokenizer, codec, limits_of(everything, coded))
            if distributed.is_main():
                self.speaker.save_parts(config.out)
        coded, test_coded = coded[: len(self.train_spoken)], coded[len(self.train_spoken) :]
        judges, missing = find_judges(config, everything, self.runtime)
        self._notes = [*notes, *missing]
        self.evaluation = SpeechEvaluation(self.speaker, self.test_spoken, test_coded, judges, seed=config.seed)
        pairs = self._pairs(self.train_spoken, coded)
        self._test_pairs = self._pairs(self.test_spoken, test_coded)
        task = CaptioningTask(
            self.speaker.captioner,
            config.optim,
            self.runtime,
            config.steps,
            label_smoothing=config.label_smoothing,
            score=self.evaluation.score,
            held_out=self._held_out,
            shapes_vary=True,
        )
        return task, self._batches(pairs)

    def write_samples(self, task: Task, folder: Path, step: int) -> None:
        """Held-out texts as the model speaks them, and what a judge heard."""
        write_samples(folder, step, self.sample(self.config.num_samples))

    def sample(self, num_samples: int) -> list[dict[str, Any]]:
        """Held-out texts, their sounds as files in the run directory, and what the first judge heard."""
        assert isinstance(self.task, CaptioningTask)
        if not self.evaluation.sounds:
            with self.task.updater.averaged():
                self.evaluation.score()
        rows = []
        for spoken, sound, heard in zip(self.test_spoken, self.evaluation.sounds, self.evaluation.heard()):
            shown = Example((Medium("audio", sound, RATE),), (spoken.text,))
            rows.append(sample_row(shown, heard, self.config.out))
        return rows[:num_samples]

    def report_sections(self) -> Mapping[str, Any]:
        """The model's error rates beside those of another text, of real codes and of real sounds."""
        codec, limits = self.speaker.codec, self.speaker.limits
        notes = [
            f"{len(self.train_spoken):,} training and {len(self.test_spoken):,} test texts; {len(codec.centres_KF):,} "
            f"codes, {codec.codes_per_second:g} a second, at most {limits.most_codes} a text",
            *self._notes,
            *self.evaluation.notes(),
        ]
        return {"rows": self.evaluation.rows(), "notes": notes}

    def save(self, folder: Path | str) -> Path:
        """Weights, config, tokenizer and codec: what `Speaker.load` takes."""
        folder = super().save(folder)
        self.speaker.save_parts(folder)
        return folder

    def _coded(self, codec: SpeechCodec, texts: Sequence[Spoken]) -> list[list[int]]:
        return [codec.encode(spoken.waveform_S) for spoken in texts]

    def _pairs(self, texts: Sequence[Spoken], coded: Sequence[Sequence[int]]) -> list[_Pair]:
        return [(self.speaker.prompt(spoken.text), self.speaker.target(codes)) for spoken, codes in zip(texts, coded)]

    def _batches(self, pairs: Sequence[_Pair]) -> BatchSource:
        accumulate = self.config.optim.accumulate

        def collate(chosen: list[int]) -> list[CaptionBatch]:
            micros = [chosen[start::accumulate] for start in range(accumulate)]
            return [_batch([pairs[index] for index in micro]) for micro in micros if micro]

        lengths = [len(prompt) + len(target) for prompt, target in pairs]
        return ShuffledBatches(len(pairs), self.config.batch_size, self.config.seed, collate, lengths=lengths)

    def _held_out(self) -> Iterator[CaptionBatch]:
        for start in range(0, len(self._test_pairs), EVALUATION_BATCH):
            yield _batch(self._test_pairs[start : start + EVALUATION_BATCH])


def _batch(pairs: Sequence[_Pair]) -> CaptionBatch:
    return caption_batch([prompt for prompt, _ in pairs], [target for _, target in pairs], {})


def limits_of(texts: Sequence[Spoken], coded: Sequence[Sequence[int]]) -> Limits:
    """What the longest and slowest of the texts are like."""
    return Limits(
        most_words=max(len(spoken.text.split()) for spoken in texts),
        most_characters=max(len(spoken.text) for spoken in texts),
        most_codes=max(len(codes) for codes in coded),
        codes_per_character=max(len(codes) / len(spoken.text) for spoken, codes in zip(texts, coded)),
    )
