"""Frames: a length of four bytes, big-endian, and as many bytes of message."""

import struct
from typing import Final

from teleworkerd.protocol.errors import RemoteProtocolError


LENGTH: Final = struct.Struct(">I")

MAX_FRAME: Final = 2 << 20  # the largest command and environment, and room
MAX_FRAME_BEFORE_HELLO: Final = 16 << 10


class FrameDecoder:
    """Cuts a stream of bytes into frames.

    *max_size* may be changed at any time; it holds for the frames whose length
    has not been read yet. Memory stays below one frame and what was last fed.
    """

    def __init__(self, max_size: int = MAX_FRAME) -> None:
        self.max_size = max_size
        self._buffer = bytearray()

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Add *data* as it came from the peer."""
        self._buffer += data

    def next_frame(self) -> bytes | None:
        """Return the next whole frame without its length, or None.

        Raises `RemoteProtocolError` for a frame that is empty or too long,
        before its bytes are waited for.
        """
        if len(self._buffer) < LENGTH.size:
            return None

        (size,) = LENGTH.unpack_from(self._buffer)

        if not 0 < size <= self.max_size:
            raise RemoteProtocolError(
                f"a frame of {size} bytes; the most here is {self.max_size}"
            )

        stop = LENGTH.size + size

        if len(self._buffer) < stop:
            return None

        with memoryview(self._buffer) as view:
            frame = bytes(view[LENGTH.size : stop])

        del self._buffer[:stop]
        return frame
