"""How much is measured, and how often."""

from dataclasses import dataclass
from typing import Final


MIB: Final = 1 << 20
GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Plan:
    """The sizes in bytes, and the counts, of one run."""

    touched: int = 4 * GIB
    rounds: int = 5
    stream: int = GIB
    lines: int = 20_000_000  # of `seq`
    fanout_rounds: int = 3
    fanout: int = 128 * MIB
    readers: tuple[int, ...] = (1, 8, 32)
    beats: int = 350  # lines of the latency's job
    launches: int = 400
    launches_in_turn: int = 100
    start_rounds: int = 20
    memory_rounds: int = 3
    memory: int = 4 * GIB
    slow_rounds: int = 3
    slow: int = 256 * MIB
    blocked: float = 5.0  # seconds after which a job counts as blocked


FULL: Final = Plan()

QUICK: Final = Plan(
    touched=64 * MIB,
    rounds=2,
    stream=32 * MIB,
    lines=1_000_000,
    fanout_rounds=2,
    fanout=4 * MIB,
    readers=(2,),
    beats=70,
    launches=32,
    launches_in_turn=8,
    start_rounds=2,
    memory_rounds=2,
    memory=64 * MIB,
    slow_rounds=2,
    slow=32 * MIB,
    blocked=1.0,
)
