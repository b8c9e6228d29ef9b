"""From lines to token ids: text, chat messages, sampled ids; what is too long, equal or wrong."""

import json

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from core.text.characters import CharTokenizer
from core.text.huggingface import HFTokenizer
from core.text.readers import DataError
from rl.preferences.encoding import Completion, encode_completion
from rl.preferences.examples import Encoder, both_sides, labelled_from_pairs, liked, read_examples, texts_of

LETTERS = CharTokenizer.train("abcd:")


def ids(text):
    return LETTERS.encode(text)


def lines(tmp_path, *rows, name="pairs.jsonl"):
    path = tmp_path / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def pair(prompt="a:", chosen="aa", rejected="b", **more):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def encode(path, max_length=20, too_long="refuse", tokenizer=LETTERS):
    encoder = Encoder(tokenizer, max_length, too_long)
    return encoder, encoder.pairs(read_examples(path))


def test_a_pair_is_its_prompt_and_two_completions_that_end(tmp_path):
    _, (found,) = encode(lines(tmp_path, pair(margin=2, probability=0.75)))
    prompt = [LETTERS.bos_id, *ids("a:")]
    assert found.text == "a:"
    assert found.chosen == Completion(prompt, [*ids("aa"), LETTERS.eos_id], [True] * 3)
    assert found.rejected == Completion(prompt, [*ids("b"), LETTERS.eos_id], [True] * 2)
    assert (found.margin, found.probability) == (2.0, 0.75)


def test_demonstrations_labels_and_what_pairs_say_of_them(tmp_path):
    path = lines(
        tmp_path, {"prompt": "a:", "completion": "a", "label": True}, {"prompt": "b:", "completion": "", "label": False}
    )
    encoder = Encoder(LETTERS, 20)
    good, bad = encoder.labelled(read_examples(path))
    assert (good.good, bad.good) == (True, False)
    assert bad.completion.tokens == [LETTERS.eos_id]  # to say nothing is an answer too
    assert [liked(good), liked(bad)] == [[good.completion], []]
    assert [one.completion for one in encoder.demonstrations(read_examples(path))] == [good.completion, bad.completion]
    of_pairs = lines(tmp_path, pair(), pair(prompt="b:", chosen="b", rejected="a"), name="p.jsonl")
    _, pairs = encode(of_pairs)
    assert [one.completion for one in encoder.demonstrations(read_examples(of_pairs))] == [p.chosen for p in pairs]
    labelled = labelled_from_pairs(pairs)
    assert [one.good for one in labelled] == [True, True, False, False]
    assert [one.completion for one in labelled] == [p.chosen for p in pairs] + [p.rejected for p in pairs]


def test_kto_measures_on_completions_of_other_prompts(tmp_path):
    rows = [{"prompt": p, "completion": c, "label": True} for p, c in (("a:", "a"), ("b:", "bbb"), ("c:", "cc"))]
    examples = Encoder(LETTERS, 20).labelled(read_examples(lines(tmp_path, *rows)))
    sides = both_sides(examples)
    assert [own for own, _ in sides] == [one.completion for one in examples]
    mismatched = [(LETTERS.decode(other.prompt), LETTERS.decode(other.tokens)) for _, other in sides]
    assert mismatched == [("a:", "cc"), ("b:", "a"), ("c:", "bbb")]


def test_equal_completions_and_unknown_characters_are_counted(tmp_path):
    encoder, pairs = encode(lines(tmp_path, pair(rejected="aa"), pair(chosen="xyz")))
    assert len(pairs) == 1
    assert encoder.notes() == [
        "1 pairs of equal completions were left out.",
        "1 completions have characters or words that the tokenizer does not know.",
    ]


def test_pairs_that_are_too_long_are_refused_left_out_or_cut(tmp_path):
    path = lines(tmp_path, pair(), pair(prompt="abcd:", chosen="abcd", rejected="a"))
    with pytest.raises(DataError, match=r"pairs.jsonl:2: 11 tokens, more than 8: raise max_length"):
        encode(path, max_length=8)
    encoder, pairs = encode(path, max_length=8, too_long="drop")
    assert (len(pairs), encoder.notes()) == (1, ["1 examples longer than 8 tokens were left out."])
    encoder, pairs = encode(path, max_length=8, too_long="cut")
    assert encoder.notes() == ["1 examples longer than 8 tokens were cut."]
    cut = pairs[1]
    # The longer side has 5 tokens, so both keep the last 3 of the prompt.
    assert cut.chosen.prompt == cut.rejected.prompt == ids("cd:")
    assert cut.chosen.tokens == [*ids("abcd"), LETTERS.eos_id]
    _, pairs = encode(path, max_length=3, too_long="cut")
    assert pairs[1].chosen == Completion(ids(":"), ids("ab"), [True] * 2)  # now without its end
    assert len(pairs[1].chosen) == 3


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "pairs.jsonl:2: not JSON"),
        ({"prompt": "a:", "chosen": "a"}, "pairs.jsonl:2: no field 'rejected'; the line has prompt, chosen"),
        (pair(chosen=3), "pairs.jsonl:2: chosen must be a string or a list of chat messages, found 3"),
        (pair(prompt=[]), "prompt must be a string or a list of chat messages"),
        (pair(margin="big"), "pairs.jsonl:2: margin must be a finite number, found 'big'"),
        (pair(margin=True), "margin must be a finite number"),
        (pair(probability=1.5), r"probability must be in \[0, 1\], got 1.5"),
        (pair(chosen=[{"role": "assistant", "content": "a"}]), "a prompt that is plain text needs a completion"),
        (pair(prompt=[{"role": "user"}]), "pairs.jsonl:2: message 0 must be"),
        (
            pair(prompt=[{"role": "user", "content": "a"}], chosen=[{"role": "user", "content": "a"}]),
            "must end with one",
        ),
    ],
)
def test_a_wrong_line_is_named(tmp_path, row, said):
    with pytest.raises(DataError, match=said):
        encode(lines(tmp_path, pair(), row))


