"""A small probabilistic grammar of English sentences, for which every score is exact.

The default text of the GAN recipes: it needs no download, and a sentence either is in the language or is not, so
"does adversarial training help?" has an answer that no learned judge and no n-gram overlap gives.
"""

import math
import random
from collections.abc import Mapping, Sequence
from functools import cached_property

Rules = Mapping[str, Sequence[tuple[float, tuple[str, ...]]]]
"""Weighted expansions of every nonterminal; a symbol that is no key is a word."""


class Grammar:
    """A probabilistic context-free grammar without recursion.

    Args:
        rules: expansions; the weights of a nonterminal need not add up to 1.
        start: the nonterminal of a sentence.

    Raises:
        ValueError: if the start has no rule, a weight is not positive, or a nonterminal can contain itself.
    """

    def __init__(self, rules: Rules, start: str = "S") -> None:
        if start not in rules:
            raise ValueError(f"the start symbol {start!r} has no rule")
        self.start = start
        self.rules: dict[str, list[tuple[float, tuple[str, ...]]]] = {}
        for symbol, expansions in rules.items():
            total = sum(weight for weight, _ in expansions)
            if not expansions or min(weight for weight, _ in expansions) <= 0:
                raise ValueError(f"the rule of {symbol!r} needs expansions with weights > 0")
            self.rules[symbol] = [(weight / total, parts) for weight, parts in expansions]
        self._measure(start, ())

    def sample(self, rng: random.Random) -> str:
        """One sentence, words separated by spaces."""
        words: list[str] = []
        stack = [self.start]
        while stack:
            symbol = stack.pop()
            if symbol not in self.rules:
                words.append(symbol)
                continue
            expansions = self.rules[symbol]
            (parts,) = rng.choices([p for _, p in expansions], [w for w, _ in expansions])
            stack.extend(reversed(parts))
        return " ".join(words)

    def probability(self, sentence: str) -> float:
        """Probability of a sentence; 0 exactly where it is not in the language."""
        words = sentence.split()
        known: dict[tuple[str, int], dict[int, float]] = {}

        def ends(symbol: str, start: int) -> dict[int, float]:
            """Where `symbol` can end when it begins at word `start`, with the probability of each end."""
            if symbol not in self.rules:
                return {start + 1: 1.0} if start < len(words) and words[start] == symbol else {}
            if (symbol, start) not in known:
                found: dict[int, float] = {}
                for weight, parts in self.rules[symbol]:
                    reached = {start: weight}
                    for part in parts:
                        step: dict[int, float] = {}
                        for middle, so_far in reached.items():
                            for end, probability in ends(part, middle).items():
                                step[end] = step.get(end, 0.0) + so_far * probability
                        reached = step
                    for end, probability in reached.items():
                        found[end] = found.get(end, 0.0) + probability
                known[symbol, start] = found
            return known[symbol, start]

        return ends(self.start, 0).get(len(words), 0.0)

    def accepts(self, sentence: str) -> bool:
        """Whether the sentence is in the language."""
        return self.probability(sentence) > 0

    @cached_property
    def words(self) -> list[str]:
        """Every word that can occur, in alphabetical order."""
        parts = {part for expansions in self.rules.values() for _, symbols in expansions for part in symbols}
        return sorted(parts - set(self.rules))

    @property
    def entropy(self) -> float:
        """Entropy of a sentence in nats, for a grammar in which every sentence has one derivation."""
        return self._measure(self.start, ())[0]

    @property
    def mean_length(self) -> float:
        """Expected number of words of a sentence."""
        return self._measure(self.start, ())[1]

    def _measure(self, symbol: str, above: tuple[str, ...]) -> tuple[float, float]:
        """Entropy of the derivations from `symbol`, and their expected length."""
        if symbol not in self.rules:
            return 0.0, 1.0
        if symbol in above:
            raise ValueError(f"the nonterminal {symbol!r} can contain itself; this grammar must be finite")
        entropy = length = 0.0
        for weight, parts in self.rules[symbol]:
            inner = [self._measure(part, (*above, symbol)) for part in parts]
            entropy += weight * (sum(e for e, _ in inner) - math.log(weight))
            length += weight * sum(n for _, n in inner)
        return entropy, length


