"""Treebank word splitting, as NLTK's `word_tokenize` does it on a sentence, and the way back.

The rules are written as space insertions (zero-width matches with look-around) for the `tokenizers` library. So the
very rules that `word_tokenize` runs travel inside a `tokenizer.json`, and any Hugging Face loader splits words alike.
NLTK and its `punkt` download are needed for nothing; a test compares the two.

References:
    MacIntyre 1995, the Penn Treebank tokenisation script; Bird et al. 2009, "Natural Language Processing with Python".
"""

from collections.abc import Iterable
from functools import cache

from tokenizers import Regex, normalizers

# NLTK's quote rules and its contraction rules run on two engines that differ in what a word character is.
_WORD = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\u200c\u200d"
_LETTER = r"\p{L}\p{N}_"
_SPACE = r"\s\x1c-\x1f"


def _insert(places: str) -> tuple[Regex, str]:
    """A rule that puts a space at some places, given as zero-width matches."""
    # Not before the first character: it would change no word, and the library cannot lower-case a text with an
    # insertion there.
    return Regex(rf"(?!\A)(?:{places})"), " "


def _around(characters: str) -> str:
    """A place directly before or after one of the characters of a class."""
    return f"(?=[{characters}])|(?<=[{characters}])"


def _colons() -> str:
    # A colon or comma is cut off unless a digit follows ("3,36", "10:45"). The classic rule consumes the character
    # after the mark as well, so of a row of marks only every second one, from the left, starts a cut. The look-behind
    # counts them; it is bounded because an unbounded one would cost quadratic time on a page full of commas. Beyond the
    # bound every mark is cut off.
    even = r"(?<=(?:\A|[^:,])(?:[:,][:,]){0,64})"
    odd = r"(?<=(?:\A|[^:,])(?:[:,][:,]){0,64}[:,])"
    last = r"\n?\z"
    return "|".join(
        [
            rf"(?=[:,]\D){even}",
            rf"(?<=[:,])(?=\D){odd}",
            rf"(?=[:,]{last})",
            rf"(?<=[:,])(?={last})",
            r"(?<=[:,]{128})(?=[:,]|\D)",
        ]
    )


def _fused_words() -> str:
    """The joints of words that are one in writing and two in the Treebank: can|not, gon|na, d|'ye."""
    pairs = [
        ("can", "not"),
        ("d", "'ye"),
        ("gim", "me"),
        ("gon", "na"),
        ("got", "ta"),
        ("lem", "me"),
        ("more", "'n"),
    ]
    after, before = rf"(?<=(?:\A|[^{_LETTER}])", rf"(?![{_LETTER}])"
    places = []
    for left, right in pairs:
        places += [
            rf"{after})(?={left}{right}(?:[^{_LETTER}]|\z))",
            rf"{after}{left})(?={right}(?:[^{_LETTER}]|\z))",
            rf"{after}{left}{right}){before}",
        ]
    # "wanna" needs white space after it, so "wanna-be" stays whole.
    places += [rf"{after})(?=wanna[{_SPACE}])", rf"{after}wan)(?=na[{_SPACE}])"]
    return "(?i:" + "|".join(places) + ")"


def _archaic(verb: str) -> str:
    """The joint of 'tis or 'twas after a space; seldom seen, because the rule for opening quotes comes first."""
    return rf"(?i:(?<= 't)(?={verb}[^{_LETTER}])|(?<= 't{verb})(?=[^{_LETTER}]))"


