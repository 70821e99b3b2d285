"""What the nemesis does and when: a function of the seed."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """What can go wrong."""

    KILL_SERVER = "kill the server"
    STOP_SERVER = "stop the server for a while"
    STOP_KEEPER = "stop the keeper for a while"
    RELOAD = "have the settings read again"
    CUT = "cut all connections"
    REFUSE = "refuse connections for a while"
    SWALLOW = "swallow what is sent for a while"
    BAD_LINK = "let no connection last, for a while"
    FILL_DISK = "fill the disk for a while"
    LOSE_DATABASE = "lose the database, or a part of it"
    STEP_CLOCK = "step the wall clock"


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong, *at* how many seconds, for how many; *amount* is from 0 to 1.

    Of a kill the seconds are those that the server serves before it.
    """

    at: float
    kind: Kind
    seconds: float
    amount: float


@dataclass(frozen=True, slots=True)
class Hand:
    """Faults that come one after the other, by their weights.

    *gap* seconds lie between two, on average, and each lasts up to *most*.
    """

    kinds: Mapping[Kind, int]
    gap: float
    most: float


HANDS: Final = (
    Hand({Kind.KILL_SERVER: 1}, gap=2, most=2),
    Hand({Kind.STOP_SERVER: 5, Kind.RELOAD: 1}, gap=5, most=4),
    Hand({Kind.STOP_KEEPER: 1}, gap=5, most=0.5),
    Hand(
        {Kind.CUT: 6, Kind.REFUSE: 1, Kind.SWALLOW: 2, Kind.BAD_LINK: 2},
        gap=2.5,
        most=2,
    ),
    Hand({Kind.FILL_DISK: 1}, gap=5, most=4),
    Hand({Kind.LOSE_DATABASE: 1}, gap=12, most=0),
    Hand({Kind.STEP_CLOCK: 1}, gap=3, most=0),
)


def plan(seed: int, seconds: float) -> tuple[tuple[Fault, ...], ...]:
    """Return the faults of each hand, which fit into *seconds*."""
    return tuple(
        tuple(_faults(hand, random.Random(f"{seed} hand {number}"), seconds))
        for number, hand in enumerate(HANDS)
    )


def _faults(hand: Hand, dice: random.Random, seconds: float) -> Iterator[Fault]:
    at = dice.expovariate(1 / hand.gap)

    while at < seconds:
        (kind,) = dice.choices(list(hand.kinds), list(hand.kinds.values()))
        # Most are short: what is too short to be seen finds as much.
        lasts = min(hand.most * dice.random() ** 2, seconds - at)
        yield Fault(at, kind, lasts, dice.random())
        at += lasts + dice.expovariate(1 / hand.gap)
