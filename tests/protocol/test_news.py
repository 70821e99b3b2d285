"""What may answer a request for events: numbers only grow."""

import pytest

from teleworkerd.protocol.errors import LocalProtocolError, RemoteProtocolError
from teleworkerd.protocol.ledger import Ledger
from teleworkerd.protocol.messages import EventsRequest, Response
from teleworkerd.protocol.responses import EventsEnd, EventsResponse, JobNews
from teleworkerd.protocol.types import JobState


def told(*numbers: int, upto: int) -> EventsResponse:
    """Return a response with news of these *numbers*."""
    news = (JobNews(number, 0, "j", "o", JobState.RUNNING) for number in numbers)
    return EventsResponse(1, tuple(news), upto)


def ledger(*answers: Response) -> Ledger:
    """Return a ledger with a request for what comes after 5, and these *answers*."""
    ledger = Ledger(asking=LocalProtocolError, answering=RemoteProtocolError)
    ledger.begin(EventsRequest(1, since=5), most=1)

    for answer in answers:
        ledger.answer(answer, 1)

    return ledger


@pytest.mark.parametrize(
    ("before", "answer"),
    [
        ((), told(6, 7, upto=7)),
        ((), told(8, upto=10)),
        ((), told(upto=5)),
        ((), EventsEnd(1, 5)),
        ((told(6, upto=8),), told(9, upto=9)),
        ((told(6, upto=8),), EventsEnd(1, 8)),
    ],
)
def test_what_fits(before: tuple[Response, ...], answer: Response) -> None:
    """Each number is greater than any before it, and than any that was passed."""
    ledger(*before).answer(answer, 1)


@pytest.mark.parametrize(
    ("before", "answer"),
    [
        ((), told(5, upto=7)),
        ((), told(7, 6, upto=7)),
        ((), told(6, 6, upto=7)),
        ((), told(6, 7, upto=6)),
        ((), told(upto=4)),
        ((), EventsEnd(1, 4)),
        ((told(6, upto=8),), told(8, upto=9)),
        ((told(6, upto=8),), EventsEnd(1, 7)),
        ((EventsEnd(1, 8),), told(9, upto=9)),
    ],
)
def test_what_does_not_fit(before: tuple[Response, ...], answer: Response) -> None:
    """One that comes twice, or late, is a breach."""
    with pytest.raises(RemoteProtocolError):
        ledger(*before).answer(answer, 1)