NOUNS = "cat dog fox owl king queen pilot farmer teacher robot singer doctor".split()
INTRANSITIVE = {"sleep": "slept", "sing": "sang", "run": "ran", "wait": "waited", "laugh": "laughed", "dance": "danced"}
TRANSITIVE = {
    "see": "saw", "follow": "followed", "help": "helped", "admire": "admired", "paint": "painted", "know": "knew",
    "call": "called", "draw": "drew",
}  # fmt: skip
ADJECTIVES = "old young small tall happy tired clever proud".split()
ADVERBS = "quietly often well again".split()
PLACES = "garden forest castle river market".split()


def _any(words: Sequence[str]) -> list[tuple[float, tuple[str, ...]]]:
    """Words with Zipf's weights, 1 / rank."""
    return [(1 / rank, (word,)) for rank, word in enumerate(words, start=1)]


def english() -> Grammar:
    """Sentences of 3 to 17 words in which number, tense and reflexives must agree, also across relative clauses.

    For example "yesterday the owls that the king admires painted themselves ." The verb agrees with "owls" over the
    clause between them, the tense with "yesterday", the reflexive with the subject. Every sentence has one derivation.
    """
    rules: dict[str, list[tuple[float, tuple[str, ...]]]] = {
        "Time_now": _any(["today", "now"]),
        "Time_past": _any(["yesterday", "once"]),
        "Det_sg": _any(["the", "every", "this", "each"]),
        "Det_pl": _any(["the", "some", "two", "these"]),
        "N_sg": _any(NOUNS),
        "N_pl": _any([noun + "s" if not noun.endswith("x") else noun + "es" for noun in NOUNS]),
        "Adj": _any(ADJECTIVES),
        "Adv": _any(ADVERBS),
        "PP": [(1.0, ("Prep", "the", "Place"))],
        "Prep": _any(["in", "near", "behind"]),
        "Place": _any(PLACES),
        "Obj": [(1.0, ("Plain_sg",)), (1.0, ("Plain_pl",))],
        "Self_sg": [(1.0, ("itself",))],
        "Self_pl": [(1.0, ("themselves",))],
        "S": [],
    }
    for verbs, kind in ((INTRANSITIVE, "Vi"), (TRANSITIVE, "Vt")):
        rules[f"{kind}_sg_now"] = _any([verb + "s" for verb in verbs])
        rules[f"{kind}_pl_now"] = _any(list(verbs))
        rules[f"{kind}_sg_past"] = rules[f"{kind}_pl_past"] = _any(list(verbs.values()))
    copula = {"sg_now": "is", "pl_now": "are", "sg_past": "was", "pl_past": "were"}
    for number in ("sg", "pl"):
        rules[f"Plain_{number}"] = [
            (2.0, (f"Det_{number}", f"N_{number}")),
            (1.0, (f"Det_{number}", "Adj", f"N_{number}")),
        ]
        rules[f"NP_{number}"] = [(1.0, (f"Plain_{number}",)), (1.0, (f"Plain_{number}", "that", f"Rel_{number}"))]
        rules[f"Rel_{number}"] = [
            (1.0, (f"Vi_{number}_now",)),
            (1.0, (f"Vt_{number}_now", "Obj")),
            (1.0, ("Plain_sg", "Vt_sg_now")),
            (1.0, ("Plain_pl", "Vt_pl_now")),
        ]
        for tense in ("now", "past"):
            form = f"{number}_{tense}"
            rules[f"VP_{form}"] = [
                (1.0, (f"Vi_{form}",)),
                (1.0, (f"Vi_{form}", "Adv")),
                (1.0, (f"Vi_{form}", "PP")),
                (2.0, (f"Vt_{form}", "Obj")),
                (1.0, (f"Vt_{form}", f"Self_{number}")),
                (1.0, (copula[form], "Adj")),
            ]
            rules["S"].append((1.0, (f"NP_{number}", f"VP_{form}", ".")))
            rules["S"].append((1.0, (f"Time_{tense}", f"NP_{number}", f"VP_{form}", ".")))
    return Grammar(rules)
