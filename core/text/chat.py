"""Conversations as text and as ids, by the Jinja2 templates that Hugging Face tokenizers carry."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

from core.errors import UserError
from core.text.huggingface import HFTokenizer

if TYPE_CHECKING:
    from jinja2 import Template

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The template used where a tokenizer brings none."""

Message = Mapping[str, Any]
"""{"role": "system" | "user" | "assistant" | …, "content": text}, and what else a template reads."""


class ChatError(UserError, ValueError):
    """Messages or a template that cannot be used."""


@dataclass(frozen=True)
class EncodedChat:
    """A conversation as ids."""

    ids: list[int]
    """Token ids of the whole conversation."""
    mask: list[bool]
    """True for the tokens that the assistant would have to write: its words and the token that ends its turn."""


def render(
    messages: Sequence[Message],
    *,
    template: str = CHATML,
    add_generation_prompt: bool = False,
    bos_token: str = "",
    eos_token: str = "",
    **variables: Any,
) -> str:
    """A conversation as text.

    The template runs in Jinja2's immutable sandbox, so one from a downloaded folder cannot reach the machine.

    Args:
        messages: the turns, oldest first.
        template: a Hugging Face chat template.
        add_generation_prompt: end with the words that open the assistant's turn.
        bos_token: spelling of the beginning-of-sequence token, for templates that write it.
        eos_token: spelling of the end-of-sequence token, for templates that write it.
        variables: what else the template reads, for example `tools`.

    Raises:
        ChatError: malformed messages, a template that is not Jinja2, or one that refuses these messages.
    """
    from jinja2 import TemplateError

    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str) or "content" not in message:
            raise ChatError(f'message {number} must be {{"role": …, "content": …}}, got {message!r}')
    try:
        return _compiled(template).render(
            messages=[dict(message) for message in messages],
            add_generation_prompt=add_generation_prompt,
            bos_token=bos_token,
            eos_token=eos_token,
            **variables,
        )
    except (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ChatError(f"the chat template cannot render these messages: {error}") from error


def encode_chat(
    tokenizer: HFTokenizer,
    messages: Sequence[Message],
    *,
    template: str | None = None,
    add_generation_prompt: bool = False,
    allow_special: bool = False,
    **variables: Any,
) -> EncodedChat:
    """A conversation as ids, with the assistant's turns marked for the loss.

    Special tokens that the template spells become their ids, as in `transformers`. What a turn's mask covers is found
    by rendering the conversation up to that turn, as it is when the assistant is asked, and including the turn: what
    was added is the assistant's. This demands that the shorter text, and its ids, are a prefix of the longer; some
    templates break it (by dropping earlier reasoning, for instance), which is an error here rather than a mask that
    is silently wrong.

    Args:
        tokenizer: makes the ids; its own template is used where it has one.
        messages: the turns, oldest first.
        template: overrides the tokenizer's template; ChatML where there is neither.
        add_generation_prompt: end with the words that open the assistant's turn.
        allow_special: let a message's content spell special tokens. Otherwise it is refused, because whoever wrote
            the content could end the turn and speak in another role.
        variables: what else the template reads.

    Raises:
        ChatError: malformed messages, or a template without the prefix property.
    """
    template = template or tokenizer.chat_template or CHATML
    if not allow_special:
        refuse_special(tokenizer, messages)
    variables = {**_special_spellings(tokenizer), **variables}

    def text(count: int, prompt: bool) -> str:
        return render(messages[:count], template=template, add_generation_prompt=prompt, **variables)

    whole = text(len(messages), add_generation_prompt)
    ids = tokenizer.encode(whole, special=True)
    mask = [False] * len(ids)
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        opening, turn = text(number, True), text(number + 1, False)
        if not (whole.startswith(turn) and turn.startswith(opening)):
            raise ChatError(
                f"turn {number} is rendered otherwise once the conversation goes on, so the template has no prefix "
                "property and the assistant's tokens cannot be told; use another template"
            )
        start, stop = (_prefix_length(tokenizer, part, ids, number) for part in (opening, turn))
        mask[start:stop] = [True] * (stop - start)
        # White space that a template writes after the end of the turn is not the assistant's.
        ends = [place for place in range(start, stop) if ids[place] in turn_ends(tokenizer)]
        if ends:
            mask[ends[-1] + 1 : stop] = [False] * (stop - ends[-1] - 1)
    return EncodedChat(ids, mask)


def encode_prompt(tokenizer: HFTokenizer, messages: Sequence[Message]) -> list[int]:
    """Ids of a conversation up to the words that open the assistant's next turn, by the tokenizer's own template.

    Unlike `encode_chat` it takes templates that render a turn otherwise once the conversation goes on.

    Raises:
        ChatError: malformed messages, or one that spells a special token.
    """
    refuse_special(tokenizer, messages)
    template = tokenizer.chat_template or CHATML
    text = render(messages, template=template, add_generation_prompt=True, **_special_spellings(tokenizer))
    return tokenizer.encode(text, special=True)


def _special_spellings(tokenizer: HFTokenizer) -> dict[str, str]:
    """`bos_token` and `eos_token`, which templates read."""
    ids = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id}
    return {name: "" if i is None else tokenizer.id_to_token(i) or "" for name, i in ids.items()}


