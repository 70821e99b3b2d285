"""Pages of a list from which jobs are removed meanwhile."""

from collections.abc import Iterator

import pytest

from teleworkerd.protocol.messages import ListRequest
from teleworkerd.protocol.responses import ListResponse
from tests.twctl.fake_output import make_status
from twctl.listing import Listing


ASKED = ListRequest(0, name="a")


class Jobs:
    """Jobs 9 to 0, of which some go between two pages of three."""

    def __init__(self, *removals: str) -> None:
        self._ids = list("9876543210")
        self._removals: Iterator[str] = iter(removals)
        self.asked: list[ListRequest] = []

    def page(self, request: ListRequest) -> ListResponse | None:
        """Return a page; None where the job is not there after which it is to begin."""
        self.asked.append(request)
        start = 0

        if request.before is not None:
            if request.before not in self._ids:
                return None

            start = self._ids.index(request.before) + 1

        stop = start + min(3, request.limit)
        page = tuple(make_status(id=job) for job in self._ids[start:stop])
        more = stop < len(self._ids)

        for job in next(self._removals, ""):
            self._ids.remove(job)

        return ListResponse(0, page, more=more)


def read(jobs: Jobs, limit: int | None = None) -> str:
    """Return the IDs of the list."""
    listing = Listing(ASKED, limit)

    while (request := listing.request) is not None:
        if (page := jobs.page(request)) is not None:
            listing.take(page)
        else:
            assert listing.step_back()

    return "".join(job.id for job in listing.jobs)


@pytest.mark.parametrize(
    ("removals", "found"),
    [
        ((), "9876543210"),
        (("7",), "9876543210"),
        (("87", "6"), "9876543210"),
        (("2", "7", "4"), "987654310"),
        (("987",), "9876543210"),
        (("6543210",), "987"),
    ],
    ids=str,
)
def test_removals(removals: tuple[str, ...], found: str) -> None:
    """Each job that stays is there, once and in order, whichever others go."""
    jobs = Jobs(*removals)

    assert read(jobs) == found
    assert {request.name for request in jobs.asked} == {"a"}


@pytest.mark.parametrize("limit", [0, 1, 3, 4, 20])
def test_limit(limit: int) -> None:
    """There are no more than were wanted, and no more is asked for."""
    jobs = Jobs()

    assert read(jobs, limit) == "9876543210"[:limit]
    assert len(jobs.asked) == -(-min(limit, 10) // 3)


def test_first_page() -> None:
    """Where nothing was found yet, there is nothing to go back to."""
    assert not Listing(ASKED).step_back()
