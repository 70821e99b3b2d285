"""What a job has written, as the keeper leaves it: spools, index and gaps."""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from teleworkerd.jobdir import JobDirectory
from teleworkerd.output.gaps import pack_gap
from teleworkerd.output.index import START, IndexRecord
from teleworkerd.protocol.types import Gap, Piece, Stream


Run = tuple[Stream, bytes | int]
"""Bytes of a stream, or how many are missing."""


class Written:
    """The files of one job below *path*, and a simple model of what is in them.

    `order` is all that was written, in its order. Nothing is in the index before
    `record`.
    """

    def __init__(self, path: Path) -> None:
        self.directory = JobDirectory(path)
        self.directory.path.mkdir(parents=True, exist_ok=True)
        self.order: list[Run] = []
        self.records: list[IndexRecord] = []
        self.gaps: list[Gap] = []
        self.ends = dict.fromkeys(Stream, 0)

        for stream in Stream:
            self.directory.spool(stream).touch()

    @property
    def sizes(self) -> tuple[int, int]:
        """How far both streams are."""
        return self.ends[Stream.STDOUT], self.ends[Stream.STDERR]

    @property
    def recorded(self) -> tuple[int, int]:
        """How far both streams are, as the index says."""
        last = self.records[-1] if self.records else START
        return last.stdout, last.stderr

    def write(self, data: bytes, stream: Stream = Stream.STDOUT) -> None:
        """Let the job have written *data*."""
        if data:
            self.order.append((stream, data))

            with self.directory.spool(stream).open("r+b") as spool:
                spool.seek(self.ends[stream])
                spool.write(data)

            self.ends[stream] += len(data)

    def drop(self, count: int, stream: Stream = Stream.STDOUT) -> Gap:
        """Let *count* bytes have been dropped; return the gap, grown if it grows."""
        end = self.ends[stream]
        start = end
        own = [gap for gap in self.gaps if gap.stream is stream]

        if own and own[-1].stop == end:
            self.gaps.remove(own[-1])
            start = own[-1].offset

        gap = Gap(stream, start, end + count)
        self.gaps.append(gap)
        self.order.append((stream, count))
        self.ends[stream] += count
        self.directory.gaps.write_bytes(b"".join(map(pack_gap, self.gaps)))
        return gap

    def record(self, time: int = 0) -> None:
        """Have the index say how far the streams are, at *time*."""
        time = time or (self.records[-1].time + 1 if self.records else 1)
        self.records.append(IndexRecord(time, *self.sizes))
        self.write_index()

    def write_index(self, torn: bytes = b"") -> None:
        """Write the index; *torn* is what a crash left after its last record."""
        packed = b"".join(record.pack() for record in self.records)
        self.directory.index.write_bytes(packed + torn)

    def kept(self, stream: Stream) -> bytes:
        """Return the bytes of *stream* that were kept."""
        return b"".join(
            what
            for each, what in self.order
            if each is stream and isinstance(what, bytes)
        )

    def sha256(self, stream: Stream) -> bytes:
        """Return the digest of what was kept."""
        return hashlib.sha256(self.kept(stream)).digest()

    def runs(self, stream: Stream, start: int = 0, stop: int | None = None) -> "Runs":
        """Return what a reader of *stream* gets from *start* up to *stop*."""
        return joined(
            clipped((each for each in self.order if each[0] is stream), start, stop)
        )


Runs = list[Run]


def clipped(runs: Iterator[Run], start: int, stop: int | None) -> Iterator[Run]:
    """Yield what of one stream's *runs* lies from *start* up to *stop*."""
    offset = 0

    for stream, what in runs:
        size = what if isinstance(what, int) else len(what)
        first = max(start - offset, 0)
        last = size if stop is None else min(size, stop - offset)
        offset += size

        if first < last:
            yield stream, last - first if isinstance(what, int) else what[first:last]


def run_of(piece: Piece) -> Run:
    """Return *piece* without its place."""
    if isinstance(piece, Gap):
        return piece.stream, piece.stop - piece.offset

    return piece.stream, piece.data


def joined(runs: Iterator[Run] | Sequence[Run]) -> Runs:
    """Return *runs* with those that follow on each other made one."""
    found: Runs = []

    for (stream, kind), group in itertools.groupby(
        runs, key=lambda run: (run[0], type(run[1]))
    ):
        parts = [what for _, what in group]

        if kind is int:
            found.append((stream, sum(part for part in parts if isinstance(part, int))))
        else:
            found.append(
                (stream, b"".join(part for part in parts if isinstance(part, bytes)))
            )

    return found
