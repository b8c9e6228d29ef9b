"""Labelled sentences: reading them, writing new ones of a class, and what a classifier gains by them."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from adversarial.augmentation import AugmentationGain, TooFewNew, new_lines, simple_augmentation
from adversarial.classifier import STRENGTH, BagClassifier
from adversarial.commands import COMMANDS
from adversarial.config import GANConfig
from adversarial.corpus import Corpus, load_corpus
from adversarial.labels import LabelledTokens, join_label, split_label
from adversarial.trainers import GANTrainer
from core.config import ModelConfig, OptimConfig
from core.errors import RunError
from core.metrics.terms import TermWeights
from core.text.readers import DataError
from core.text.tokenizer import WordTokenizer

GOOD, BAD = ("fine", "lovely", "great", "superb"), ("awful", "dull", "poor", "weak")
NOUNS = ("film", "plot", "cast", "score", "end", "start", "song", "scene")


def reviews() -> list[dict[str, str]]:
    return [
        {"text": f"{how} {noun} with a {word} {other} .", "stars": stars}
        for stars, words in (("5", GOOD), ("1", BAD))
        for how in ("a", "one")
        for word in words
        for noun in NOUNS
        for other in NOUNS[:3]
    ]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "reviews.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in reviews()), "utf-8")
    return path


def config(file: Path, **changes) -> GANConfig:
    settings = {"label": "stars", "steps": 250, "mle_fraction": 0.97} | changes
    return GANConfig(
        out=file.parent / "run", text=file, held_out_lines=60, eval_samples=60,
        model=ModelConfig(width=32, num_layers=2, num_heads=2, max_length=32), batch_size=32, threads=1, device="cpu",
        mle=OptimConfig(lr=1e-2), discriminator_warmup=0.0, **settings,
    )  # fmt: skip


def test_a_label_is_the_first_token_and_comes_back() -> None:
    tokens = LabelledTokens(WordTokenizer.train(["a dog .", "a cat ."]), ["pet", "wild one"])
    row = tokens.encode("wild one\ta cat .", add_eos=True)
    assert row[0] == tokens.vocab_size - 1 == tokens.label_id("wild one")
    assert tokens.decode(row) == "wild one\ta cat."
    assert tokens.split("pet\ta dog .") == ["a", "dog", "."]
    assert tokens.decode([4, 5]).startswith("?\t")  # a generator that began with a word
    assert tokens.encode("?\ta dog .")[0] == tokens.unk_id
    assert tokens.fingerprint != LabelledTokens(tokens.words, ["pet", "tame one"]).fingerprint
    assert split_label(join_label("", "a b")) == ("", "a b")
    with pytest.raises(ValueError, match=r"no label 'fish': the run has pet, wild one"):
        tokens.label_id("fish")


def test_labels_are_read_from_a_field(file: Path) -> None:
    corpus = load_corpus(config(file))
    assert corpus.labels == ("1", "5")
    assert {line.partition("\t")[0] for line in corpus.train} == {"1", "5"}
    rows = corpus.encode(corpus.train)
    assert {row[0] for row in rows} == {corpus.tokenizer.vocab_size - 2, corpus.tokenizer.vocab_size - 1}
    assert not any(token >= corpus.tokenizer.vocab_size - 2 for row in rows for token in row[1:])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"text": "a b"}, {"text": "c d", "stars": 1}], r"reviews.jsonl.*no class in the field 'stars'.*has text"),
        ([{"text": "a b", "stars": ""}, {"text": "c d", "stars": 1}], "no class in the field 'stars'"),
        ([{"text": f"a {n}", "stars": 1} for n in range(9)], "all of the class '1': leave label out"),
    ],
)
def test_labels_that_cannot_be_used_are_named(tmp_path: Path, lines: list[dict], message: str) -> None:
    file = tmp_path / "reviews.jsonl"
    file.write_text("".join(json.dumps(item) + "\n" for item in lines), "utf-8")
    with pytest.raises(DataError, match=message):
        load_corpus(config(file))


def test_a_class_without_a_training_line_is_named(tmp_path: Path, file: Path) -> None:
    held_out = tmp_path / "test.jsonl"
    held_out.write_text(json.dumps({"text": "a film", "stars": 3}) + "\n", "utf-8")
    with pytest.raises(DataError, match="1 classes have no training line, such as '3'"):
        load_corpus(config(file, held_out_text=held_out))
    plain = tmp_path / "plain.txt"
    plain.write_text("a film\na plot\n", "utf-8")
    with pytest.raises(DataError, match="no class in the field 'stars'; the record has text"):
        load_corpus(config(plain))
    with pytest.raises(ValueError, match="label goes with text"):
        GANConfig(label="stars")


def test_the_classifier_finds_what_tells_classes_apart() -> None:
    rows = [(item["text"].split(), item["stars"]) for item in reviews()]
    random.Random(0).shuffle(rows)
    classifier = BagClassifier(*zip(*rows[:60]))
    assert np.mean([own == label for own, (_, label) in zip(classifier.predict([w for w, _ in rows]), rows)]) == 1
    assert BagClassifier([["a"], ["b"]], ["x", "y"]).predict([["b"], ["a", "zebra"]]) == ["y", "x"]
    order = BagClassifier([["not", "bad"], ["bad", "not"]], ["x", "y"])
    assert order.predict([["not", "bad"], ["bad", "not"]]) == ["x", "y"]  # pairs of words, too


def test_where_the_classifier_stops_nothing_pulls() -> None:
    words, labels, weights = [["a", "b"], ["b", "c"], ["c", "a"]], ["x", "y", "x"], [1.0, 2.0, 0.5]
    classifier = BagClassifier(words, labels, weights=weights)
    inputs = TermWeights(words).of(words).to_dense()
    assert inputs.square().sum(1).tolist() == pytest.approx([1, 1, 1])
    chances = torch.softmax(inputs @ classifier.weight_MC + classifier.bias_C, 1)
    errors = torch.tensor(weights)[:, None] * (chances - torch.tensor([[1.0, 0], [0, 1], [1, 0]]))
    torch.testing.assert_close(inputs.T @ errors, -classifier.weight_MC / STRENGTH, atol=1e-4, rtol=0)
    torch.testing.assert_close(errors.sum(0), torch.zeros(2), atol=1e-4, rtol=0)


def test_simple_augmentation_changes_a_little_and_keeps_the_label() -> None:
    lines = ["x\tone two three four five six seven eight nine ten"]
    found = simple_augmentation(lines, 300, random.Random(0))
    assert len(found) == 300
    assert len(set(found)) > 50
    for line in found:
        label, text = split_label(line)
        assert label == "x"
        assert abs(len(text.split()) - 10) <= 1
        assert set(text.split()) <= set(lines[0].split("\t")[1].split())
    assert simple_augmentation(["x\tone"], 5, random.Random(0))[0].startswith("x\tone")


def test_new_lines_are_new_and_a_generator_without_any_is_named() -> None:
    source = iter(range(10**6))
    found = new_lines(lambda many: [f"{next(source) % 2000}" for _ in range(many)], ["3", "5"], 50)
    assert len(set(found)) == 50
    assert not {"3", "5"} & set(found)
    with pytest.raises(TooFewNew, match=r"only 1 of [\d,]+ generated sentences were new"):
        new_lines(lambda many: ["a", "b"] * (many // 2), ["a"], 3)


def test_sentences_that_tell_more_about_the_classes_are_a_gain() -> None:
    train = ["good\ta fine film", "bad\ta dull film"]
    held_out = [f"{label}\ta {word} plot" for label, words in (("good", GOOD), ("bad", BAD)) for word in words]
    words = WordTokenizer.train([split_label(line)[1] for line in [*train, *held_out]])
    gain = AugmentationGain(Corpus(train, [], held_out, LabelledTokens(words, ["bad", "good"]), 10))
    told = gain.correct([*held_out, "?\ta lost line"])
    assert told.mean() == 1 > gain.alone_N.mean()
    first, second = gain.notes({"the answers": told})
    assert "100.0% with the answers" in first
    assert "over the training lines alone" in second
    assert "over simple augmentation" in second


def test_a_run_writes_what_a_class_asks_for(file: Path, capsys) -> None:
    trainer = GANTrainer(config(file), quiet=True)
    trainer.train()
    report = trainer.report_sections()
    rows = {row["name"]: row for row in report["rows"]}
    assert rows["MLE start"]["right_label"]["value"] > 0.9 > rows["untrained"]["right_label"]["value"]
    assert any(note.startswith("accuracy of a classifier on held-out lines") for note in report["notes"])
    run, more = file.parent / "run", file.parent / "more.jsonl"
    assert COMMANDS["augment"]([str(run), str(more), "-n", "20", "--label", "5"]) == 0
    items = [json.loads(line) for line in more.read_text("utf-8").splitlines()]
    assert len({item["text"] for item in items}) == len(items) == 20
    assert {item["label"] for item in items} == {"5"}
    assert sum(any(word in item["text"].split() for word in GOOD) for item in items) >= 16
    assert not {f"5\t{item['text']}" for item in items} & set(trainer.corpus.train)
    with pytest.raises(RunError, match="exists already"):
        COMMANDS["augment"]([str(run), str(more)])
    with pytest.raises(RunError, match="no label '3': the run has 1, 5"):
        COMMANDS["augment"]([str(run), str(file.parent / "other.jsonl"), "--label", "3"])
    assert not (file.parent / "other.jsonl").exists()
    assert set(trainer.sample(1)[0]) == {"label", "text"}
    assert '<p class="title">5</p>' in (run / "report.html").read_text("utf-8")  # what each sample was asked for


def test_levels_of_babyai_are_classes(tmp_path: Path) -> None:
    pytest.importorskip("minigrid")
    corpus = load_corpus(GANConfig(source="babyai", level="GoToLocal, PickupLoc", train_lines=31, held_out_lines=9))
    assert corpus.labels == ("GoToLocal", "PickupLoc")
    assert len(corpus.train) == 31
    assert len(corpus.held_out) == 9
    verbs = {
        label: {split_label(line)[1].split()[0] for line in corpus.train if line.startswith(label)}
        for label in corpus.labels
    }
    assert verbs == {"GoToLocal": {"go"}, "PickupLoc": {"pick"}}
