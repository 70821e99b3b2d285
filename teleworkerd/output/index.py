"""The index beside a job's spools: which bytes came when, in what order.

One record of 24 bytes for each move from a pipe to its spool, little-endian:
time (u64, ns since the epoch), offset of the first byte (u64), length (u32),
stream (u8: 0 stdout, 1 stderr), three zero bytes.
"""

import struct
from dataclasses import dataclass
from typing import Final

from teleworkerd.protocol.types import Stream


RECORD: Final = struct.Struct("<QQIB3x")

_STREAMS: Final = (Stream.STDOUT, Stream.STDERR)
_NUMBERS: Final = {stream: number for number, stream in enumerate(_STREAMS)}


@dataclass(frozen=True, slots=True)
class IndexRecord:
    """Bytes *offset* to *offset* + *length* of *stream* arrived at *time*."""

    time: int
    stream: Stream
    offset: int
    length: int

    def pack(self) -> bytes:
        """Return the record as it stands in the file."""
        number = _NUMBERS[self.stream]
        return RECORD.pack(self.time, self.offset, self.length, number)

    @classmethod
    def unpack(cls, data: bytes) -> "IndexRecord":
        """Return the record that *data*, of its exact size, holds."""
        time, offset, length, number = RECORD.unpack(data)
        return cls(time, _STREAMS[number], offset, length)