def treebank_rules() -> normalizers.Sequence:
    """A normaliser after which splitting at white space gives the Treebank words.

    Opening double quotes become two backticks and closing ones two apostrophes, as in the Treebank.
    """
    clitic = rf"(?i:re|ve|ll|m|t|s|d|n)(?![{_WORD}])"
    rules: list[tuple[str | Regex, str]] = [
        # Opening quotes.
        _insert(rf"{_around('«“‘„')}|(?<!`)(?=`)|(?<=`)(?!`)"),
        (Regex(r'\A"'), "``"),
        ("``", " `` "),
        (Regex(r"""(?<=[ (\[{<])(?:"|'')"""), " `` "),
        (Regex(rf"(?<![{_WORD}])'(?=[{_WORD}])(?!{clitic})"), "' "),
        # Punctuation. Only the last full stop of the text ends a sentence; the others may belong to abbreviations.
        (Regex(r"""(?<=[^.])\.(?=[\])}>"'»”’ ]*\s*\z)"""), " . "),
        _insert(_colons()),
        _insert(rf"(?<!\.)(?=\.\.)|(?<=\.\.)(?!\.)|{_around(';@#$%&?!‒-―')}"),
        _insert(r"(?<=[^'])(?=' )"),
        _insert(_around(r"*\]\[(){}<>")),
        ("--", " -- "),
        # Closing quotes and clitics, the last of which needs a space after it.
        _insert(r"\z"),
        _insert(_around("»”’")),
        ("''", " '' "),
        ('"', " '' "),
        (Regex(r"\s+"), " "),
        _insert(r"(?<=[^' ])(?='[sSmMdD]? )"),
        _insert(r"(?<=[^' ])(?=(?:'ll|'LL|'re|'RE|'ve|'VE|n't|N'T) )"),
        _insert(_fused_words()),
        _insert(_archaic("is")),
        _insert(_archaic("was")),
        # Python splits at the four information separators, the `tokenizers` library does not.
        (Regex(r"[\x1c-\x1f]"), " "),
    ]
    return normalizers.Sequence([normalizers.Replace(pattern, content) for pattern, content in rules])


@cache
def _rules() -> normalizers.Sequence:
    return treebank_rules()


def word_tokenize(text: str) -> list[str]:
    """Words of one sentence by the Treebank rules: contractions, quotes and punctuation apart.

    Equals NLTK's `word_tokenize(text, preserve_line=True)`. Give it a sentence: of a longer text only the last full
    stop is cut off.

    >>> word_tokenize("They can't pay $3.88.")
    ['They', 'ca', "n't", 'pay', '$', '3.88', '.']
    """
    return _rules().normalize_str(text).split()


_LEFT = {*",.:;?!%)]}»”’", "...", "--", "''", "'s", "'m", "'d", "'ll", "'re", "'ve", "n't"}
_RIGHT = {*"([{$#«“‘„", "``", "--"}
_BEFORE_APOSTROPHE = {"o", "i", "th", ".", "?", "!"}
_JOINED = {"can not", "d 'ye", "gim me", "gon na", "got ta", "lem me", "more 'n", "wan na"}


def detokenize(words: Iterable[str]) -> str:
    """Put Treebank words together as they are commonly written.

    The words do not say everything (which quotes were straight, "can not" or "cannot", the width of spaces), so this
    is the usual spelling, not the lost original. Chinese and Japanese characters are joined without a space.

    >>> detokenize(["They", "ca", "n't", "pay", "(", "$", "3.88", ")", "."])
    "They can't pay ($3.88)."
    """
    pieces: list[str] = []
    previous, quoted, glue = "", False, True
    for word in words:
        attach_left, attach_right = word.lower() in _LEFT, word in _RIGHT
        if word == "'":
            # Closes a quotation, or stands for letters left out (dogs', o', i'); otherwise it opens a quotation.
            attach_left = quoted or previous[-1:] in ("s", "S") or previous.lower() in _BEFORE_APOSTROPHE
            attach_right = not attach_left
            quoted = attach_right
        fused = f"{previous} {word}".lower() in _JOINED
        if not (glue or attach_left or fused or (_unspaced(previous[-1:]) and _unspaced(word[:1]))):
            pieces.append(" ")
        pieces.append('"' if word in ("``", "''") else word)
        previous, glue = word, attach_right
    return "".join(pieces)


def _unspaced(character: str) -> bool:
    """Whether a character is of a script, or a punctuation mark of one, that puts no spaces between words."""
    code = ord(character) if character else 0
    return (
        0x3000 <= code <= 0x30FF or 0x3400 <= code <= 0x9FFF or 0xFF00 <= code <= 0xFF65 or 0x20000 <= code <= 0x3FFFF
    )
