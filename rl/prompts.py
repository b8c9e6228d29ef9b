"""Prompts for policies that answer them: from a file of JSON lines, or the bundled ones."""

from pathlib import Path

from core.text.readers import Record

TOPICS = "topics"
"""The `prompts` that name the bundled ones, where no file has that name."""
_TOPICS = """apples autumn bakeries beaches bees bicycles birds boats books breakfast bridges buses cafes camping
candles castles cats chairs chess children cities clouds coffee computers concerts cooking cousins dancing deserts
dogs dreams elections elevators exams factories farms ferries films fireworks fishing football forests friends games
gardens glaciers grandparents guitars haircuts hats hiking holidays homework horses hospitals hotels ice islands
jazz journeys keys kites kitchens lakes languages laundry lawyers letters libraries lighthouses lunch magic maps
markets mathematics mirrors mondays mountains museums music neighbours newspapers night oceans offices onions
paintings parks pianos planets poems politics queues rain restaurants rivers robots sailing schools sculptures shoes
silence singing snow soup spiders stars storms sundays supermarkets swimming tea teachers telephones tests theatres
toys traffic trains trees umbrellas uniforms villages volcanoes waiting weather weddings winter work zoos"""


def read_prompts(path: Path) -> list[Record]:
    """The lines of a file that have a prompt each; or for `topics` requests for a sentence about each of 130 things.

    Raises:
        ValueError: no such file, a line without one, or no line at all.
    """
    if str(path) == TOPICS and not path.exists():
        words = _TOPICS.split()
        # Every tenth of the alphabet's neighbours, so that what is held out at the end is not all of one letter.
        order = [word for start in range(7) for word in words[start::7]]
        return [Record({"prompt": f"Write one sentence about {word}."}, f"topic {word}", []) for word in order]
    from rl.preferences.examples import read_examples

    records = read_examples(path)
    for record in records:
        prompt = record.fields.get("prompt")
        if not isinstance(prompt, str | list) or not prompt:
            raise ValueError(f"{record.where}: prompt must be a text or a list of chat messages, found {prompt!r}")
    return records
