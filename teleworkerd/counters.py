"""What a server counts while it works: plain numbers, for whoever wants to look."""

import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate
from typing import Final, TypeVar

from teleworkerd.protocol.errors import RequestError
from teleworkerd.protocol.types import Reason


T = TypeVar("T")

STARTED: Final = "started"  # the outcome of a launch that has no error code
OK: Final = "ok"  # and of a request

_LAUNCH: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # s
_LAG: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)  # seconds


class Refusal(StrEnum):
    """Why a client did not get as far as a request."""

    CERTIFICATE = "certificate"  # none, or one that is not taken
    REVOCATION_LIST = "crl"  # it may be good, but our revocation list is not
    TLS = "tls"  # no TLS at all, or none that we speak
    GONE = "gone"  # went away, or took too long
    IDENTITY = "identity"  # a name or a protocol that is not ours
    ACCESS = "access"  # the name is not admitted
    CROWDED = "crowded"  # too many handshakes or connections
    SILENT = "silent"  # no hello came


class Dismissal(StrEnum):
    """Why the server ended the connection of a client that it had let in."""

    PROTOCOL = "protocol"  # it broke the rules, or let a frame take too long
    SILENT = "silent"  # no sign of life
    IDLE = "idle"  # asked nothing for too long
    EXPIRED = "expired"  # its certificate has
    ACCESS = "access"  # it is not trusted or admitted any more


class Histogram:
    """How often a value was at most each of *bounds*."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.total = 0.0
        self._bounds: Final = bounds
        self._counts = [0] * (len(bounds) + 1)

    def observe(self, value: float) -> None:
        """Count *value*."""
        self.total += value
        self._counts[bisect_left(self._bounds, value)] += 1

    @property
    def buckets(self) -> list[tuple[float, int]]:
        """Each bound, infinity the last, and how many values were at most that."""
        bounds = (*self._bounds, float("inf"))
        return list(zip(bounds, accumulate(self._counts), strict=True))


@dataclass(slots=True)
class Counters:
    """What one server process has counted since it began; only its loop adds."""

    output_bytes: int = 0  # that jobs have written
    dropped_bytes: int = 0  # of these
    sent_bytes: int = 0  # of output, to clients
    launches: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    launch_seconds: Histogram = field(default_factory=lambda: Histogram(_LAUNCH))
    ends: dict[Reason, int] = field(default_factory=lambda: dict.fromkeys(Reason, 0))
    requests: defaultdict[tuple[str, str], int] = field(
        default_factory=lambda: defaultdict(int)
    )
    refusals: dict[Refusal, int] = field(
        default_factory=lambda: dict.fromkeys(Refusal, 0)
    )
    dismissals: dict[Dismissal, int] = field(
        default_factory=lambda: dict.fromkeys(Dismissal, 0)
    )
    throttled: int = 0  # connections whose client was too fast to be read always
    loop_lag: Histogram = field(default_factory=lambda: Histogram(_LAG))

    async def launch(self, start: Callable[[], Awaitable[T]]) -> T:
        """Await what *start* returns; count how that goes, and how long it takes."""
        began = time.monotonic()

        try:
            launched = await start()
        except RequestError as error:
            self.launches[error.code] += 1
            raise

        self.launches[STARTED] += 1
        self.launch_seconds.observe(time.monotonic() - began)
        return launched
