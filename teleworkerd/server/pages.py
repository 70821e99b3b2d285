"""As many jobs as one frame is sure to hold."""

from typing import Final

from teleworkerd.protocol.codec import dump_record
from teleworkerd.protocol.framing import MAX_FRAME
from teleworkerd.protocol.messages import MAX_PAGE
from teleworkerd.protocol.shape import MAX_VALUES
from teleworkerd.protocol.status import JobStatus


_STATUS_VALUES: Final = 128  # keys and values of a status, and room for more


class Page:
    """Some statuses, at most *limit*."""

    def __init__(self, limit: int = MAX_PAGE) -> None:
        self.jobs: list[JobStatus] = []
        self._limit = limit
        self._size = self._values = 0

    def add(self, job: JobStatus) -> bool:
        """Add *job* if there is room for it; return whether there was."""
        self._size += len(dump_record(job))
        self._values += _STATUS_VALUES + len(job.command) + 2 * len(job.labels)

        if self.jobs and (
            len(self.jobs) == self._limit
            or self._size > MAX_FRAME // 2
            or self._values > MAX_VALUES
        ):
            return False

        self.jobs.append(job)
        return True