def test_wrong_files_and_labels_are_named(tmp_path):
    with pytest.raises(DataError, match="no file"):
        read_examples(tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match="must be a file of JSON lines"):
        read_examples(tmp_path / "pairs.txt")
    with pytest.raises(DataError, match="has no example"):
        read_examples(lines(tmp_path))
    path = lines(tmp_path, {"prompt": "a:", "completion": "a", "label": 1})
    with pytest.raises(DataError, match="label must be true or false, found 1"):
        Encoder(LETTERS, 20).labelled(read_examples(path))


def test_a_tokenizer_without_an_end_is_refused(tmp_path):
    with pytest.raises(DataError, match="end-of-sequence"):
        encode(lines(tmp_path, pair()), tokenizer=CharTokenizer.train("abcd:", special=False))


def test_sampled_ids_are_taken_as_they_were_where_the_tokenizer_is_the_same(tmp_path):
    sampled = {"prompt_ids": [1, 4, 8], "chosen_ids": [5, 5], "rejected_ids": [6, 2], "tokenizer": LETTERS.fingerprint}
    _, (found,) = encode(lines(tmp_path, pair(**sampled)))
    assert found.chosen == Completion([1, 4, 8], [5, 5], [True] * 2)  # no end, because none was sampled
    masked = {**sampled, "chosen_mask": [False, True], "rejected_mask": [True, True]}
    _, (found,) = encode(lines(tmp_path, pair(**masked)))
    assert found.chosen.mask == [False, True]
    _, (other,) = encode(lines(tmp_path, pair(**{**sampled, "tokenizer": "another"})))
    assert LETTERS.decode(other.chosen.tokens) == "aa"  # read from the text
    with pytest.raises(DataError, match="start from that run with init_from"):
        encode(lines(tmp_path, pair(**{**masked, "tokenizer": "another"})))
    for wrong in ({"chosen_ids": [99]}, {"chosen_ids": []}, {"prompt_ids": "ab"}):
        with pytest.raises(DataError, match="must be a list of ids of the tokenizer"):
            encode(lines(tmp_path, pair(**{**sampled, **wrong})))
    with pytest.raises(DataError, match="an entry per token"):
        encode(lines(tmp_path, pair(**{**sampled, "chosen_mask": [True]})))


@pytest.fixture(scope="module")
def chat():
    """A byte-level tokenizer with ChatML's special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return HFTokenizer(backend, tokens={"bos": "<|im_start|>", "eos": "<|im_end|>", "pad": "<|im_end|>"})


def test_chat_messages_go_through_the_template(chat, tmp_path):
    question = [{"role": "user", "content": "2+2?"}]
    row = pair(prompt=question, chosen="4", rejected=[{"role": "assistant", "content": "five"}])
    _, (found,) = encode(lines(tmp_path, row), max_length=100, tokenizer=chat)
    assert found.text == "user: 2+2?"
    prompt = chat.decode(found.chosen.prompt, skip_special=False)
    assert prompt == "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
    # The end of the turn is the policy's, the line break after it nobody's.
    assert chat.decode(found.chosen.tokens, skip_special=False) == "4<|im_end|>"
    assert chat.decode(found.rejected.tokens, skip_special=False) == "five<|im_end|>"
    assert all(found.rejected.mask)


def test_in_a_longer_exchange_only_the_assistants_turns_are_trained(chat):
    more = [
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "sure?"},
        {"role": "assistant", "content": "yes"},
    ]
    found = encode_completion(chat, [{"role": "user", "content": "2+2?"}], more)
    own = [token for token, kept in zip(found.tokens, found.mask) if kept]
    assert chat.decode(own, skip_special=False) == "4<|im_end|>yes<|im_end|>"
    assert "sure?" in chat.decode(found.tokens)


def test_a_fresh_models_letters_come_from_plain_texts_alone(tmp_path):
    path = lines(tmp_path, pair(), pair(prompt=[{"role": "user", "content": "q"}], chosen="d"))
    assert texts_of(read_examples(path)) == ["a:", "aa", "b", "d", "b"]
