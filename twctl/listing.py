"""A list of jobs that comes in pages, whatever is removed between two of them."""

from dataclasses import replace

from teleworkerd.protocol.messages import MAX_PAGE, ListRequest
from teleworkerd.protocol.responses import ListResponse
from teleworkerd.protocol.status import JobStatus


class Listing:
    """Puts together what *request* asks for, at most *limit* jobs.

    `jobs` are those that have come, each once and newest first.
    """

    def __init__(self, request: ListRequest, limit: int | None) -> None:
        self.jobs: list[JobStatus] = []
        self._request = request
        self._limit = limit
        self._is_over = False
        self._step = 1

    @property
    def next_request(self) -> ListRequest | None:
        """What to ask for now; None when all is there."""
        room = MAX_PAGE if self._limit is None else self._limit - len(self.jobs)

        if self._is_over or room <= 0:
            return None

        before = self.jobs[-1].id if self.jobs else None
        return replace(self._request, limit=min(MAX_PAGE, room), before=before)

    def add(self, page: ListResponse) -> None:
        """Take the response."""
        self.jobs += page.jobs
        self._is_over = not page.more or not page.jobs
        self._step = 1

    def go_back(self) -> bool:
        """Note that the job behind which to go on was removed, as others may be.

        Returns false if there was none.
        """
        had_any = bool(self.jobs)
        del self.jobs[-self._step :]
        self._step *= 2
        return had_any
