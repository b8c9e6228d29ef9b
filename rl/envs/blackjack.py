"""Gymnasium's Blackjack as text."""

from functools import cache
from typing import NamedTuple, Unpack

from rl.envs.markov import MarkovTextEnv
from rl.envs.tabular import Outcome, Table, tabulate
from rl.envs.text import Limits

CARDS = dict.fromkeys(range(1, 10), 1 / 13) | {10: 4 / 13}
"""Probability of each value; an ace is 1. Cards are drawn with replacement."""
MAX_TURNS = 20
"""Of the longest game, all aces: from a soft 12 to a soft 21, on to a hard 21, and one that busts."""


class Hand(NamedTuple):
    """The player's cards and the dealer's."""

    total: int
    """An ace counts 11 where that does not bust."""
    soft: bool
    """An ace counts 11."""
    natural: bool
    """An ace and a ten, dealt."""
    dealer: int
    """The dealer's open card while the player plays, its total afterwards."""


class BlackjackTextEnv(MarkovTextEnv):
    """Get closer to 21 than the dealer, without going over. Reward 1 for winning, -1 for losing, 0 for a draw.

    The observation is `h14d10:` for a hard 14 against a ten, with `s` for a soft hand and `n` for a natural; the last
    one has the dealer's total. The action is H (hit) or S (stick). The dealer sticks at 17.

    Args:
        sab: the rules of Sutton and Barto, which Gymnasium registers: a natural beats a 21 that isn't one.
        natural: a natural that wins pays 1.5; without effect under `sab`.
        limits: `max_invalid`; `invalid_penalty`, by default 0.5, so that giving up is dearer than losing;
            `render_mode`.

    References:
        Sutton and Barto 2018, "Reinforcement Learning: An Introduction", example 5.1.
    """

    def __init__(self, *, sab: bool = True, natural: bool = False, **limits: Unpack[Limits]) -> None:
        limits.setdefault("invalid_penalty", 0.5)
        super().__init__(_table(sab, natural and not sab), observations="0123456789dhns:", actions="HS", **limits)

    def render(self) -> str:
        """Both hands in words."""
        hand: Hand = self._state_key()
        kind = "a natural" if hand.natural else "soft" if hand.soft else "hard"
        return f"you have {hand.total} ({kind}), the dealer {'shows' if hand.dealer <= 10 else 'has'} {hand.dealer}"


@cache
def _table(sab: bool, natural_pays: bool) -> Table:
    def moves(hand: Hand) -> dict[str, list[Outcome]]:
        return {"H": _hit(hand), "S": _stick(hand, sab, natural_pays)}

    starts: dict[Hand, float] = {}
    for dealer, chance in CARDS.items():
        for first, first_chance in CARDS.items():
            for second, second_chance in CARDS.items():
                total, soft = _add(*_add(0, False, first), second)
                hand = Hand(total, soft, total == 21, dealer)
                starts[hand] = starts.get(hand, 0.0) + chance * first_chance * second_chance
    return tabulate(starts, moves, _observe, MAX_TURNS)


def _observe(hand: Hand) -> str:
    return f"{'n' if hand.natural else 's' if hand.soft else 'h'}{hand.total:02}d{hand.dealer:02}:"


def _add(total: int, soft: bool, card: int) -> tuple[int, bool]:
    """Total and softness with one more card."""
    total += card
    if card == 1 and total + 10 <= 21:
        return total + 10, True
    if soft and total > 21:
        return total - 10, False
    return total, soft


def _hit(hand: Hand) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for card, chance in CARDS.items():
        total, soft = _add(hand.total, hand.soft, card)
        bust = total > 21
        outcomes.append((chance, Hand(total, soft, False, hand.dealer), -1.0 if bust else 0.0, bust))
    return outcomes


def _stick(hand: Hand, sab: bool, natural_pays: bool) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for (total, natural), chance in _dealer(hand.dealer).items():
        standing = total if total <= 21 else 0
        reward = float((hand.total > standing) - (hand.total < standing))
        if hand.natural and ((sab and not natural) or reward == 1):
            reward = 1.5 if natural_pays else 1.0
        outcomes.append((chance, hand._replace(dealer=total), reward, True))
    return outcomes


@cache
def _dealer(card: int) -> dict[tuple[int, bool], float]:
    """Probability of the dealer's (total, natural), given the open card."""
    found: dict[tuple[int, bool], float] = {}

    def draw(total: int, soft: bool, num_cards: int, chance: float) -> None:
        if total >= 17 and num_cards >= 2:
            key = total, total == 21 and num_cards == 2
            found[key] = found.get(key, 0.0) + chance
            return
        for drawn, probability in CARDS.items():
            draw(*_add(total, soft, drawn), num_cards + 1, chance * probability)

    draw(*_add(0, False, card), 1, 1.0)
    return found
