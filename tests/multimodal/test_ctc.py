"""What sounds spell, and the answer that attention and CTC agree on."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from multimodal.ctc import agreed, sound_logprobs, spelt
from multimodal.examples import Example


@pytest.fixture
def bench(make_bench: Any, made_medium: Any) -> Any:
    examples = [
        Example((made_medium("audio", 6, 1), "ten"), ("one two",)),
        Example((made_medium("audio", 7, 2), made_medium("audio", 7, 3)), ("three",)),
        Example(("seven", made_medium("image", 1, 5)), ("eight",)),  # no sound
    ]
    return make_bench("prefix", examples=examples, ctc_weight=0.3, dropout=0.5)


def test_repetitions_and_blanks_are_left_out_of_what_is_spelt(bench: Any) -> None:
    blank = bench.captioner.blank_id
    a, b = 7, 8
    best_PE = torch.tensor([[a, blank], [a, b], [blank, b], [a, blank], [b, a], [b, a]])
    logprobs_PEV = F.one_hot(best_PE, 20).float()
    assert spelt(bench.captioner, logprobs_PEV, torch.tensor([6, 4])) == [[a, a, b], [b]]


def score(bench: Any, row: int, ids: list[int]) -> float:
    """0.7 log p by attention + 0.3 log p by CTC of one answer to one prompt."""
    captioner, eos = bench.captioner, bench.reader.eos_id
    batch = bench.reader.batch([bench.prompts[row]], [[*ids, eos]], bench.store)
    with torch.no_grad():
        logits_LV = captioner.logits(captioner(batch)[0]).float()
        attention = logits_LV.log_softmax(-1)[torch.arange(len(ids) + 1), torch.tensor([*ids, eos])].sum()
        logprobs_PEV, lengths_E = sound_logprobs(captioner, captioner.read(batch), batch)
        ctc = -F.ctc_loss(
            logprobs_PEV, torch.tensor([ids]), lengths_E, torch.tensor([len(ids)]), blank=captioner.blank_id,
            reduction="sum",
        )  # fmt: skip
    return float(0.7 * attention + 0.3 * ctc)


def test_the_likelier_of_the_two_answers_is_chosen_without_dropout(bench: Any) -> None:
    captioner, eos = bench.captioner, bench.reader.eos_id
    words = bench.reader.tokenizer.encode
    batch = bench.batch()
    with torch.no_grad():
        spelling = spelt(captioner, *sound_logprobs(captioner, captioner.read(batch), batch))[:2]
    spelling = [ids[: captioner.max_new_tokens - 1] for ids in spelling]
    for said in ("one two", "nine nine nine nine", "ten"):
        written = [words(said)] * 3
        expected = [
            own if score(bench, row, own) >= score(bench, row, heard) else heard
            for row, (own, heard) in enumerate(zip(written, spelling))
        ]
        captioner.train()  # as between the steps of a run
        found = agreed(captioner, bench.contexts(), [[*ids, eos] for ids in written])
        assert captioner.training
        captioner.eval()
        assert found == [*expected, written[2]]


def test_an_answer_that_never_ended_is_weighed_where_no_position_is_left(bench: Any) -> None:
    captioner = bench.captioner
    prompts = bench.contexts()
    longest = max(len(ids) for ids in prompts.prompts)
    captioner.model.config = type(captioner.model.config)(
        **{**vars(captioner.model.config), "max_length": longest + captioner.max_new_tokens - 1}
    )
    unfinished: list[Any] = [[5] * captioner.max_new_tokens] * 3
    found: list[list[int]] = agreed(captioner, prompts, unfinished)
    assert found[2] == unfinished[2]
    assert all(isinstance(token, int) for ids in found for token in ids)
