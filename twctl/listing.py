"""A list of jobs that comes in pages, while others start and remove some."""

from dataclasses import replace

from teleworkerd.protocol.messages import MAX_PAGE, ListRequest
from teleworkerd.protocol.responses import ListResponse
from teleworkerd.protocol.status import JobStatus


class Listing:
    """The `jobs` that *request* asks for, newest first, at most *limit*.

    As long as there is a `request`, ask that, and `take` what comes.
    """

    def __init__(self, request: ListRequest, limit: int | None = None) -> None:
        self.jobs: list[JobStatus] = []
        self._request = request
        self._limit = limit
        self._known: list[str] = []  # from the last of these it goes on
        self._is_over = limit is not None and limit <= 0

    @property
    def request(self) -> ListRequest | None:
        """What brings the next page; None when there is none."""
        if self._is_over:
            return None

        left = MAX_PAGE if self._limit is None else self._limit - len(self.jobs)
        before = self._known[-1] if self._known else None
        return replace(self._request, limit=min(MAX_PAGE, left), before=before)

    def take(self, page: ListResponse) -> None:
        """Have the jobs of *page* too."""
        self.jobs += page.jobs
        self._known += (job.id for job in page.jobs)
        is_full = self._limit is not None and len(self.jobs) >= self._limit
        self._is_over = is_full or not page.more or not page.jobs

    def step_back(self) -> bool:
        """Go on from an earlier job, as the last was not found; False if there is none.

        It was removed meanwhile, and what comes after it is the same.
        """
        if not self._known:
            return False

        self._known.pop()
        return True
