"""Repair, normalise, filter and deduplicate texts, with a count of everything changed or dropped."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from core.text.dedup import NearDuplicates

# Everything Unicode or a printer takes for the end of a line or page; deleting it would glue two words together.
_LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
# The other C0 and C1 controls but tab, the byte order mark and the annotation marks. Zero-width joiners stay: emoji and
# several scripts need them.
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ufeff\ufff9-\ufffb]")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_SPACES = re.compile(r"[^\S\n]+")
_SPACES_AT_LINE_ENDS = re.compile(r" *\n *")
_BLANK_LINES = re.compile(r"\n{3,}")


@dataclass
class CleaningReport:
    """What a cleaner did so far."""

    num_in: int = 0
    """Texts taken."""
    num_out: int = 0
    """Texts given."""
    changed: Counter[str] = field(default_factory=Counter)
    """Texts changed, by step; a text may count for several steps."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Texts dropped, by the step that dropped them; sums to num_in - num_out."""

    def lines(self) -> list[str]:
        """The report for a person, one line a step."""
        lines = [f"{self.num_in} texts in, {self.num_out} out"]
        lines += [f"  changed by {step}: {count}" for step, count in self.changed.most_common()]
        return lines + [f"  dropped by {step}: {count}" for step, count in self.dropped.most_common()]

    def as_dict(self) -> dict[str, object]:
        """The report as JSON values."""
        return {
            "num_in": self.num_in,
            "num_out": self.num_out,
            "changed": dict(self.changed),
            "dropped": dict(self.dropped),
        }


@dataclass(frozen=True, kw_only=True)
class CleaningConfig:
    """Which steps to take, in this order."""

    repair: bool = True
    """Undo wrong decodings (`â€œ` for a quote) and HTML entities with ftfy, and replace lone surrogates."""
    control_characters: bool = True
    """Remove control characters; every kind of line or page end becomes LF, tab stays."""
    unicode_form: Literal["none", "NFC", "NFKC"] = "NFC"
    """Unicode normal form. NFKC also folds full-width letters and ligatures, which is a loss for Chinese text."""
    whitespace: bool = True
    """One space for a run of spaces (no-break and ideographic ones too), none at line ends, one blank line at most."""
    min_characters: int = 1
    """Drop shorter texts, counted after the steps above."""
    max_characters: int | None = None
    """Drop longer texts."""
    exact_duplicates: bool = True
    """Drop a text that equals one seen before."""
    near_duplicates: float | None = None
    """Drop a text whose estimated Jaccard similarity to one seen before is at least this; `None` for no such step."""

    def __post_init__(self) -> None:
        if self.min_characters < 0:
            raise ValueError(f"min_characters must be >= 0, got {self.min_characters}")
        if self.max_characters is not None and self.max_characters < self.min_characters:
            raise ValueError(f"max_characters {self.max_characters} is below min_characters {self.min_characters}")
        if self.near_duplicates is not None and not 0 < self.near_duplicates <= 1:
            raise ValueError(f"near_duplicates must be in (0, 1], got {self.near_duplicates}")


class Cleaner:
    """Cleans a stream of texts; duplicates are found across everything it has seen.

    Attributes:
        report: counts so far.
    """

    def __init__(self, config: CleaningConfig | None = None, *, language: Callable[[str], bool] | None = None) -> None:
        """Set up the steps.

        Args:
            config: which steps; the defaults are lossless repairs and exact deduplication.
            language: a filter of your own, True for a text to keep, for instance
                `lambda text: detector.detect_language_of(text) == ENGLISH` with lingua.
        """
        self.config = config or CleaningConfig()
        self.report = CleaningReport()
        self._language = language
        self._seen: set[bytes] = set()
        threshold = self.config.near_duplicates
        self._near = NearDuplicates(threshold) if threshold is not None else None

    def clean(self, texts: Iterable[str]) -> Iterator[str]:
        """The texts that stay, cleaned, in order."""
        for text in texts:
            self.report.num_in += 1
            text = self._rewrite(text)
            reason = self._reason_to_drop(text)
            if reason is not None:
                self.report.dropped[reason] += 1
                continue
            self.report.num_out += 1
            yield text

    def _rewrite(self, text: str) -> str:
        steps: list[tuple[bool, str, Callable[[str], str]]] = [
            (self.config.repair, "repair", repair),
            (self.config.control_characters, "control_characters", remove_control_characters),
            (self.config.unicode_form != "none", "unicode_form", self._normal_form),
            (self.config.whitespace, "whitespace", collapse_whitespace),
        ]
        for wanted, name, step in steps:
            if not wanted:
                continue
            new = step(text)
            if new != text:
                self.report.changed[name] += 1
                text = new
        return text

    def _normal_form(self, text: str) -> str:
        form = self.config.unicode_form
        return text if form == "none" else unicodedata.normalize(form, text)

    def _reason_to_drop(self, text: str) -> str | None:
        if len(text) < self.config.min_characters:
            return "too_short"
        if self.config.max_characters is not None and len(text) > self.config.max_characters:
            return "too_long"
        if self._language is not None and not self._language(text):
            return "language"
        if self.config.exact_duplicates:
            digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
            if digest in self._seen:
                return "exact_duplicate"
            self._seen.add(digest)
        if self._near is not None and self._near.seen(text):
            return "near_duplicate"
        return None


def repair(text: str) -> str:
    """Undo wrong decodings and HTML entities (ftfy), and replace lone surrogates by U+FFFD.

    Only what was certainly damaged: curly quotes, ligatures and full-width characters stay as they are.
    """
    import ftfy  # 40 ms

    config = ftfy.TextFixerConfig(
        uncurl_quotes=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        fix_line_breaks=False,
        remove_control_chars=False,
        remove_terminal_escapes=True,
        normalization=None,
        explain=False,
    )
    return _LONE_SURROGATE.sub("\ufffd", ftfy.fix_text(text, config))


def remove_control_characters(text: str) -> str:
    """Turn every kind of line or page end into LF and remove the other controls but tab; zero-width joiners stay."""
    return _CONTROL.sub("", _LINE_ENDS.sub("\n", text))


def collapse_whitespace(text: str) -> str:
    """One space for a run of spaces, none at the ends of lines or of the text, at most one blank line in a row."""
    text = _SPACES_AT_LINE_ENDS.sub("\n", _SPACES.sub(" ", text))
    return _BLANK_LINES.sub("\n\n", text).strip()
