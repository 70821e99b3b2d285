"""Writes what is read of a job: as bytes, with stamps, or as JSON lines."""

import asyncio
from base64 import b64encode
from collections.abc import Mapping
from typing import Final, Protocol

from teleworkerd.protocol.status import JobStatus
from teleworkerd.protocol.types import Chunk, Gap, Piece, Stream
from twctl.commands.prefixing import Target
from twctl.cutting import part
from twctl.render import SCHEMA, moment, to_json
from twctl.stamps import Stamper, runs
from twctl.verify import stream_status


CONTINUING: Final = 0x80  # from here on a byte belongs to a character of several
LEADING: Final = 0xC0  # from here on it is the first


class Writer(Protocol):
    """Takes the pieces of one or both streams, in the order in which they come."""

    async def write(self, piece: Piece) -> None:
        """Return when *piece* is written."""

    def pass_over(self, piece: Piece) -> None:
        """Note a piece that is not to be written."""


class Raw:
    """Writes bytes as they are, each stream's to its own descriptor."""

    def __init__(self, sinks: Mapping[Stream, Target]) -> None:
        self._sinks = sinks

    async def write(self, piece: Piece) -> None:
        if isinstance(piece, Chunk):
            await self._sinks[piece.stream].write(piece.data)

    def pass_over(self, piece: Piece) -> None:
        """Note nothing: each byte stands for itself."""


class Stamped:
    """Writes the lines of each stream with their times before them."""

    def __init__(
        self, sinks: Mapping[Stream, Target], stampers: Mapping[Stream, Stamper]
    ) -> None:
        self._sinks = sinks
        self._stampers = stampers

    async def write(self, piece: Piece) -> None:
        if isinstance(piece, Chunk):
            data = self._stampers[piece.stream].stamp(piece)
            await self._sinks[piece.stream].write(data)
        else:
            self.pass_over(piece)

    def pass_over(self, piece: Piece) -> None:
        self._stampers[piece.stream].pass_over(piece)


class JsonLines:
    """Writes an object on a line of its own for what came at one time.

    Bytes that are text are given as text; a character whose bytes came apart is
    kept together. With a *job* each names it.
    """

    def __init__(self, sink: Target, *, job: str | None = None) -> None:
        self._sink = sink
        self._job = {} if job is None else {"job": job}
        self._turn = asyncio.Lock()
        self._begun: dict[Stream, Chunk] = {}  # the first bytes of a character

    async def write(self, piece: Piece) -> None:
        if isinstance(piece, Gap):
            gap = {"from": piece.offset, "to": piece.stop}
            rest = self._rest(piece.stream)
            await self._print(*rest, {"stream": str(piece.stream), "gap": gap})
        else:
            await self._print(*self._objects(piece))

    def pass_over(self, piece: Piece) -> None:
        """Note nothing: an object says where it begins."""

    async def end(self, status: JobStatus, verified: Mapping[Stream, bool]) -> None:
        """Write how the job and those streams of it that were read have ended."""
        end: dict[str, object] = {
            str(stream): _ended(status, stream, is_verified)
            for stream, is_verified in verified.items()
        }
        end |= {
            "state": str(status.state),
            "exit_code": status.exit_code,
            "reason": None if status.reason is None else str(status.reason),
        }
        await self._print({"end": end})

    async def flush(self) -> None:
        """Write what was kept of characters that never became whole."""
        for stream in list(self._begun):
            await self._print(*self._rest(stream))

    def _objects(self, chunk: Chunk) -> list[dict[str, object]]:
        objects: list[dict[str, object]] = []

        for start, stop, time in runs(chunk):
            piece = part(chunk, chunk.offset + start, chunk.offset + stop)
            assert isinstance(piece, Chunk)  # noqa: S101 - no run is empty
            begun = self._begun.pop(piece.stream, None)

            if begun is not None and begun.stop == piece.offset:
                data = begun.data + piece.data
                times = begun.times or (() if time is None else (begun.offset, time))
                piece = Chunk(piece.stream, begun.offset, data, times)
            elif time is not None:
                piece = Chunk(
                    piece.stream, piece.offset, piece.data, (piece.offset, time)
                )

            objects += self._of_run(piece)

        return objects

    def _of_run(self, piece: Chunk) -> list[dict[str, object]]:
        size = _whole(piece.data)
        begun = part(piece, piece.offset + size, piece.stop)

        if isinstance(begun, Chunk):
            self._begun[piece.stream] = begun

        whole = part(piece, piece.offset, piece.offset + size)
        return [_object(whole)] if isinstance(whole, Chunk) else []

    def _rest(self, stream: Stream) -> list[dict[str, object]]:
        begun = self._begun.pop(stream, None)
        return [] if begun is None else [_object(begun)]

    async def _print(self, *objects: Mapping[str, object]) -> None:
        lines = [
            to_json({"schema": SCHEMA, **self._job, **fields}) for fields in objects
        ]

        if lines:
            async with self._turn:
                await self._sink.write("".join(f"{line}\n" for line in lines).encode())


def _object(run: Chunk) -> dict[str, object]:
    fields: dict[str, object] = {"stream": str(run.stream), "offset": run.offset}

    if run.times:
        fields["time"] = moment(run.times[1])

    try:
        fields["text"] = run.data.decode()
    except UnicodeDecodeError:
        fields["base64"] = b64encode(run.data).decode()

    return fields


def _ended(status: JobStatus, stream: Stream, is_verified: bool) -> dict[str, object]:  # noqa: FBT001 - private
    known = stream_status(status, stream)
    return {
        "bytes": known.end,
        "sha256": None if known.sha256 is None else known.sha256.hex(),
        "verified": is_verified,
    }


def _whole(data: bytes) -> int:
    """Return how many bytes of *data* there are before a character cut short."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]

        if byte < CONTINUING:
            break

        if byte < LEADING:
            continue

        length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
        return len(data) - back if length > back else len(data)

    return len(data)
