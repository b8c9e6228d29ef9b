"""Tux Paint's stamps: pictures with sentences that people wrote in many languages, and read aloud in some.

`NAME.png` (or `NAME.svg`) is a stamp, `NAME.txt` its sentence in English and, a line each (`fr.utf8=…`), in other
languages. `NAME_desc_fr.ogg` is the French sentence read aloud, `NAME_desc.ogg` the English one, and `NAME.ogg` or
`NAME.wav` the sound that the thing itself makes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from core.pretrained.sources import locate
from multimodal.datasets.files import LayoutError, captions, is_held_out, read_text, require_both, require_share
from multimodal.examples import Example, Examples, Medium, Scoring

Task = Literal["caption", "speech", "sound", "retrieval", "both"]
SOUND_SUFFIXES = (".ogg", ".wav")
_LINE = re.compile(r"(?P<language>[A-Za-z_]+(?:@[a-z]+)?)\.utf8=(?P<text>.*)")
_SPOKEN_SYMBOLS = ("symbols/",)
"""Folders in which `NAME.ogg` is somebody who says a letter, a number or a mood, and no sound of a thing."""


@dataclass(frozen=True)
class Stamp:
    """What belongs to one stamp, in one language."""

    key: str
    """Its path without ending, such as `animals/birds/owl`."""
    english: str
    """Its English sentence: stamps that share it are on one side of the split."""
    sentence: str
    """In the language asked for; empty: there is none."""
    picture: Path | None
    """A PNG; None: there is only an SVG, or nothing."""
    speech: Path | None
    """The sentence, read aloud."""
    sound: Path | None
    """What the thing itself sounds like."""
    is_drawing: bool
    """Whether there is an SVG."""


def examples(*, task: Task = "caption", language: str = "en", test_fraction: float = 0.1) -> Examples:
    """Stamps of animals, food, tools, vehicles and more: "An old Chinese sailing ship."

    | task | is read | is said | in version 2022.06.04 |
    |---|---|---|---|
    | `caption` | the picture | its sentence | 785 pictures, most of them photographs |
    | `speech` | the sentence read aloud | the sentence | fr 927, ru and ro 920, ca and bg 917, es 890, be 694, en 65 |
    | `sound` | what the thing sounds like | its sentence | 107 sounds |
    | `retrieval` | the picture | its sentence | 674 pictures: as `caption`, each sentence once |
    | `both` | the picture and the sentence read aloud | the sentence | pairs of pictures and speech |

    Pictures are PNG; 165 stamps are only there as SVG, which is not read here, and left out. Sentences average four
    words. 57 languages have at least 900 of them.

    Split: a share of the stamps by the hash of their English sentence, so that equal sentences are on one side, and a
    stamp is on the same side in all tasks and languages.

    Source: Debian's package `tuxpaint-stamps-default` 2022.06.04-1 (161 MB), `trillium data get
    tuxpaint-stamps-default`. Licence: GPL-2.0, Tux Paint's authors; pictures and voices are credited in the package.

    Args:
        task: what is read, and what is said; see the table.
        language: of the sentences, such as fr, pt_BR or sr@latin.
        test_fraction: share of the sentences held out.

    Returns:
        Examples with one picture (or sound, or both), all of them files, and one sentence; `speech` and `both` are
        scored by words.

    Raises:
        MissingData: the package is not on this machine.
        LayoutError: no stamps in this language and task.
        ValueError: an option out of range.
    """
    if task not in get_args(Task):
        raise ValueError(f"task must be one of {', '.join(get_args(Task))}, got {task!r}")
    require_share(test_fraction)
    return stamp_examples(load(locate("tuxpaint-stamps-default"), language), task, language, test_fraction)


def load(folder: Path, language: str = "en") -> list[Stamp]:
    """All stamps that have a text file, sorted by key.

    Args:
        folder: with `animals`, `food`, … in it.
        language: of sentences and voices.

    Raises:
        LayoutError: there are none, or a text cannot be read.
    """
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    spoken = "_desc" if language == "en" else f"_desc_{language}"
    stamps = []
    for name in sorted(files):
        if not name.endswith(".txt"):
            continue
        key = name.removesuffix(".txt")
        sentences = _sentences(files[name])
        speech, sound = (
            next((files[f"{key}{part}{suffix}"] for suffix in SOUND_SUFFIXES if f"{key}{part}{suffix}" in files), None)
            for part in (spoken, "")
        )
        stamps.append(
            Stamp(
                key, sentences["en"], sentences.get(language, ""), files.get(f"{key}.png"), speech,
                None if key.startswith(_SPOKEN_SYMBOLS) else sound, f"{key}.svg" in files,
            )
        )  # fmt: skip
    if not stamps:
        raise LayoutError(f"{folder} holds no stamps: it must have NAME.txt beside NAME.png")
    return stamps


def stamp_examples(stamps: Sequence[Stamp], task: Task, language: str, test_fraction: float) -> Examples:
    """The examples of a task; see `examples`."""
    sides: tuple[list[Example], list[Example]] = ([], [])
    told: set[str] = set()
    num_svg = num_silent = num_repeated = 0
    for stamp in stamps:
        media = _media(stamp, task)
        if not media:
            num_svg += task in ("caption", "retrieval", "both") and stamp.picture is None and stamp.is_drawing
        elif not stamp.sentence:
            num_silent += 1
        elif task == "retrieval" and stamp.sentence in told:
            num_repeated += 1
        else:
            told.add(stamp.sentence)
            side = sides[is_held_out(stamp.english, test_fraction, "tuxpaint")]
            side.append(Example(media, (stamp.sentence,), stamp.key, stamp.key.partition("/")[0]))
    train, test = sides
    require_both(train, test, f"tuxpaint, task {task}, language {language},")
    notes = [
        f"Tux Paint stamps (GPL-2.0), task {task}, language {language}: {len(train)} to learn from, {len(test)} held "
        "out by the hash of their English sentence"
    ]
    if num_svg:
        notes.append(f"{num_svg} stamps are left out, since they are only there as SVG")
    if num_silent:
        notes.append(f"{num_silent} stamps are left out, since they have no sentence in {language}")
    if num_repeated:
        notes.append(f"{num_repeated} stamps are left out, since another one has the same sentence")
    scoring: Scoring = "words" if task in ("speech", "both") else "captions"
    return Examples(train=train, test=test, scoring=scoring, notes=notes)


def _media(stamp: Stamp, task: Task) -> tuple[Medium, ...]:
    """What is read of it; empty: it lacks something."""
    picture = stamp.picture and Medium("image", stamp.picture)
    speech = stamp.speech and Medium("audio", stamp.speech)
    sound = stamp.sound and Medium("audio", stamp.sound)
    wanted = {
        "caption": (picture,),
        "retrieval": (picture,),
        "speech": (speech,),
        "sound": (sound,),
        "both": (picture, speech),
    }[task]
    found = tuple(medium for medium in wanted if medium)
    return found if len(found) == len(wanted) else ()


def _sentences(path: Path) -> dict[str, str]:
    """Sentence by language."""
    first, *others = read_text(path).split("\n")
    said = {"en": first}
    for line in others:
        if match := _LINE.fullmatch(line.rstrip("\r")):
            said[match["language"]] = match["text"]
    return {language: text[0] for language, raw in said.items() if (text := captions([raw], str(path)))} | (
        {} if first.strip() else {"en": ""}
    )
