"""Where a run's examples come from: a file, or words made on the spot."""

from typing import Any

from core.errors import UserError
from core.text.readers import Record
from rl.preferences.config import ExamplesConfig
from rl.preferences.examples import read_examples
from rl.preferences.words import word_pairs


def is_absent(config: ExamplesConfig) -> bool:
    """Whether the file of a run is not on this machine."""
    return config.data is not None and not config.data.exists()


def records_of(config: ExamplesConfig) -> tuple[list[Record], list[Record]]:
    """The lines to learn from, and those that are held out.

    Raises:
        ValueError: no file, a file that cannot be read, or too few lines.
    """
    if config.data is None:
        if not config.words:
            raise UserError("no examples to learn from: give --data FILE, or --words N for the toy task")
        rows = word_pairs(config.words, config.seed)
        records = [Record(_as_line(row), f"word pair {number}", []) for number, row in enumerate(rows, start=1)]
    else:
        records = read_examples(config.data)
    if config.validation is not None:
        return records, read_examples(config.validation)
    held_out = round(len(records) * config.validation_fraction)
    if held_out < 1 or held_out == len(records):
        raise UserError(
            f"{len(records)} examples leave none to learn from or none to hold out: give more, or a --validation file"
        )
    return records[:-held_out], records[-held_out:]


def _as_line(row: dict[str, Any]) -> dict[str, Any]:
    """A pair of words as a line that serves as a demonstration too: of the word that was chosen."""
    return {**row, "completion": row["chosen"]}