def _prefix_length(tokenizer: HFTokenizer, text: str, ids: list[int], turn: int) -> int:
    prefix = tokenizer.encode(text, special=True)
    if ids[: len(prefix)] != prefix:
        raise ChatError(
            f"a token straddles the edge of turn {turn}, so the assistant's tokens cannot be told; put a special token "
            "or a line break at the edge in the template"
        )
    return len(prefix)


def answer_end(tokenizer: HFTokenizer) -> int:
    """Id of the token with which the assistant ends its turn, by the tokenizer's template.

    Raises:
        ChatError: the template writes no special token there.
    """
    ids = tokenizer.encode(after_answer(tokenizer, []), special=True)
    if not ids or ids[0] not in turn_ends(tokenizer):
        raise ChatError(
            "the chat template ends the assistant's turn with no special token, so an answer would never end; use "
            "another template"
        )
    return ids[0]


def after_answer(tokenizer: HFTokenizer, messages: Sequence[Message]) -> str:
    """What the template writes after an answer of the assistant, when these messages follow it.

    Args:
        tokenizer: its own template is used, ChatML where it has none.
        messages: what is said next; with some, the text goes up to the words that open the assistant's next turn.

    Raises:
        ChatError: the template changes what the assistant said, or a message spells a special token.
    """
    refuse_special(tokenizer, messages)
    said = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _ANSWER}, *messages]
    text = render(
        said, template=tokenizer.chat_template or CHATML, add_generation_prompt=bool(messages),
        **_special_spellings(tokenizer),
    )  # fmt: skip
    _, mark, rest = text.rpartition(_ANSWER)
    if not mark:
        raise ChatError("the chat template changes what the assistant said; use another template")
    return rest


_ANSWER = "\N{SYMBOL FOR UNIT SEPARATOR}"
"""Stands for an answer that the template puts between its words."""


def turn_ends(tokenizer: HFTokenizer) -> frozenset[int]:
    """Ids that end a turn: what ends a text, and ChatML's end of a message."""
    end = tokenizer.token_to_id("<|im_end|>")
    return frozenset((*tokenizer.stop_ids, *(() if end is None else (end,))))


def refuse_special(tokenizer: HFTokenizer, messages: Sequence[Message]) -> None:
    """Refuse messages that spell a special token, and could so speak in another role.

    Raises:
        ChatError: one does.
    """
    spellings = tokenizer.special_tokens()
    for number, message in enumerate(messages):
        for text in _strings(message.get("content") if isinstance(message, Mapping) else None):
            if found := _spelled(spellings, text):
                raise ChatError(
                    f"message {number} spells the special token {found}; remove it, or pass allow_special=True if the "
                    "message is trusted"
                )


def without_special(tokenizer: HFTokenizer, text: str) -> str:
    """A text without the special tokens that it spells, as decoding leaves out those that were sampled.

    For what a policy said, letter by letter: it must neither speak in another role nor be asked to say it otherwise.
    """
    spellings = tokenizer.special_tokens()
    while found := _spelled(spellings, text):
        text = text.replace(found, "")
    return text


def _spelled(spellings: Iterable[str], text: str) -> str | None:
    """The first of the tokens that the text spells."""
    return next((token for token in spellings if token in text), None)


def _strings(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, Mapping):
        for value in content.values():
            yield from _strings(value)
    elif isinstance(content, Sequence):
        for value in content:
            yield from _strings(value)


@lru_cache(maxsize=32)
def _compiled(template: str) -> "Template":
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class GenerationBlock(Extension):
        """`{% generation %}…{% endgeneration %}`: marks the assistant's words in some templates; rendered as it is."""

        tags = {"generation"}  # noqa: RUF012 (jinja2's protocol)

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", GenerationBlock]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _now
    try:
        return environment.from_string(template)
    except TemplateError as error:
        raise ChatError(f"the chat template is not valid Jinja2: {error}") from error


def _to_json(value: Any, indent: int | None = None) -> str:
    # Jinja2's own filter escapes < and > for HTML, which would change the text that a model reads.
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)
