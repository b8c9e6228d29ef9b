"""Between text and tokens."""

import gymnasium
import pytest
from gymnasium.spaces import Text

from core.text.bytelevel import BPETokenizer, ByteTokenizer
from core.text.characters import CharTokenizer
from rl.interface import EnvironmentMismatch, LegalTokens, TextInterface, build_tokenizer, text_spaces

NUMBERS = Text(3, min_length=1, charset="0123456789:")


def char_interface(action_space):
    return TextInterface(CharTokenizer.train("0123456789:+-"), NUMBERS, action_space)


def test_the_vocabulary_is_the_characters_of_both_spaces():
    tokenizer = build_tokenizer(gymnasium.make("rl.envs:trillium/FrozenLake-v0"))
    assert tokenizer.vocab_size == 4 + len(set("0123456789cr:LDRU"))


def test_actions_of_one_length_need_no_stop_token_and_others_do():
    fixed = char_interface(Text(2, min_length=2, charset="+-"))
    assert (fixed.stop_id, fixed.max_action_tokens) == (None, 2)
    varying = char_interface(Text(2, min_length=1, charset="+-"))
    assert (varying.stop_id, varying.max_action_tokens) == (varying.tokenizer.eos_id, 3)


def test_tokens_of_several_bytes_or_characters_are_allowed_for():
    action = Text(2, min_length=2, charset="é+")
    assert TextInterface(ByteTokenizer(), NUMBERS, action).max_action_tokens == 2 * 2 + 1
    merging = BPETokenizer.train(["++++ ----"] * 20, 280)
    assert TextInterface(merging, NUMBERS, Text(2, min_length=2, charset="+-")).stop_id == merging.eos_id


def test_text_of_sampled_tokens():
    interface = char_interface(Text(3, min_length=1, charset="+-"))
    encode, eos, pad = interface.tokenizer.encode, interface.tokenizer.eos_id, interface.tokenizer.pad_id
    assert interface.action([*encode("+-"), eos]) == "+-"
    assert interface.action(encode("+-+")) == "+-+"
    # A special token in the middle stays visible, so that the environment refuses the action.
    assert interface.action([*encode("+"), pad, *encode("-"), eos]) == "+<pad>-"
    assert interface.action([eos]) == ""


def test_only_the_first_observation_begins_with_the_begin_token():
    interface = char_interface(Text(2, min_length=1, charset="+-"))
    encoded = interface.tokenizer.encode("12:")
    assert interface.start("12:") == [interface.tokenizer.bos_id, *encoded]
    assert interface.reply("12:") == encoded


def test_legal_tokens_follow_the_legal_actions():
    interface = char_interface(Text(3, min_length=1, charset="+-"))
    encode, eos = interface.tokenizer.encode, interface.tokenizer.eos_id
    (plus,), (minus,) = encode("+"), encode("-")
    legal_tokens = LegalTokens(interface)
    legal = ["+", "+-", "--"]

    def allowed(generated):
        number = legal_tokens.number(legal, generated)
        return set(legal_tokens.masks_KV()[number].nonzero().squeeze(-1).tolist())

    assert allowed([]) == {plus, minus}
    assert allowed([plus]) == {eos, minus}  # `+` may end here or go on to `+-`
    assert allowed([minus]) == {minus}
    assert allowed([plus, minus]) == {eos}
    assert legal_tokens.number(legal, [plus]) == legal_tokens.number(list(legal), [plus])
    assert legal_tokens.number(None, [plus]) == 0
    assert legal_tokens.masks_KV()[0].all()
    with pytest.raises(EnvironmentMismatch, match="no legal action"):
        legal_tokens.number(legal, [eos])
    with pytest.raises(EnvironmentMismatch, match="no legal action"):
        legal_tokens.number([], [])


def test_an_environment_without_text_is_refused():
    with pytest.raises(EnvironmentMismatch, match=r"FrozenLake-v1 has the observation space Discrete\(16\)"):
        text_spaces(gymnasium.make("FrozenLake-v1"))


def test_missing_characters_are_named():
    tokenizer = CharTokenizer.train("0123456789:")
    with pytest.raises(EnvironmentMismatch, match=r"lacks '\+' of the action space"):
        TextInterface(tokenizer, NUMBERS, Text(1, charset="+0"))
    with pytest.raises(EnvironmentMismatch, match="end-of-sequence"):
        TextInterface(CharTokenizer.train("01:", special=False), Text(1, charset="01"), Text(2, charset="01"))
