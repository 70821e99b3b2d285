"""Frames: a length of four bytes, big-endian, and as many bytes of message."""

import struct
from typing import Final

from teleworkerd.protocol.errors import RemoteProtocolError


LENGTH: Final = struct.Struct(">I")

MAX_FRAME: Final = 2 << 20  # the largest command and environment, and room
MAX_FRAME_BEFORE_HELLO: Final = 16 << 10

_IDLE: Final = 64 << 10  # bytes of memory that a decoder keeps with nothing in it


class FrameDecoder:
    """Cuts a stream of bytes into frames, without copying them.

    Bytes come in by `feed`, or are read into what `get_buffer` returns and
    counted by `received`. *max_size* may be changed at any time; it holds for
    the frames whose length has not been read yet. Memory stays below one frame
    and the most that was fed or asked for at once. `count` is how many frames were
    given out.
    """

    def __init__(self, max_size: int = MAX_FRAME) -> None:
        self.max_size = max_size
        self.count = 0
        self._buffer = bytearray()
        self._start = 0  # of what has come and is not yet given out
        self._stop = 0

    @property
    def has_rest(self) -> bool:
        """Whether there are bytes that were not given out."""
        return self._start < self._stop

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Add *data* as it came from the peer."""
        with self.get_buffer(len(data)) as buffer:
            buffer[: len(data)] = data

        self.received(len(data))

    def get_buffer(self, size: int) -> memoryview:
        """Return memory for *size* bytes or more from the peer.

        No frame that `next_frame` has returned may be in use any more.
        """
        if self._start == self._stop:
            self._start = self._stop = 0

        if len(self._buffer) - self._stop < size:
            self._make_room(size)

        return memoryview(self._buffer)[self._stop :]

    def received(self, size: int) -> None:
        """Note that *size* bytes have been put where `get_buffer` said."""
        self._stop += size

    def next_frame(self) -> memoryview | None:
        """Return the next whole frame without its length, or None.

        It is valid until the next call of `feed` or `get_buffer`. Raises
        `RemoteProtocolError` for a frame that is empty or too long, before its
        bytes are waited for.
        """
        held = self._stop - self._start

        if held < LENGTH.size:
            return None

        (size,) = LENGTH.unpack_from(self._buffer, self._start)

        if not 0 < size <= self.max_size:
            raise RemoteProtocolError(
                f"a frame of {size} bytes; the most here is {self.max_size}"
            )

        if held < LENGTH.size + size:
            return None

        start = self._start + LENGTH.size
        self._start = start + size
        self.count += 1
        return memoryview(self._buffer)[start : self._start]

    def shrink(self) -> None:
        """Give back memory that a long frame took; none may be in use any more."""
        if self._start == self._stop and len(self._buffer) > _IDLE:
            self._buffer = bytearray()
            self._start = self._stop = 0

    def _make_room(self, size: int) -> None:
        held = self._stop - self._start

        with memoryview(self._buffer) as view:
            view[:held] = view[self._start : self._stop]

        self._start, self._stop = 0, held
        missing = held + size - len(self._buffer)

        if missing > 0:
            self._buffer += bytes(missing)
