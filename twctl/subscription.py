"""One output request on one session: what comes, and the credit for it."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Final

from teleworkerd.protocol.errors import RemoteProtocolError, TeleworkerError
from teleworkerd.protocol.messages import InterleaveRequest, OutputRequest, Response
from teleworkerd.protocol.responses import (
    InterleaveEnd,
    InterleaveResponse,
    OutputChunk,
    OutputEnd,
    OutputGap,
    OutputResponse,
)
from teleworkerd.protocol.types import Chunk, Gap, Stream


WINDOW: Final = 4 << 20  # bytes on their way or unread; hides a round trip
FIRST_WINDOW: Final = 4 << 10  # bytes after a cut; what a bad link still gets through

OutputQuery = OutputRequest | InterleaveRequest
Opened = OutputResponse | InterleaveResponse
End = OutputEnd | InterleaveEnd


def offsets(query: OutputQuery) -> dict[Stream, int]:
    """Return where *query* begins in each stream that it is for."""
    if isinstance(query, InterleaveRequest):
        return {Stream.STDOUT: query.stdout, Stream.STDERR: query.stderr}

    return {query.stream: query.offset}


class Subscription:
    """Holds what has arrived until its one reader takes it.

    At most `WINDOW` bytes wait here. *grant* is called with more credit than
    *request* has as bytes are taken, and doubles it up to `WINDOW`. `opened` says
    where it begins and, after the last item, `end` whether the output is complete.
    """

    def __init__(self, request: OutputQuery, grant: Callable[[int], None]) -> None:
        self.end: End | None = None
        self._request = request
        self._grant = grant
        self._window = request.credit
        self._taken = 0
        self._opened: Opened | None = None
        self._arrived: asyncio.Queue[
            OutputChunk | OutputGap | End | TeleworkerError
        ] = asyncio.Queue()  # bounded by the credit that we give

    @property
    def opened(self) -> Opened:
        """The response to the request."""
        if self._opened is None:
            raise AssertionError("opened before the response")

        return self._opened

    def open(self, response: Response) -> None:
        """Take the response; raises `RemoteProtocolError` for one that cannot be."""
        request = self._request
        may_move = request.since is not None

        match request, response:
            case OutputRequest(offset=offset), OutputResponse():
                is_right = may_move or offset == response.offset
            case InterleaveRequest(stdout=stdout, stderr=stderr), InterleaveResponse():
                there = (response.stdout, response.stderr)
                is_right = may_move or (stdout, stderr) == there
            case _:
                is_right = False

        if not is_right:
            raise RemoteProtocolError(
                f"the response to an {request.type} request is {response}"
            )

        assert isinstance(response, Opened)  # noqa: S101 - as matched
        self._opened = response

    def put(self, arrived: OutputChunk | OutputGap | End | TeleworkerError) -> None:
        """Take what the session received; an error ends the subscription."""
        self._arrived.put_nowait(arrived)

    async def items(self) -> AsyncGenerator[Chunk | Gap, None]:
        """Yield what comes; raises the error that the session put last."""
        while self.end is None:
            match await self._arrived.get():
                case OutputChunk(_, offset, data, stream, times):
                    self._take(len(data))
                    yield Chunk(stream or self._stream, offset, data, times)
                case OutputGap(_, offset, stop, stream):
                    yield Gap(stream or self._stream, offset, stop)
                case OutputEnd() | InterleaveEnd() as end:
                    self.end = end
                case TeleworkerError() as error:
                    raise error

    @property
    def _stream(self) -> Stream:
        request = self._request
        # Of both, each chunk names its own: the ledger sees to that.
        return request.stream if isinstance(request, OutputRequest) else Stream.STDOUT

    def _take(self, size: int) -> None:
        self._taken += size

        # A quarter: few credit messages, and never a dry window.
        if self._taken >= self._window // 4:
            more = min(self._window, WINDOW - self._window)
            self._grant(self._taken + more)
            self._window += more
            self._taken = 0
