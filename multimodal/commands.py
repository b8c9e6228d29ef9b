"""The commands that this package adds to the command line."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from core.commands.options import Parser, positive
from multimodal.retrieval.commands import search

if TYPE_CHECKING:
    from multimodal.examples import Part
    from multimodal.pipeline import CaptioningPipeline

BATCH = 32
"""Files that are captioned at a time."""


def caption(arguments: list[str]) -> int:
    """Caption pictures, sounds and clips with a trained captioner: one line per file."""
    parser = Parser("caption", "What a run's captioner says of files, one line each: file, tab, text.")
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="run directory of a captioner, or a folder it was saved to"
    )
    parser.add_argument(
        "files", type=Path, nargs="+", metavar="FILE",
        help="pictures (PNG, JPEG, GIF, WebP, BMP), sounds (WAV, FLAC, OGG, MP3, M4A), clips (MP4, WebM, MKV, GIF)",
    )  # fmt: skip
    parser.add_argument(
        "--prompt",
        default="",
        help="text after the media, such as a question; or with <image>, <audio> and <video> where they stand in it",
    )
    parser.add_argument("--together", action="store_true", help="one text about all files, instead of one for each")
    parser.add_argument("--beams", type=positive, default=1, help="width of the beam; 1 is greedy (default 1)")
    parser.add_argument("--stream", action="store_true", help="print the text as it comes (one file at a time, greedy)")
    parser.add_argument("--device", default="auto", help="`auto` or a torch device such as cpu or cuda:1")
    options = parser.parse_args(arguments)
    if options.stream and options.beams > 1:
        parser.error("--stream needs --beams 1: a beam has no text before its end")
    from multimodal.pipeline import CaptioningPipeline

    pipeline = CaptioningPipeline.load(options.run, device=options.device)
    groups = [options.files] if options.together else [[file] for file in options.files]
    size = 1 if options.stream else BATCH
    bad = 0
    for start in range(0, len(groups), size):
        bad += _answer(pipeline, groups[start : start + size], options.prompt, options.beams, stream=options.stream)
    if bad:
        print(f"trillium caption: {bad} of {len(groups)} could not be used", file=sys.stderr)
    if bad == len(groups):
        return 2
    return 1 if bad else 0


def _answer(pipeline: "CaptioningPipeline", groups: list[list[Path]], prompt: str, beams: int, *, stream: bool) -> int:
    """Print a line for each group of files; returns how many could not be used."""
    from multimodal.media.errors import MediaError

    bad = 0
    while groups:
        try:
            prompts = [_prompt(pipeline, files, prompt) for files in groups]
            names = [", ".join(map(str, files)) for files in groups]
            if stream:
                _stream(pipeline, prompts, names[0])
            else:
                for name, text in zip(names, pipeline.answer(prompts, beams=beams)):
                    print(f"{name}\t{text}", flush=True)
            return bad
        except MediaError as error:
            print(f"trillium caption: skipped {error}", file=sys.stderr)
            left = [files for files in groups if error.path not in files]
            bad += len(groups) - len(left)
            groups = left
    return bad


def _stream(pipeline: "CaptioningPipeline", prompts: "list[list[Part]]", name: str) -> None:
    """Print the text as it comes; its name only with the first piece, because the file may turn out to be damaged."""
    ahead = f"{name}\t"

    def say(piece: str) -> None:
        nonlocal ahead
        print(ahead + piece, end="", flush=True)
        ahead = ""

    pipeline.answer(prompts, on_text=say)
    print(ahead, flush=True)


def _prompt(pipeline: "CaptioningPipeline", files: Iterable[Path], prompt: str) -> "list[Part]":
    from multimodal.datasets.files import arrange
    from multimodal.examples import Medium
    from multimodal.media.kinds import kind_of

    media = [Medium(kind_of(file, pipeline.kinds), file) for file in files]
    return list(arrange(prompt, media, "--prompt"))


def speak(arguments: list[str]) -> int:
    """Speak a text with a trained speaker: a sound file."""
    parser = Parser("speak", "Write the sound of a text, as a run's speaker says it.")
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory of a speaker, or a folder it was saved to")
    parser.add_argument("text", metavar="TEXT", help="what to say; case and punctuation do not matter")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="sound file to write: .wav or .flac")
    parser.add_argument("--seed", type=int, default=0, help="another number, another rendering (default 0)")
    parser.add_argument("--device", default="auto", help="`auto` or a torch device such as cpu or cuda:1")
    options = parser.parse_args(arguments)
    if options.out.suffix.lower() not in (".wav", ".flac"):
        parser.error(f"--out {options.out}: sounds are written as .wav or .flac")
    from multimodal.media.audio import save_audio
    from multimodal.speaking.codec import RATE
    from multimodal.speaking.speaker import Speaker

    waveform = Speaker.load(options.run, device=options.device).speak(options.text, seed=options.seed)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_audio(options.out, waveform, RATE)
    print(f"{options.out}\t{len(waveform) / RATE:.2f} s")
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {"caption": caption, "search": search, "speak": speak}
