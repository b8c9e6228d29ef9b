"""Reward functions of texts."""

import math

import pytest
import torch

from core.config import ModelConfig
from core.errors import RecipeError
from core.nn.transformer import Transformer
from core.pretrained.architectures import UnsupportedModel
from core.pretrained.huggingface import save_hf
from core.text.characters import CharTokenizer
from rl.rewards import (
    BadReward,
    LengthReward,
    QualityReward,
    WeightedReward,
    name_of,
    repetition,
    resolve_reward,
    score,
)

LETTERS = "abcdefgh "


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    torch.manual_seed(0)
    tokenizer = CharTokenizer.train(LETTERS)
    model = Transformer(
        ModelConfig(vocab_size=tokenizer.vocab_size, width=32, num_layers=1, num_heads=1, max_length=24)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    folder = tmp_path_factory.mktemp("reference") / "model"
    save_hf(model, folder, tokenizer, check=False)
    return folder, model.eval(), tokenizer


def by_hand(model, tokenizer, prompt, completion):
    """Mean log-likelihood of a completion's characters, one text at a time and without padding."""
    context = tokenizer.encode(prompt) or [tokenizer.bos_id]
    written = tokenizer.encode(completion)
    with torch.no_grad():
        logits = model.logits(model(torch.tensor([context + written])))[0].double()
    logprobs = torch.log_softmax(logits, -1)
    return sum(float(logprobs[len(context) + i - 1, token]) for i, token in enumerate(written)) / len(written)


def test_quality_is_the_mean_likelihood_less_repetition(reference):
    folder, model, tokenizer = reference
    prompts, completions = ["ab", "", "a fed head"], ["cafe", "badge had a bee", "hhhhh"]
    plain = QualityReward(folder, repetition_penalty=0)(prompts, completions)
    assert plain == pytest.approx([by_hand(model, tokenizer, p, c) for p, c in zip(prompts, completions)], abs=1e-5)
    fined = QualityReward(folder, repetition_penalty=2)(prompts, completions)
    # Of the 4 pairs of `hhhhh` 3 are repeated; `badge had a bee` has the pairs `a ` and ` b` once, `ad` twice of 14.
    assert [a - b for a, b in zip(plain, fined)] == pytest.approx([0, 2 / 14, 2 * 3 / 4], abs=1e-6)


def test_saying_nothing_is_as_likely_as_a_token_at_random(reference):
    folder, model, _ = reference
    assert QualityReward(folder)(["a"], [""]) == [-math.log(model.vocab_size)]


def test_many_texts_are_read_in_parts(reference, monkeypatch):
    folder, _, _ = reference
    texts = [letter * (1 + number) for number, letter in enumerate("abcdefgh")]
    whole = QualityReward(folder)([""] * 8, texts)
    monkeypatch.setattr("rl.rewards.AT_ONCE", 3)
    assert QualityReward(folder)([""] * 8, texts) == pytest.approx(whole, abs=1e-5)


def test_a_text_that_the_reference_cannot_read_is_refused(reference):
    folder, *_ = reference
    with pytest.raises(ValueError, match="reads 24 tokens, a text to be judged has 29"):
        QualityReward(folder)(["a" * 10], ["b" * 20])


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(UnsupportedModel, match="holds no model"):
        QualityReward(tmp_path)(["a"], ["b"])


@pytest.mark.parametrize(
    ("tokens", "order", "share"),
    [([1, 1, 1, 1], 2, 2 / 3), ([1, 2, 3], 2, 0), ([1, 1], 1, 0.5), ([1], 2, 0), ([], 1, 0)],
)
def test_repetition_by_hand(tokens, order, share):
    assert repetition(tokens, order) == pytest.approx(share)


def test_length():
    assert LengthReward(4)(["", "", ""], ["", "ab", "abcdef"]) == [0, 0.5, 1]


def count(prompts, completions, **columns):
    """Characters, of a column too where there is one."""
    return [len(text) + len(more) for text, more in zip(completions, columns.get("note", [""] * len(completions)))]


def test_names_and_sums_are_resolved():
    assert resolve_reward(count) is count
    assert resolve_reward("count", {"count": lambda: count}) is count
    assert resolve_reward("1.0*count", {"count": lambda: count}) is count
    assert resolve_reward("rl.envs.lexicon:sentiment").__name__ == "sentiment"
    mix = resolve_reward("2*count + 0.5*rl.envs.lexicon:sentiment", {"count": lambda: count})
    assert isinstance(mix, WeightedReward)
    assert mix([""], ["love"]) == [8.5]
    assert score(mix, ["", ""], ["love", "bad"], note=["", "xy"]) == pytest.approx([8.5, 10 - 1 / 3])


@pytest.mark.parametrize(
    ("reward", "error", "named"),
    [
        ("nice", ValueError, "no reward is called 'nice': use one of count, module:function"),
        ("much*count", ValueError, "'much' in the reward 'much\\*count' is no weight"),
        ("nan*count", ValueError, "no weight"),
        ("count+", ValueError, "no reward is called ''"),
        ("rl.envs.lexicon:nothing", ValueError, "rl.envs.lexicon has no function 'nothing'"),
        ("rl.envs.lexicon:WORDS", ValueError, "no function 'WORDS'"),
        ("nowhere.at.all:f", RecipeError, "no package or module 'nowhere.at.all' for the reward nowhere.at.all:f"),
        (3, ValueError, "must be a function or the name of one, got 3"),
    ],
)
def test_rewards_that_do_not_exist_are_named(reward, error, named):
    with pytest.raises(error, match=named):
        resolve_reward(reward, {"count": lambda: count})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([1.0], r"gave 1 rewards: return a list of one finite number for each of the 2 completions"),
        ([1.0, math.inf], "gave inf for 'b'"),
        ([1.0, math.nan], "gave nan for 'b'"),
        ([1.0, None], r"gave \[1.0, None\]"),
        (None, "gave None"),
        (torch.ones(2, 2), "gave tensor"),
        (7.0, "gave 7.0"),
        ([[1.0], [2.0]], "gave"),
    ],
)
def test_what_is_no_list_of_finite_numbers_is_refused(given, said):
    def judge(prompts, completions, **columns):
        return given

    with pytest.raises(BadReward, match=said) as caught:
        score(judge, ["", ""], ["a", "b"])
    assert f"the reward function {name_of(judge)} gave" in str(caught.value)


def test_tensors_and_arrays_of_numbers_are_fine():
    assert score(lambda prompts, completions: torch.tensor([1, 2]), ["", ""], ["a", "b"]) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda folder: QualityReward(folder, repetition_penalty=-1), "repetition_penalty"),
        (lambda folder: QualityReward(folder, order=0), "order"),
        (lambda folder: QualityReward(folder / "absent"), "no reference model at"),
        (lambda folder: LengthReward(0), "target"),
    ],
)
def test_wrong_arguments_of_rewards_are_named(make, named, tmp_path):
    with pytest.raises(ValueError, match=named):
        make(tmp_path)
