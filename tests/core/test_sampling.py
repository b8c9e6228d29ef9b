"""Choosing the next token: truncation, penalties, draws."""

import pytest
import torch

from core.generate import generate
from core.losses import token_logprobs
from core.sampling import Sampling, choice_logits, draw, draw_projected, uniforms

PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [14, 15, 16, 17]]
GREEDY = Sampling(temperature=0)
VOCAB = 97


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.1}, {"min_p": 1}, {"repetition_penalty": 0}]
)
def test_settings_out_of_range_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sampling(**wrong)


# The parts


def processed(*processors):
    """Logits after transformers' own processors."""
    from transformers import LogitsProcessorList

    return LogitsProcessorList(list(processors))


@pytest.mark.parametrize("seed", range(3))
def test_truncation_equals_transformers(seed):
    transformers = pytest.importorskip("transformers")
    logits_BV = torch.randn(4, 50, generator=torch.Generator().manual_seed(seed)) * 3
    for sampling, processors in (
        (Sampling(top_k=7), [transformers.TopKLogitsWarper(7)]),
        (Sampling(top_p=0.8), [transformers.TopPLogitsWarper(0.8)]),
        (Sampling(min_p=0.2), [transformers.MinPLogitsWarper(0.2)]),
        (
            Sampling(temperature=0.6, top_k=9, top_p=0.7),
            [transformers.TemperatureLogitsWarper(0.6), transformers.TopKLogitsWarper(9),
             transformers.TopPLogitsWarper(0.7)],
        ),
    ):  # fmt: skip
        expected = processed(*processors)(torch.zeros(4, 1, dtype=torch.long), logits_BV.clone())
        torch.testing.assert_close(choice_logits(logits_BV, sampling), expected)


def test_repetition_penalty_equals_transformers():
    transformers = pytest.importorskip("transformers")
    logits_BV = torch.randn(2, 20, generator=torch.Generator().manual_seed(0))
    history = torch.tensor([[1, 2, 3], [4, 4, 5]])
    seen_BV = torch.zeros(2, 20, dtype=torch.bool).scatter(1, history, True)
    expected = transformers.RepetitionPenaltyLogitsProcessor(1.7)(history, logits_BV.clone())
    found = choice_logits(logits_BV, Sampling(repetition_penalty=1.7), seen_BV=seen_BV)
    torch.testing.assert_close(found, expected)


def test_repetition_penalty_counts_prompt_and_generated_tokens(random_model):
    model = random_model()
    sampling = Sampling(temperature=0, repetition_penalty=3.0)
    samples = generate(model, PROMPTS, max_new_tokens=12, sampling=sampling, num_samples=2)
    for i, tokens in enumerate(samples.lists()):
        row = list(PROMPTS[i // 2])
        for token in tokens:
            with torch.no_grad():
                logits = model.logits(model(torch.tensor([row])))[0, -1]
            for earlier in set(row):
                logits[earlier] = logits[earlier] / 3 if logits[earlier] > 0 else logits[earlier] * 3
            assert token == int(logits.argmax())
            row.append(token)


def test_top_p_by_hand():
    probabilities = torch.tensor([[0.5, 0.3, 0.15, 0.05]])
    for top_p, kept in ((0.49, 1), (0.5, 1), (0.51, 2), (0.8, 2), (0.81, 3), (0.96, 4)):
        logits = choice_logits(probabilities.log(), Sampling(top_p=top_p))
        assert torch.isfinite(logits).sum() == kept, top_p
        torch.testing.assert_close(
            logits.softmax(-1)[:, :kept], probabilities[:, :kept] / probabilities[:, :kept].sum()
        )


def test_equal_logits_at_the_edge_of_top_k_are_all_kept():
    assert torch.isfinite(choice_logits(torch.tensor([[2.0, 1.0, 1.0, 0.0]]), Sampling(top_k=2))).sum() == 3


def test_draw_inverts_the_distribution():
    logits = torch.tensor([[0.2, 0.0, 0.5, 0.3]]).log()  # token 1 has probability 0
    for uniform, token in ((0.0, 0), (0.19, 0), (0.21, 2), (0.69, 2), (0.71, 3), (1 - 1e-16, 3)):
        assert draw(logits, torch.tensor([uniform], dtype=torch.float64)).item() == token


def test_a_token_of_probability_zero_is_never_drawn():
    logits = torch.full((1, 40), float("-inf"))
    logits[0, 7], logits[0, 30] = 0.0, -40.0
    for uniform in torch.cat((torch.linspace(0, 1 - 2**-53, 1001, dtype=torch.float64), torch.tensor([0.5]))):
        assert draw(logits, uniform[None].double()).item() in (7, 30)


@pytest.mark.parametrize("vocab_size", [64, 65, 1000])
def test_large_vocabularies_are_inverted_token_by_token(vocab_size: int):
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(2000, vocab_size, generator=generator)
    logits[:, ::3] = float("-inf")
    uniform = torch.rand(2000, generator=generator, dtype=torch.float64)
    uniform[:3] = torch.tensor([0.0, 0.5, 1 - 2**-53])
    cumulative = logits.double().softmax(-1).cumsum(-1)
    expected = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True).squeeze(-1)
    drawn = draw(logits, uniform)
    assert logits.gather(1, drawn[:, None]).isfinite().all()
    assert (drawn == expected).float().mean() > 0.999  # single precision at the edges


def test_draws_follow_the_distribution():
    probabilities = torch.tensor([0.1, 0.2, 0.3, 0.4])
    uniform = torch.rand(200_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    counts = draw(probabilities.log().expand(200_000, -1), uniform).bincount(minlength=4) / 200_000
    torch.testing.assert_close(counts, probabilities, atol=0.005, rtol=0)


def test_generators_of_active_rows_only_are_advanced():
    made = [torch.Generator().manual_seed(seed) for seed in range(3)]
    states = [generator.get_state() for generator in made]
    uniforms(made, torch.tensor([0, 2]), torch.device("cpu"))
    assert [torch.equal(g.get_state(), state) for g, state in zip(made, states)] == [False, True, False]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("temperature", "scale"), [(1.0, 1.0), (0.6, 1.0), (1.0, 60.0)])
def test_drawing_from_hidden_states_gives_the_tokens_of_drawing_from_logits(temperature, scale, bias):
    torch.manual_seed(0)
    hidden, head = scale * torch.randn(300, 8), torch.nn.Linear(8, 130, bias=bias)
    uniform = torch.rand(300, dtype=torch.float64)
    with torch.no_grad():
        tokens, logprobs = draw_projected(hidden, head, uniform, temperature=temperature)
        logits = head(hidden) / temperature
    assert (tokens == draw(logits, uniform)).float().mean() > 0.99  # rounding may move a point over a border
    torch.testing.assert_close(logprobs, token_logprobs(logits, tokens), rtol=1e-4, atol=1e-5)
    at_the_end = torch.full((300,), 1 - 2**-53, dtype=torch.float64)
    assert int(draw_projected(hidden, head, at_the_end)[0].max()) < 130  # the padding of the last piece is never drawn
