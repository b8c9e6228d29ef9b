"""English names of emoji as captions, from the package `emoji`: short texts that everyone can have.

Licence of the names: BSD-3-Clause.
"""

import json
import re
from pathlib import Path

from core.pretrained.sources import locate

VARIATION_SELECTOR = "fe0f"
"""A code point that says how an emoji is drawn, not what it is."""
_TONE_WORDS = re.compile(r"(?:medium-light|medium-dark|light|medium|dark) skin tone")


def emoji_captions(names: Path | None = None) -> dict[tuple[str, ...], str]:
    """The caption of each emoji, by its code points without variation selectors.

    Args:
        names: the English name table; by default `emoji.json` of `emoji`.

    Raises:
        MissingData: the package is not on this machine.
    """
    table = json.loads((names or locate("emoji")).read_text(encoding="utf-8"))
    return {_code_points(emoji): caption_from_name(entry["en"]) for emoji, entry in table.items()}


def caption_from_name(name: str) -> str:
    """`:woman_running_medium_skin_tone:` -> `woman running with medium skin tone`."""
    text = name.strip(":").replace("_", " ").lower()
    tones = _TONE_WORDS.findall(text)
    what = " ".join(_TONE_WORDS.sub(" ", text).split())
    return " with ".join(part for part in (what, " and ".join(tones)) if part)


def _code_points(emoji: str) -> tuple[str, ...]:
    return tuple(code for character in emoji if (code := f"{ord(character):x}") != VARIATION_SELECTOR)
