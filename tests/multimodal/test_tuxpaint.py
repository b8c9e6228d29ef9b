"""Tux Paint's stamps: the real package where it is on this machine, and a small twin of it."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from core.pretrained.sources import MissingData, locate
from multimodal.datasets import tuxpaint
from multimodal.datasets.files import LayoutError
from multimodal.datasets.named import load_examples
from multimodal.datasets.tuxpaint import Task, examples, load, stamp_examples
from multimodal.examples import Examples
from multimodal.media.audio import load_audio, save_audio
from multimodal.media.image import load_image


def write_stamp(folder: Path, key: str, text: str, *endings: str) -> None:
    path = folder / key
    path.parent.mkdir(parents=True, exist_ok=True)
    Path(f"{path}.txt").write_text(text, "utf-8")
    for ending in endings:
        file = Path(f"{path}{ending}")
        if ending == ".png":
            Image.new("RGBA", (8, 6), (200, 0, 0, 255)).save(file)
        elif ending.endswith(".wav"):
            save_audio(file, torch.zeros(800), 8000)
        else:
            file.write_bytes(b"not opened")


@pytest.fixture
def twin(tmp_path: Path) -> Path:
    """Forty owls, of which each third has a sound; a shared sentence, an SVG, and a letter."""
    for number in range(40):
        speech = ("_desc_fr.ogg", "_desc.ogg") if number % 2 else ()
        sound = (".wav",) if number % 3 == 0 else ()
        text = f"Owl  number {number}.\nde.utf8=Eule {number}.\nfr.utf8=Hibou {number}.\nsr@latin.utf8=Sova.\n"
        write_stamp(tmp_path, f"animals/birds/owl{number}", text, ".png", ".dat", *speech, *sound)
    write_stamp(tmp_path, "food/pear", "Owl number 7.\nfr.utf8=\n", ".png", ".svg")
    write_stamp(tmp_path, "town/house", "A house.", ".svg")
    write_stamp(tmp_path, "symbols/five", "Five.", ".png", ".wav", "_en_GB.wav")
    write_stamp(tmp_path, "seasonal/gift", "A gift.")
    Image.new("RGB", (8, 6)).save(tmp_path / "town/house_mirror.png")
    return tmp_path


def made(folder: Path, task: Task, language: str = "en", test_fraction: float = 0.25) -> Examples:
    return stamp_examples(load(folder, language), task, language, test_fraction)


def keys(examples: Examples) -> tuple[set[str], set[str]]:
    return {example.key for example in examples.train}, {example.key for example in examples.test}


def test_what_belongs_to_a_stamp(twin: Path) -> None:
    stamps = {stamp.key: stamp for stamp in load(twin, "fr")}
    assert len(stamps) == 44
    owl, bird = stamps["animals/birds/owl9"], twin / "animals/birds"
    assert (owl.english, owl.sentence) == ("Owl number 9.", "Hibou 9.")
    assert (owl.picture, owl.sound, owl.speech) == (bird / "owl9.png", bird / "owl9.wav", bird / "owl9_desc_fr.ogg")
    assert stamps["food/pear"].sentence == ""
    assert stamps["symbols/five"].sound is None  # somebody says the number
    assert (stamps["town/house"].picture, stamps["town/house"].is_drawing) == (None, True)
    assert load(twin, "sr@latin")[0].sentence == "Sova."
    assert {stamp.key: stamp for stamp in load(twin)}["animals/birds/owl9"].speech == bird / "owl9_desc.ogg"


def test_tasks_read_what_they_say(twin: Path) -> None:
    captions = made(twin, "caption")
    assert len(captions.train) + len(captions.test) == 42  # owls, pear and five
    (picture,) = captions.train[0].media
    assert (picture.kind, load_image(Path(str(picture.source))).shape) == ("image", (3, 6, 8))
    assert captions.notes[1] == "1 stamps are left out, since they are only there as SVG"
    speech = made(twin, "speech", "fr")
    assert len(speech.train) + len(speech.test) == 20
    assert speech.scoring == "words"
    assert speech.train[0].targets[0].startswith("Hibou")
    sounds = made(twin, "sound")
    assert len(sounds.train) + len(sounds.test) == 14
    assert len(load_audio(Path(str(sounds.train[0].media[0].source)))) == 1600
    both = made(twin, "both", "fr")
    assert [medium.kind for medium in both.train[0].media] == ["image", "audio"]
    assert {example.group for example in captions.train} >= {"animals"}


def test_retrieval_has_each_sentence_once(twin: Path) -> None:
    found = made(twin, "retrieval")
    sentences = [target for example in (*found.train, *found.test) for target in example.targets]
    assert len(sentences) == len(set(sentences)) == 41
    assert "1 stamps are left out, since another one has the same sentence" in found.notes


def test_a_stamp_is_on_one_side_in_all_tasks_and_languages_and_equal_sentences_too(twin: Path) -> None:
    train, test = keys(made(twin, "caption"))
    assert 4 <= len(test) <= 19  # 25 % of 42, give or take three standard deviations
    for task, language in (("caption", "fr"), ("speech", "fr"), ("speech", "en"), ("sound", "de"), ("both", "fr")):
        other = keys(made(twin, task, language))  # type: ignore[arg-type]
        assert other[0] <= train
        assert other[1] <= test
    assert ("food/pear" in train) == ("animals/birds/owl7" in train)


def test_stamps_without_a_sentence_in_the_language_are_counted(twin: Path) -> None:
    # Pear and five; the house and the gift have no picture to begin with.
    assert "2 stamps are left out, since they have no sentence in fr" in made(twin, "caption", "fr").notes


def test_what_is_not_there_is_told(twin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LayoutError, match=r"tuxpaint, task caption, language xx, has no example to train on"):
        made(twin, "caption", "xx")
    with pytest.raises(LayoutError, match="holds no stamps"):
        load(twin / "town" / "nothing")
    with pytest.raises(ValueError, match="task must be one of caption, speech, sound, retrieval, both, got 'draw'"):
        examples(task="draw")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="test_fraction must be in"):
        examples(test_fraction=0.0)
    (twin / "food/pear.txt").write_bytes(b"\xff")
    monkeypatch.setattr(tuxpaint, "locate", lambda name: twin)
    with pytest.raises(LayoutError, match=r"pear\.txt line 1 is not UTF-8"):
        load_examples("tuxpaint:language=fr")


def test_by_name(twin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuxpaint, "locate", lambda name: twin)
    assert len(load_examples("tuxpaint:task=speech,language=fr,test_fraction=0.25").test) >= 1


@pytest.fixture(scope="module")
def real() -> Path:
    try:
        return locate("tuxpaint-stamps-default", verify=False)
    except MissingData as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("task", "language", "count"),
    [
        ("caption", "en", 785), ("caption", "fr", 785), ("retrieval", "en", 674), ("sound", "en", 107),
        ("speech", "fr", 927), ("speech", "ru", 920), ("speech", "es", 890), ("speech", "en", 65), ("both", "fr", 767),
    ],
)  # fmt: skip
def test_the_real_stamps(real: Path, task: Task, language: str, count: int) -> None:
    found = stamp_examples(load(real, language), task, language, 0.1)
    assert len(found.train) + len(found.test) == count
    assert 0.04 < len(found.test) / count < 0.16
    assert not {example.targets for example in found.train} & {example.targets for example in found.test} or (
        language != "en"  # two English sentences may be one in another language
    )


def test_real_pictures_and_sounds_can_be_decoded(real: Path) -> None:
    stamps = [stamp for stamp in load(real, "fr") if stamp.picture and stamp.speech][::100]
    assert len(stamps) == 8
    for stamp in stamps:
        assert load_image(Path(str(stamp.picture))).shape[0] == 3
        assert 0.3 < len(load_audio(Path(str(stamp.speech)))) / 16_000 < 30
