"""One pass over a job's output, verified at its end."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing

from teleworkerd.protocol.errors import TeleworkerError
from teleworkerd.protocol.status import JobStatus
from teleworkerd.protocol.types import Chunk, Gap, Stream
from twctl.link import Link
from twctl.streams import read_output
from twctl.subscription import Opened, OutputQuery, offsets
from twctl.verify import Digest


class OutputDropped(TeleworkerError):
    """Bytes that were to be read had been dropped; `gap` says which."""

    def __init__(self, gap: Gap) -> None:
        super().__init__(gap)
        self.gap = gap

    def __str__(self) -> str:
        gap = self.gap
        return (
            f"{gap.stop - gap.offset} bytes of {gap.stream} (from {gap.offset} up to"
            f" {gap.stop}) were dropped: no more output could be kept; to read what"
            f" there is, give on_gap, or go on from offset {gap.stop}"
        )


class Reading:
    """What a request for output gives, each byte once and in order.

    `status` is the job's last, once all of its output has been read, and
    `verified` says which streams were then compared with their SHA-256.
    """

    def __init__(self, link: Link, request: OutputQuery) -> None:
        self.opened: Opened | None = None
        self.status: JobStatus | None = None
        self.verified: Mapping[Stream, bool] = {}
        self._link = link
        self._request = request

    async def items(self) -> AsyncGenerator[Chunk | Gap, None]:
        """Yield what comes; raises `DigestMismatch` after the last."""
        is_from_zero = self._request.since is None
        digests = {
            stream: Digest(stream)
            for stream, offset in offsets(self._request).items()
            if is_from_zero and not offset
        }

        try:
            async with aclosing(read_output(self._link, self._request)) as items:
                async for item in items:
                    match item:
                        case Chunk() | Gap():
                            if item.stream in digests:
                                await digests[item.stream].add(item)

                            yield item
                        case JobStatus() as status:
                            self.status = status
                        case opened:
                            self.opened = opened

            if self.status is not None:
                status = self.status
                self.verified = {
                    stream: stream in digests and await digests[stream].check(status)
                    for stream in offsets(self._request)
                }
        finally:
            for digest in digests.values():
                digest.close()

    async def chunks(
        self, on_gap: Callable[[Gap], None] | None
    ) -> AsyncGenerator[Chunk, None]:
        """Yield the chunks; a gap is told *on_gap* or, without one, raised."""
        async with aclosing(self.items()) as items:
            async for item in items:
                if isinstance(item, Chunk):
                    yield item
                elif on_gap is None:
                    raise OutputDropped(item)
                else:
                    on_gap(item)
