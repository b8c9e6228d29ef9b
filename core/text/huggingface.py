"""A tokenizer over the `tokenizers` library that reads and writes Hugging Face folders.

The trained tokenizers (characters, bytes, words, BPE) extend it, so all of them save files that
`transformers.AutoTokenizer` loads with equal ids.
"""

import copy
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from core.text.atomic import replace_file, write_json

ROLES = ("pad", "bos", "eos", "unk")
SPECIALS = {role: f"<{role}>" for role in ROLES}
"""Spelling of the special tokens in the tokenizers that are trained here."""


class HFTokenizer:
    """Text to ids and back through a `tokenizers` pipeline.

    Attributes:
        pad_id, bos_id, eos_id, unk_id: ids of the special tokens, `None` where the tokenizer has none.
        stop_ids: every id that ends a generation (`eos_id` and what generation_config.json adds).
        chat_template: Jinja2 template of a conversation, `None` without one.
    """

    kind: ClassVar[str] = "hf"

    def __init__(
        self,
        backend: Backend,
        *,
        tokens: Mapping[str, str] | None = None,
        stop_ids: Sequence[int] = (),
        settings: Mapping[str, Any] | None = None,
        chat_template: str | None = None,
    ) -> None:
        """Wrap a pipeline.

        Args:
            backend: the pipeline; it is not copied.
            tokens: spelling of the special tokens by role (`pad`, `bos`, `eos`, `unk`); a missing role has no id.
            stop_ids: more ids than `eos_id` that end a generation.
            settings: the rest of tokenizer_config.json, written again by `save`.
            chat_template: Jinja2 template of a conversation.
        """
        self._backend = backend
        self._tokens = dict(tokens or {})
        self._settings = dict(settings or {})
        self._parses_special = not self._settings.get("split_special_tokens", False)
        self.chat_template = chat_template
        self.pad_id = self._special_id("pad")
        self.bos_id = self._special_id("bos")
        self.eos_id = self._special_id("eos")
        self.unk_id = self._special_id("unk")
        eos = () if self.eos_id is None else (self.eos_id,)
        self.stop_ids = tuple(dict.fromkeys((*eos, *stop_ids)))
        added = {i for i, token in backend.get_added_tokens_decoder().items() if token.special}
        named = {i for i in (self.pad_id, self.bos_id, self.eos_id) if i is not None}
        # An unknown word stays visible: a metric that never sees it would flatter the model.
        self._hidden = frozenset((added | named) - {self.unk_id})
        self._ids = {*backend.get_vocab().values()}
        self.vocab_size = max(self._ids, default=-1) + 1
        """Number of rows an embedding needs: the largest id + 1."""

    @classmethod
    def from_folder(cls, folder: Path | str) -> Self:
        """Load any folder with a Hugging Face `tokenizer.json`.

        Special tokens come from tokenizer_config.json, then special_tokens_map.json, then the ids in
        generation_config.json and config.json.

        Raises:
            ValueError: no `tokenizer.json`, or a file in the folder that cannot be read.
        """
        folder = Path(folder)
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise ValueError(
                f"no tokenizer.json in {folder}; give a folder that a Trillium tokenizer or "
                "transformers' save_pretrained wrote (a slow tokenizer has to be saved by transformers first)"
            )
        try:
            backend = Backend.from_file(str(file))
        except Exception as error:  # `tokenizers` raises bare Exception
            raise ValueError(f"{file} is not a tokenizer of the `tokenizers` library: {error}") from error
        # Truncation and padding belong to a caller, and would silently shorten a training text.
        backend.no_truncation()
        backend.no_padding()
        settings = _read_json(folder / "tokenizer_config.json")
        special_map = _read_json(folder / "special_tokens_map.json")
        models = [_read_json(folder / name) for name in ("generation_config.json", "config.json")]
        tokens: dict[str, str] = {}
        for role in ROLES:
            name = f"{role}_token"
            spelled = _spelling(settings.pop(name, None)) or _spelling(special_map.get(name))
            ids = [i for model in models for i in _id_list(model.get(f"{name}_id"))]
            token = spelled or next((t for i in ids if (t := backend.id_to_token(i)) is not None), None)
            if token is not None and backend.token_to_id(token) is not None:
                tokens[role] = token
        stops = [i for i in _id_list(models[0].get("eos_token_id")) if backend.id_to_token(i) is not None]
        chat = _chat_template(folder, settings.pop("chat_template", None))
        return cls(backend, tokens=tokens, stop_ids=stops, settings=settings, chat_template=chat)

    def encode(
        self, text: str, *, add_bos: bool = False, add_eos: bool = False, special: bool | None = None
    ) -> list[int]:
        """Ids of a text, without special tokens unless asked for.

        Args:
            text: any string.
            add_bos: put `bos_id` in front.
            add_eos: put `eos_id` at the end.
            special: whether a special token spelled out in the text (`<eos>`) becomes its id (True) or is
                ordinary text (False). `None`: False for the tokenizers trained here, so that data and users cannot
                smuggle one in; for other folders what their tokenizer_config.json says, which is what
                `transformers` does.

        Raises:
            ValueError: a token asked for that this tokenizer lacks, a lone surrogate, or, without an unknown
                token, a character outside the vocabulary.
        """
        _check_text(text)
        ids = self._encode(text, self._parses_special if special is None else special)
        return self._framed(ids, add_bos, add_eos)

    def encode_batch(self, texts: Sequence[str], *, add_bos: bool = False, add_eos: bool = False) -> list[list[int]]:
        """`encode` for many texts; the library spreads them over threads."""
        for text in texts:
            _check_text(text)
        encodings = self._backend_for(self._parses_special).encode_batch_fast(list(texts), add_special_tokens=False)
        return [self._framed(encoding.ids, add_bos, add_eos) for encoding in encodings]

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Text of some ids.

        Args:
            ids: token ids, a tensor row included.
            skip_special: leave out special tokens, all but the unknown token.

        Raises:
            ValueError: an id outside the vocabulary.
        """
        kept = []
        for value in ids:
            number = int(value)
            if number not in self._ids:
                raise ValueError(f"id {number} is not in the vocabulary of {self.vocab_size} ids")
            if not (skip_special and number in self._hidden):
                kept.append(number)
        return self._decode(kept)

    def id_to_token(self, token_id: int) -> str | None:
        """Spelling of one id as the vocabulary has it, `None` outside it."""
        return self._backend.id_to_token(token_id)

    def token_to_id(self, token: str) -> int | None:
        """Id of one vocabulary entry, `None` without it."""
        return self._backend.token_to_id(token)

    def vocabulary(self) -> dict[str, int]:
        """Every token with its id, special tokens included."""
        return self._backend.get_vocab()

    def special_tokens(self) -> dict[str, int]:
        """Spelling and id of every special token, named roles and others (such as `<|im_end|>`)."""
        added = {token.content: i for i, token in self._backend.get_added_tokens_decoder().items() if token.special}
        named = {token: i for token in self._tokens.values() if (i := self._backend.token_to_id(token)) is not None}
        return added | named

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the pipeline and the special ids: equal fingerprints mean equal ids for every text."""
        content = json.loads(self._backend.to_str())
        content["special_ids"] = [self.pad_id, self.bos_id, self.eos_id, self.unk_id]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def save(self, folder: Path | str) -> None:
        """Write tokenizer.json, tokenizer_config.json, special_tokens_map.json and, with one, chat_template.jinja."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        named = {f"{role}_token": token for role, token in self._tokens.items()}
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", **self._settings}
        # transformers would otherwise delete spaces before punctuation when it decodes.
        settings.setdefault("clean_up_tokenization_spaces", False)
        if self.kind != "hf":
            settings["trillium_kind"] = self.kind
        with replace_file(folder / "tokenizer.json") as file:
            file.write(self._backend.to_str(pretty=True).encode())
        write_json(folder / "tokenizer_config.json", dict(sorted((settings | named).items())))
        write_json(folder / "special_tokens_map.json", named)
        if self.chat_template is not None:
            with replace_file(folder / "chat_template.jinja") as file:
                file.write(self.chat_template.encode())

    def _encode(self, text: str, special: bool) -> list[int]:
        return self._backend_for(special).encode(text, add_special_tokens=False).ids

    def _decode(self, ids: list[int]) -> str:
        return self._backend.decode(ids, skip_special_tokens=False)

    def _framed(self, ids: list[int], add_bos: bool, add_eos: bool) -> list[int]:
        if add_bos:
            if self.bos_id is None:
                raise ValueError("add_bos: this tokenizer has no beginning-of-sequence token")
            ids = [self.bos_id, *ids]
        if add_eos:
            if self.eos_id is None:
                raise ValueError("add_eos: this tokenizer has no end-of-sequence token")
            ids = [*ids, self.eos_id]
        return ids

    def _special_id(self, role: str) -> int | None:
        token = self._tokens.get(role)
        return None if token is None else self._backend.token_to_id(token)

    def _backend_for(self, special: bool) -> Backend:
        return self._backend if special else self._plain_backend

    @cached_property
    def _plain_backend(self) -> Backend:
        # A copy, because the flag is state of the pipeline and two threads may want different values.
        plain = copy.deepcopy(self._backend)
        plain.encode_special_tokens = True
        return plain


class TrainedTokenizer(HFTokenizer):
    """What the tokenizers trained here share: fixed special tokens, which ordinary text can never spell."""

    def __init__(self, backend: Backend, *, settings: Mapping[str, Any] | None = None, **rest: Any) -> None:
        """Wrap a pipeline whose vocabulary holds the special tokens; see `HFTokenizer`."""
        tokens = {role: token for role, token in SPECIALS.items() if backend.token_to_id(token) is not None}
        backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens.values()])
        rest.pop("tokens", None)
        super().__init__(backend, tokens=tokens, settings={"split_special_tokens": True, **(settings or {})}, **rest)


def as_texts(texts: str | Iterable[str]) -> Iterable[str]:
    """A single string as an iterable of one; iterating over it would train on its characters one by one."""
    return [texts] if isinstance(texts, str) else texts


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"character {error.start} of the text is the lone surrogate {text[error.start]!r}, which is not Unicode "
            "text; clean it with core.text.cleaning or decode the file with errors='replace'"
        ) from None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, found {type(content).__name__}")
    return content


def _spelling(token: Any) -> str | None:
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _id_list(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [v for v in values if isinstance(v, int) and not isinstance(v, bool)]


def _chat_template(folder: Path, configured: Any) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    if isinstance(configured, list):  # several named templates: [{"name": ..., "template": ...}, ...]
        configured = {entry["name"]: entry["template"] for entry in configured}.get("default")
    return configured if isinstance(configured, str) else None
