"""What may answer a request for output: where each piece must begin, and end."""

import pytest

from teleworkerd.protocol.errors import LocalProtocolError, RemoteProtocolError
from teleworkerd.protocol.ledger import Ledger
from teleworkerd.protocol.messages import InterleaveRequest, OutputRequest, Response
from teleworkerd.protocol.responses import (
    ErrorResponse,
    InterleaveEnd,
    InterleaveResponse,
    OutputChunk,
    OutputEnd,
    OutputGap,
    OutputResponse,
)
from teleworkerd.protocol.types import Stream


OUT, ERR = Stream.STDOUT, Stream.STDERR


def ledger(request: OutputRequest | InterleaveRequest, *answers: Response) -> Ledger:
    """Return a ledger with *request* in flight, after these *answers*."""
    ledger = Ledger(asking=LocalProtocolError, answering=RemoteProtocolError)
    ledger.begin(request, most=1)

    for answer in answers:
        ledger.answer(answer, request.id)

    return ledger


ONE = (OutputRequest(1, "j", offset=5, credit=10), OutputResponse(1, "j", 5))
BOTH = (
    InterleaveRequest(1, "j", 5, 7, credit=10),
    InterleaveResponse(1, "j", 5, 7),
)
END = (1 << 63) - 1  # of the longest stream
LAST = (
    OutputRequest(1, "j", offset=END - 1, credit=10),
    OutputResponse(1, "j", END - 1),
)
LATER = OutputRequest(1, "j", offset=5, credit=10, since=1)


@pytest.mark.parametrize(
    ("before", "answer"),
    [
        (ONE, OutputGap(1, 5, 9)),
        (ONE, OutputChunk(1, 5, b"x" * 10)),
        (ONE, OutputChunk(1, 5, b"x", times=(5, 1))),
        (ONE, OutputChunk(1, 5, b"xyz", times=(5, 9, 6, 1, 7, 1))),
        (LAST, OutputChunk(1, END - 1, b"x")),
        (ONE, OutputEnd(1, 5, complete=True)),
        ((*ONE, OutputGap(1, 5, 9)), OutputChunk(1, 9, b"x" * 10)),
        ((*ONE, OutputGap(1, 5, 9)), OutputEnd(1, 9, complete=False)),
        ((LATER,), OutputResponse(1, "j", 8)),
        ((LATER, OutputResponse(1, "j", 8)), OutputChunk(1, 8, b"x")),
        (BOTH, OutputChunk(1, 7, b"x", ERR)),
        (BOTH, OutputGap(1, 5, 6, OUT)),
        ((*BOTH, OutputChunk(1, 7, b"x", ERR)), OutputChunk(1, 5, b"x" * 9, OUT)),
        ((*BOTH, OutputChunk(1, 7, b"x", ERR)), InterleaveEnd(1, 5, 8, complete=True)),
        (BOTH, ErrorResponse("job_removed", "gone", 1)),
    ],
)
def test_what_fits(before: tuple[OutputRequest, Response], answer: Response) -> None:
    """A piece begins where the one before it in its stream ended."""
    ledger(*before).answer(answer, 1)


@pytest.mark.parametrize(
    ("before", "answer"),
    [
        ((ONE[0],), OutputResponse(1, "j", 6)),
        ((LATER,), OutputResponse(1, "j", 4)),
        ((ONE[0],), InterleaveResponse(1, "j", 5, 0)),
        ((ONE[0],), OutputGap(1, 5, 6)),
        (ONE, OutputGap(1, 6, 9)),
        (ONE, OutputGap(1, 5, 4)),
        (ONE, OutputChunk(1, 5, b"x", OUT)),
        (ONE, OutputChunk(1, 5, b"x", ERR)),
        (ONE, OutputChunk(1, 5, b"x" * 11)),
        (LAST, OutputChunk(1, END - 1, b"xy")),
        (ONE, OutputChunk(1, 5, b"xyz", times=(5, 1, 6))),
        (ONE, OutputChunk(1, 5, b"xyz", times=(5,))),
        (ONE, OutputChunk(1, 5, b"xyz", times=(6, 1))),
        (ONE, OutputChunk(1, 5, b"xyz", times=(5, 1, 5, 2))),
        (ONE, OutputChunk(1, 5, b"xyz", times=(5, 1, 7, 2, 6, 3))),
        (ONE, OutputChunk(1, 5, b"xyz", times=(5, 1, 8, 2))),
        (ONE, OutputChunk(1, 5, b"", times=(5, 1))),
        (ONE, InterleaveEnd(1, 5, 0, complete=True)),
        ((*ONE, OutputGap(1, 5, 9)), OutputEnd(1, 5, complete=True)),
        ((BOTH[0],), InterleaveResponse(1, "j", 5, 8)),
        (BOTH, OutputChunk(1, 5, b"x")),
        (BOTH, OutputChunk(1, 7, b"x", OUT)),
        (BOTH, OutputGap(1, 5, 6)),
        (BOTH, OutputEnd(1, 5, complete=True)),
        ((*BOTH, OutputChunk(1, 7, b"x" * 9, ERR)), OutputChunk(1, 5, b"xx", OUT)),
        ((*BOTH, OutputChunk(1, 7, b"x", ERR)), InterleaveEnd(1, 5, 7, complete=True)),
    ],
)
def test_what_does_not_fit(
    before: tuple[OutputRequest, Response], answer: Response
) -> None:
    """A piece elsewhere, of the wrong stream, time or length is a breach."""
    with pytest.raises(RemoteProtocolError):
        ledger(*before).answer(answer, 1)


def test_breach_changes_nothing() -> None:
    """A chunk beyond the credit moves neither the offset nor the credit."""
    held = ledger(*ONE)

    with pytest.raises(RemoteProtocolError):
        held.answer(OutputChunk(1, 5, b"x" * 11), 1)

    held.answer(OutputChunk(1, 5, b"x" * 10), 1)
