"""Parity with transformers: ids of saved folders, and rendered conversations."""

import pytest

from core.text.chat import CHATML, encode_chat, render
from core.text.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer, WordTokenizer

transformers = pytest.importorskip("transformers")

CORPUS = [
    "The cat sat on the mat. She said: \"It's 10:45!\" They can't pay ($3.88)...\n",
    "今天天气很好，我们去公园玩。“你好！”\n",
    "I cannot, 'tis gonna be -- well, dogs' «fun» & more; e.g. U.S. firms.",
    "family 👩‍👩‍👧, NUL \x00, שלום, tab\t and\r\nCRLF",
]
TEXTS = [*CORPUS, "", " ", "\n", "unseen ж words", "a <eos> b <pad><unk>", "  two  spaces  ", "Hello , world ."]

TOKENIZERS = {
    "char": lambda: CharTokenizer.train(CORPUS),
    "char_plain": lambda: CharTokenizer.train(["".join(TEXTS)], special=False),
    "byte": ByteTokenizer,
    "word": lambda: WordTokenizer.train(CORPUS),
    "word_lower": lambda: WordTokenizer.train(CORPUS, lower=True, max_size=30),
    "word_spaces": lambda: WordTokenizer.train(CORPUS, split="whitespace", min_count=1),
    "bpe": lambda: BPETokenizer.train(CORPUS * 3, 400, special_tokens=["<|im_start|>", "<|im_end|>"]),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_auto_tokenizer_gives_equal_ids(kind, tmp_path):
    ours = TOKENIZERS[kind]()
    ours.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        ids = ours.encode(text)
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids, text
        assert theirs(text)["input_ids"] == ids, text
        parsed = theirs(text, add_special_tokens=False, split_special_tokens=False)["input_ids"]
        assert parsed == ours.encode(text, special=True), text
        if not kind.startswith("word"):
            assert theirs.decode(ids) == ours.decode(ids), text
    assert len(theirs) == ours.vocab_size
    assert (theirs.pad_token_id, theirs.bos_token_id, theirs.eos_token_id) == (ours.pad_id, ours.bos_id, ours.eos_id)
    assert theirs.unk_token_id == ours.unk_id


def test_auto_tokenizer_saves_a_folder_that_loads_here(tmp_path):
    from core.text.tokenizer import load_tokenizer

    ours = TOKENIZERS["bpe"]()
    ours.chat_template = CHATML
    ours.save(tmp_path / "ours")
    transformers.AutoTokenizer.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    again = load_tokenizer(tmp_path / "theirs")
    assert [again.encode(text) for text in TEXTS] == [ours.encode(text) for text in TEXTS]
    assert (again.pad_id, again.bos_id, again.eos_id, again.unk_id) == (0, 1, 2, None)
    assert again.chat_template == CHATML


MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is <b>2 & 2</b>?\n  "},
    {"role": "assistant", "content": "Four 四."},
    {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": " Yes. "},
]

# Written in the manner of Llama 2: no separators but brackets, a system prompt folded into the first turn, checks.
BRACKETS = """{%- if messages[0]['role'] == 'system' -%}
    {%- set system = '<<' + messages[0]['content'] | trim + '>>\n' -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set system = '' -%}
    {%- set turns = messages -%}
{%- endif -%}
{%- for message in turns -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{- raise_exception('Roles must alternate') -}}
    {%- endif -%}
    {%- if message['role'] == 'user' -%}
        {{- bos_token + '[INST] ' + (system if loop.first else '') + message['content'] | trim + ' [/INST]' -}}
    {%- else -%}
        {%- generation -%}
        {{- ' ' + message['content'] | trim + ' ' + eos_token -}}
        {%- endgeneration -%}
    {%- endif -%}
{%- endfor -%}
"""

TOOLS = """{% for tool in tools %}{{ tool | tojson }}
{{ tool | tojson(indent=2) }}{% endfor %}
{% for message in messages %}{% if message.role == 'tool' %}{% continue %}{% endif %}
{{ message.role }}: {{ message.content }}{% endfor %}"""


@pytest.mark.parametrize("template", [CHATML, BRACKETS])
@pytest.mark.parametrize("prompt", [False, True])
def test_conversations_equal_apply_chat_template(template, prompt, tmp_path):
    ours = TOKENIZERS["bpe"]()
    ours.chat_template = template
    ours.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    messages = MESSAGES[:4] if prompt else MESSAGES
    text = render(messages, template=template, add_generation_prompt=prompt, bos_token="<bos>", eos_token="<eos>")
    assert text == theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    encoded = encode_chat(ours, messages, add_generation_prompt=prompt)
    expected = theirs(text, add_special_tokens=False, split_special_tokens=False)["input_ids"]
    assert encoded.ids == expected


def test_assistant_mask_equals_transformers_generation_mask(tmp_path):
    ours = TOKENIZERS["bpe"]()
    ours.chat_template = BRACKETS
    ours.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    theirs.split_special_tokens = False
    theirs.backend_tokenizer.encode_special_tokens = False
    expected = theirs.apply_chat_template(MESSAGES, return_dict=True, return_assistant_tokens_mask=True)
    encoded = encode_chat(ours, MESSAGES)
    assert encoded.ids == expected["input_ids"]
    assert [int(m) for m in encoded.mask] == expected["assistant_masks"]


def test_json_and_loop_controls_are_those_of_transformers(tmp_path):
    ours = TOKENIZERS["bpe"]()
    ours.chat_template = TOOLS
    ours.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    tools = [{"name": "查询", "html": "<a href='x'>&</a>"}]
    messages = [*MESSAGES, {"role": "tool", "content": "left out"}]
    expected = theirs.apply_chat_template(messages, tools=tools, tokenize=False)
    assert render(messages, template=TOOLS, tools=tools) == expected
