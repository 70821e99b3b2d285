"""Whether a client is read now: who asks too much, or takes nothing, is not."""

import asyncio
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from teleworkerd.protocol.connection import Connection
from teleworkerd.rates import TokenBucket
from teleworkerd.server.deadline import Deadline
from teleworkerd.settings import ServerConfig


_PAUSE: Final = 0.01  # seconds at least, or a steady flood would be read byte by byte


class Hold(Enum):
    """Why a client is not read."""

    SLOW = auto()  # it does not take what it was sent
    FAST = auto()  # it sends more messages than it may


class Intake:
    """Has *transport* read, but not while there is anything against it.

    What has come is taken however much it is; who sent more messages than *limits*
    allow is not read until it may send one again. *late* is called when a frame takes
    too long. None of the time in which we do not read is the client's fault.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        limits: ServerConfig,
        *,
        late: Callable[[], None],
    ) -> None:
        now = asyncio.get_running_loop().time()
        self._transport = transport
        self._late = late
        self._bucket = TokenBucket(limits.message_rate, limits.message_burst, now=now)
        self._frame = Deadline(limits.frame_timeout, self._frame_missing)
        self._frames = 0
        self._is_mid_frame = False
        self._was_fast = False
        self._heard_at = now
        self._held: set[Hold] = set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def silence(self) -> float:
        """For how long nothing has come, in seconds."""
        if self._held:
            return 0.0

        return asyncio.get_running_loop().time() - self._heard_at

    def hold(self, why: Hold) -> None:
        """Do not read while there is this against it."""
        if not self._held:
            self._transport.pause_reading()

        self._held.add(why)

    def release(self, why: Hold) -> None:
        """Read on, unless there is something else against it."""
        if why not in self._held:
            return

        self._held.remove(why)

        if not self._held:
            self._heard_at = asyncio.get_running_loop().time()
            self._watch(is_new=True)
            self._transport.resume_reading()

    def took(self, connection: Connection) -> bool:
        """Note that *connection* has taken what came.

        Returns whether that was too much, for the first time.
        """
        now = self._heard_at = asyncio.get_running_loop().time()
        count, self._frames = connection.frames - self._frames, connection.frames
        self._is_mid_frame = connection.is_mid_frame
        self._watch(is_new=count > 0)
        self._bucket.take(count, now=now)

        if self._timer is not None or not self._bucket.wait(now=now):
            return False

        self.hold(Hold.FAST)
        self._look()
        was_fast, self._was_fast = self._was_fast, True
        return not was_fast

    def close(self) -> None:
        """Give back the timers; it is not to be used after."""
        self._frame.close()

        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch(self, *, is_new: bool) -> None:
        if not self._is_mid_frame:
            self._frame.end()
        elif is_new or not self._frame.is_running:
            self._frame.begin()

    def _frame_missing(self) -> None:
        if not self._held:
            self._late()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None

        if wait := self._bucket.wait(now=loop.time()):
            self._timer = loop.call_later(max(wait, _PAUSE), self._look)
        else:
            self.release(Hold.FAST)
