"""Scores against independent computations, and the floors and ceilings that they should respect."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adversarial.config import GANConfig
from adversarial.corpus import Corpus, load_corpus
from adversarial.evaluation import TextEvaluation, change_in_nll
from adversarial.generator import Generator, build_generator
from core.config import ModelConfig
from core.metrics.bootstrap import Interval

CONFIG = GANConfig(
    train_lines=300,
    held_out_lines=60,
    eval_samples=60,
    model=ModelConfig(width=16, num_layers=1, num_heads=1, max_length=32),
)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus(CONFIG)


@pytest.fixture
def evaluation(corpus: Corpus) -> TextEvaluation:
    return TextEvaluation(corpus, CONFIG, torch.device("cpu"))


@pytest.fixture
def model(corpus: Corpus) -> Generator:
    torch.manual_seed(0)
    return build_generator(CONFIG, corpus.tokenizer.vocab_size)


def test_nll_is_the_mean_over_tokens_of_each_sentence_read_alone(
    evaluation: TextEvaluation, corpus: Corpus, model: Generator
) -> None:
    total, tokens = 0.0, 0
    model.eval()
    for row in corpus.encode(corpus.held_out):
        with torch.no_grad():
            logits = model.logits(model(torch.tensor([[1, *row[:-1]]])))[0]
        total -= float(logits.log_softmax(-1)[range(len(row)), row].sum())
        tokens += len(row)
    assert evaluation.score(model)["nll"] == pytest.approx(total / tokens, rel=1e-5)
    assert all(row[-1] == 2 for row in corpus.encode(corpus.held_out))


@pytest.mark.parametrize(("min_count", "scored"), [(1, 3), (2, 4)])
def test_unknown_words_count_only_where_training_text_has_some(min_count: int, scored: int, tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a b\nb a\na c\n" * 5 + "b d\n")
    (tmp_path / "test.txt").write_text("a zebra b\n")  # three tokens and the end
    config = replace(CONFIG, text=tmp_path / "train.txt", held_out_text=tmp_path / "test.txt", min_count=min_count)
    lines = load_corpus(config)
    evaluation = TextEvaluation(lines, config, torch.device("cpu"))
    nll_N2 = evaluation.likelihoods(build_generator(config, lines.tokenizer.vocab_size))
    assert nll_N2[0, 1] == scored
    wanted = "leaves them out" if min_count == 1 else "counts them"
    assert wanted in lines.notes[0]


def test_an_untrained_model_is_near_the_uniform_nll(
    evaluation: TextEvaluation, corpus: Corpus, model: Generator
) -> None:
    scores = evaluation.score(model)
    assert scores["nll"] == pytest.approx(math.log(corpus.tokenizer.vocab_size), rel=0.05)
    assert scores["valid"] == 0


def test_real_text_beats_shuffled_text(evaluation: TextEvaluation, corpus: Corpus) -> None:
    real, shuffled, held_out = evaluation.text_rows()
    assert real["valid"]["value"] == 1
    assert shuffled["valid"]["value"] < 0.2
    assert corpus.grammar is not None
    assert real["nll"] == pytest.approx(corpus.grammar.entropy / (corpus.grammar.mean_length + 1))
    for order in range(2, 6):
        assert real[f"bleu_{order}"]["value"] > shuffled[f"bleu_{order}"]["value"]
    assert real["length"] == shuffled["length"]
    assert "new" not in real
    assert held_out["new"] == sum(line not in corpus.train for line in corpus.held_out) / len(corpus.held_out)
    assert 2 < held_out["longest_copy"]["value"] < held_out["length"]


def test_what_generated_text_teaches_about_real_text(corpus: Corpus) -> None:
    config = replace(CONFIG, reverse_steps=60, eval_samples=300)
    evaluation = TextEvaluation(corpus, config, torch.device("cpu"))
    real, shuffled, _ = evaluation.text_rows()
    assert real["reverse_nll"] < shuffled["reverse_nll"] - 0.5
    assert real["reverse_nll"] < math.log(corpus.tokenizer.vocab_size)
    assert real["frechet"] < shuffled["frechet"]
    state = torch.get_rng_state()
    again = evaluation.score_texts(corpus.train)
    assert torch.equal(torch.get_rng_state(), state)
    # The same sentence again and again is fluent, and teaches nothing of the rest.
    one = evaluation.score_texts(corpus.train[:1] * 300)
    assert one["reverse_nll"] > again["reverse_nll"] + 1
    assert one["frechet"] > 3 * again["frechet"]


def test_mauve_tells_real_text_from_one_sentence_again_and_again(corpus: Corpus) -> None:
    pytest.importorskip("mauve")
    evaluation = TextEvaluation(corpus, replace(CONFIG, mauve=True, eval_samples=300), torch.device("cpu"))
    same = evaluation.score_texts(corpus.train[:1] * 300)
    assert 0 < same["mauve"] < 0.5 < evaluation.score_texts(corpus.train)["mauve"] <= 1


def test_scores_of_three_sentences_by_hand(evaluation: TextEvaluation, corpus: Corpus) -> None:
    texts = ["the cat sleeps .", "the cat sleeps .", "the cat sleep ."]
    scores = evaluation.score_texts(texts)
    valid = scores["valid"]
    assert isinstance(valid, Interval)
    assert valid.value == pytest.approx(2 / 3)
    assert scores["unique"] == pytest.approx(2 / 3)
    # bigrams: "the cat" three times, "cat sleeps" and "sleeps ." twice, "cat sleep" and "sleep ." once
    assert scores["distinct_2"] == pytest.approx(5 / 9)
    assert scores["length"] == 4
    assert scores["new"] == pytest.approx(sum(text not in corpus.train for text in texts) / 3)
    # the first two have a twin; of the third's four words three match, of its three bigrams one
    third = (3 / 4 * 1 / 3) ** 0.5
    assert scores["self_bleu_2"] == pytest.approx((1 + 1 + third) / 3)


def test_bleu_agrees_with_nltk(evaluation: TextEvaluation, corpus: Corpus, model: Generator) -> None:
    bleu = pytest.importorskip("nltk.translate.bleu_score")
    texts = evaluation.generate(model, 5) + corpus.train[:5]
    references = [line.split() for line in corpus.held_out]
    smooth = bleu.SmoothingFunction().method1
    expected = [
        bleu.sentence_bleu(references, text.split(), weights=(1 / 3,) * 3, smoothing_function=smooth) for text in texts
    ]
    score = evaluation.score_texts(texts)["bleu_3"]
    assert isinstance(score, Interval)
    assert score.value == pytest.approx(sum(expected) / len(expected))


def test_scoring_leaves_no_trace_and_repeats(evaluation: TextEvaluation, model: Generator) -> None:
    model.train()
    before = torch.get_rng_state()
    first = evaluation.score(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert evaluation.score(model) == first
    assert Counter(evaluation.generate(model, 7)) == Counter(evaluation.generate(model, 7))


def test_the_change_in_nll_is_paired() -> None:
    before = torch.tensor([[10.0, 5.0], [20.0, 10.0]], dtype=torch.float64)
    after = torch.tensor([[9.0, 5.0], [18.0, 10.0]], dtype=torch.float64)
    change = change_in_nll(before, after)
    # (-1 - 2) / 15; both sentences changed by the same per token, so the interval has no width
    assert change.value == pytest.approx(-0.2)
    assert change.low == pytest.approx(-0.2)
    assert change.high == pytest.approx(-0.2)
