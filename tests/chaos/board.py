"""What the clients know together: which jobs there are, and whose."""

import itertools
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from teleworkerd.protocol.spec import JobSpec
from teleworkerd.protocol.types import Stream
from tests.chaos.job import script
from tests.chaos.place import SmallDisk
from twctl.spec import build_spec


@dataclass(slots=True)
class Known:
    """A job as its owner's clients know it; `pins` are those who must not lose it."""

    number: int
    owner: str
    request_id: str
    job: str | None = None
    is_refused: bool = False
    is_over: bool = False
    is_removed: bool = False
    pins: int = 0
    sizes: dict[Stream, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What it is called on the server."""
        return f"number-{self.number}"

    @property
    def ref(self) -> str:
        """What to ask for it by."""
        return self.job or self.name

    @property
    def takes(self) -> float:
        """How many seconds it takes, if nobody ends it."""
        todo = script(self.number)
        return todo.pieces * todo.pause

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """See that nobody removes it meanwhile."""
        self.pins += 1

        try:
            yield
        finally:
            self.pins -= 1


@dataclass(slots=True)
class Board:
    """All jobs of a run, by the numbers that they are given here."""

    seed: int
    python: str
    place: SmallDisk
    jobs: dict[int, Known] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def new(self, owner: str) -> Known:
        """Return a job that nobody has asked for yet."""
        number = next(self._numbers)
        known = Known(number, owner, f"chaos-{self.seed}-{number}")
        self.jobs[number] = known
        return known

    def argv(self, known: Known) -> list[str]:
        """Return the command of a job."""
        program = [self.python, "-IS", str(self.place.program)]
        return [*program, str(known.number), known.request_id]

    def spec(self, known: Known) -> JobSpec:
        """Return what is asked for, the same whoever asks."""
        return build_spec(self.argv(known), name=known.name)

    def there(self, owner: str) -> list[Known]:
        """Return the jobs of *owner* that can be asked about, oldest first."""
        return [
            known
            for known in self.jobs.values()
            if known.owner == owner and known.job and not known.is_removed
        ]

    def pick(
        self, owner: str, dice: random.Random, *, of: int = 20, is_over: bool | None
    ) -> Known | None:
        """Return one of the newest jobs of *owner*, if there is any that fits."""
        fit = [
            known
            for known in self.there(owner)
            if is_over is None or known.is_over is is_over
        ]
        return dice.choice(fit[-of:]) if fit else None
