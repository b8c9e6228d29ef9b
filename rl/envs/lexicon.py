"""Steer the sentiment of a text, judged by a list of words; with a reward that can be hacked."""

import re
from collections.abc import Hashable, Sequence
from typing import Any, Literal, Unpack, get_args

from gymnasium.spaces import Text

from rl.envs.text import Limits, TextEnv
from rl.envs.valences import STRONGEST, VALENCES

Tone = Literal["good", "bad", "either"]
WORDS = tuple(sorted(VALENCES))


def sentiment(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """A reward function: the sum of the valences of the different words of a text, per word, from -1 to 1.

    Args:
        prompts: not looked at.
        completions: texts to be judged; words that are not in the list count 0, and so does a text without words.
        columns: not looked at.
    """
    return [_mean_valence(_words(text), once=True) for text in completions]


def sentence_sentiment(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """As `sentiment`, but a text of fewer than ten words is taken for one of ten, or one word would please most."""
    return [_mean_valence(_words(text), once=True, at_least=10) for text in completions]


def repeated_sentiment(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """As `sentiment`, but a word counts as often as it is said: what a policy that says one word only gets most from.

    A proxy for `sentiment`, to show how a reward is hacked.
    """
    return [_mean_valence(_words(text), once=False) for text in completions]


class Sentences(Text):
    """Texts of so many words of `WORDS`, with a blank between two.

    Args:
        num_words: how many.
    """

    def __init__(self, num_words: int) -> None:
        shortest, longest = min(map(len, WORDS)), max(map(len, WORDS))
        blanks = num_words - 1
        letters = "".join(sorted(set("".join(WORDS))))
        super().__init__(num_words * longest + blanks, min_length=num_words * shortest + blanks, charset=letters + " ")
        self.num_words = num_words

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """Uniformly random words."""
        if mask is not None or probability is not None:
            raise ValueError("a sentence is drawn word by word: mask and probability of letters must be None")
        return " ".join(WORDS[i] for i in self.np_random.integers(len(WORDS), size=self.num_words).tolist())

    def contains(self, x: Any) -> bool:
        """Whether it is such a text."""
        words = x.split(" ") if isinstance(x, str) else []
        return len(words) == self.num_words and all(word in VALENCES for word in words)


class LexiconEnv(TextEnv):
    """One turn: say a sentence in the tone that the observation asks for (`good:` or `bad:`).

    A sentence is `num_words` words of a list of about 200, good, neutral and bad ones. The reward is the sum of the
    valences of its different words, per word, from -1 to 1; with a bad tone it is turned around. With `proxy` repeated
    words count again, so that saying one strong word over and over is as good as the best sentence. `info` has both,
    as `true_reward` and `proxy_reward`.

    Args:
        num_words: of a sentence, 1 to 20.
        tone: `good`, `bad`, or `either`, drawn for each episode.
        proxy: see above.
        limits: `max_invalid`, by default 1; `invalid_penalty`, by default 1.1, so that giving up is dearer than the
            worst sentence; `render_mode`.
    """

    def __init__(
        self, *, num_words: int = 4, tone: Tone = "either", proxy: bool = False, **limits: Unpack[Limits]
    ) -> None:
        if not 1 <= num_words <= 20:
            raise ValueError(f"num_words must be from 1 to 20, got {num_words}")
        if tone not in get_args(Tone):
            raise ValueError(f"tone must be one of {', '.join(get_args(Tone))}, got {tone!r}")
        limits.setdefault("max_invalid", 1)
        limits.setdefault("invalid_penalty", 1.1)
        tones = ("good", "bad") if tone == "either" else (tone,)
        super().__init__(
            observation_space=Text(5, min_length=4, charset="abdgo:"), action_space=Sentences(num_words), **limits
        )
        self.proxy = proxy
        self._tones: tuple[str, ...] = tones
        self._tone = tones[0]
        self._rewards: dict[str, float] = {}
        self._good, self._bad = _strongest(num_words, 1), _strongest(num_words, -1)
        self.optimal_return = sum(self._score(self._sentence(tone), tone, proxy) for tone in tones) / len(tones)
        # A word is in a uniformly random sentence with this expected count, or with this probability.
        expected = num_words / len(WORDS) if proxy else 1 - (1 - 1 / len(WORDS)) ** num_words
        fair = sum(VALENCES.values()) * expected / (STRONGEST * num_words)
        self.random_return = sum(fair if tone == "good" else -fair for tone in tones) / len(tones)

    def _start(self) -> None:
        self._tone = self._tones[int(self.np_random.integers(len(self._tones)))]
        self._rewards = {}

    def _observe(self) -> str:
        return self._tone + ":"

    def _act(self, action: str) -> tuple[float, bool]:
        self._rewards = {
            "true_reward": self._score(action, self._tone, False), "proxy_reward": self._score(action, self._tone, True)
        }  # fmt: skip
        return self._rewards["proxy_reward" if self.proxy else "true_reward"], True

    def _info(self, *, valid: bool) -> dict[str, Any]:
        return super()._info(valid=valid) | self._rewards

    def _best(self) -> str:
        return self._sentence(self._tone)

    def _state_key(self) -> Hashable:
        return self._tone

    def _sentence(self, tone: str) -> str:
        return self._good if tone == "good" else self._bad

    @staticmethod
    def _score(text: str, tone: str, proxy: bool) -> float:
        value = _mean_valence(text.split(" "), once=not proxy)
        return value if tone == "good" else -value


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def _mean_valence(words: Sequence[str], *, once: bool, at_least: int = 1) -> float:
    counted = dict.fromkeys(words) if once else words
    return sum(VALENCES.get(word, 0) for word in counted) / (STRONGEST * max(len(words), at_least))


def _strongest(num_words: int, sign: int) -> str:
    """Different words with the largest sum of valences, or the smallest with sign -1."""
    return " ".join(sorted(WORDS, key=lambda word: -sign * VALENCES[word])[:num_words])
