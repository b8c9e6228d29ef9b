"""Word level: one id per word, with a cut-off by count and by size."""

from collections import Counter
from collections.abc import Iterable
from typing import ClassVar, Literal, Self, get_args

from tokenizers import Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordLevel

from core.text.huggingface import SPECIALS, TrainedTokenizer, as_texts
from core.text.treebank import detokenize, treebank_rules

Split = Literal["treebank", "whitespace"]

_CJK = r"[\p{Han}\p{Hiragana}\p{Katakana}\x{3000}-\x{303f}\x{ff00}-\x{ff65}]"


class WordTokenizer(TrainedTokenizer):
    """`<pad> <bos> <eos> <unk>` at ids 0..3, then words from the most to the least frequent.

    Chinese and Japanese put no spaces between words. Finding words there needs a dictionary, and a caption of ten
    characters would otherwise be one unknown word; so each Han, Hiragana or Katakana character, and each of their
    punctuation marks, is a word of its own (as in BERT). `split="whitespace"` takes a text that was segmented
    beforehand, with spaces between its words, as it is.
    """

    kind: ClassVar[str] = "word"

    @classmethod
    def train(
        cls,
        texts: str | Iterable[str],
        *,
        min_count: int = 1,
        max_size: int | None = None,
        split: Split = "treebank",
        lower: bool = False,
    ) -> Self:
        """Count words and keep the frequent ones.

        Args:
            texts: sentences or longer texts; taken one at a time.
            min_count: drop words that occur less often.
            max_size: most ids in all, special tokens included; `None` means no limit. Of equally frequent words the
                alphabetically first stay.
            split: `treebank`: NLTK's rules (contractions, quotes and punctuation apart); `whitespace`: at white space
                only, for text that is tokenised already.
            lower: lower-case every word.

        Raises:
            ValueError: an unknown `split`, `min_count` < 1, or a `max_size` with no room for a word.
        """
        if split not in get_args(Split):
            raise ValueError(f"split must be one of {', '.join(get_args(Split))}, got {split!r}")
        if min_count < 1:
            raise ValueError(f"min_count must be >= 1, got {min_count}")
        if max_size is not None and max_size <= len(SPECIALS):
            raise ValueError(f"max_size must be > {len(SPECIALS)} (the special tokens count), got {max_size}")
        backend = Backend(WordLevel({}, unk_token=SPECIALS["unk"]))
        # A text cannot smuggle in a special token: its spelling is two words, hence unknown. "<unk>" may be spelled,
        # since corpora that were cut off beforehand contain it.
        rules: list[normalizers.Normalizer] = [normalizers.Replace(Regex(r"(?<=<)(?=(?:pad|bos|eos)>)"), " ")]
        if split == "treebank":
            rules.append(treebank_rules())
        if lower:  # last, so that the case of a text does not change where it is split
            rules.append(normalizers.Lowercase())
        backend.normalizer = normalizers.Sequence(rules)
        spaces = pre_tokenizers.WhitespaceSplit()
        characters = pre_tokenizers.Split(Regex(_CJK), "isolated")
        backend.pre_tokenizer = pre_tokenizers.Sequence([spaces, characters]) if split == "treebank" else spaces

        counts: Counter[str] = Counter()
        for text in as_texts(texts):
            counts.update(_pieces(backend, text))
        for token in SPECIALS.values():
            counts.pop(token, None)  # the spelling is taken; in a text it would be an unknown word
        ranked = sorted((word for word, count in counts.items() if count >= min_count), key=lambda w: (-counts[w], w))
        kept = ranked if max_size is None else ranked[: max_size - len(SPECIALS)]
        entries = [*SPECIALS.values(), *kept]
        backend.model = WordLevel({token: i for i, token in enumerate(entries)}, unk_token=SPECIALS["unk"])
        return cls(backend, settings={"word_split": split})

    def split(self, text: str) -> list[str]:
        """The words of a text as this tokenizer sees them, known or not."""
        return list(_pieces(self._backend, text))

    def _decode(self, ids: list[int]) -> str:
        words = [token for i in ids if (token := self._backend.id_to_token(i)) is not None]
        return detokenize(words) if self._settings.get("word_split") == "treebank" else " ".join(words)


def _pieces(backend: Backend, text: str) -> Iterable[str]:
    normalized = backend.normalizer.normalize_str(text)
    return (word for word, _ in backend.pre_tokenizer.pre_tokenize_str(normalized))
