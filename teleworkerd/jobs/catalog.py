"""All jobs, by their ids, their owners, and the requests that made them."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from teleworkerd.jobs.job import Job
from teleworkerd.protocol.errors import AmbiguousJob, JobNotFound
from teleworkerd.protocol.types import JobState


MIN_PREFIX: Final = 4  # characters of an id that may stand for it
_SHOWN: Final = 8  # jobs that an ambiguous prefix names


class JobCatalog:
    """Which jobs there are; to each owner the jobs of others do not exist."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._by_owner: defaultdict[str, dict[str, Job]] = defaultdict(dict)
        self._by_request: dict[tuple[str, str], Job] = {}

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._jobs

    def __iter__(self) -> Iterator[Job]:
        return iter(tuple(self._jobs.values()))

    def counts(self) -> dict[str, int]:
        """Return how many jobs are in each state."""
        counts = dict.fromkeys(map(str, JobState), 0)

        for job in self._jobs.values():
            counts[job.facts.state] += 1

        return counts

    def add(self, job: Job) -> None:
        """Take in *job*."""
        self._jobs[job.id] = job
        self._by_owner[job.owner][job.id] = job
        self._by_request[job.owner, job.identity.request_id] = job

    def hide(self, job: Job) -> None:
        """Let nobody find *job* any more, but by its request."""
        del self._jobs[job.id]
        del self._by_owner[job.owner][job.id]

    def show(self, job: Job) -> None:
        """Undo `hide`."""
        jobs = {**self._by_owner[job.owner], job.id: job}
        oldest_first = sorted(
            jobs.items(), key=lambda item: item[1].identity.created_at
        )
        self._jobs[job.id] = job
        self._by_owner[job.owner] = dict(oldest_first)

    def forget(self, job: Job) -> None:
        """Let the request of *job*, which is hidden, make another one."""
        del self._by_request[job.owner, job.identity.request_id]

    def made_by(self, owner: str, request_id: str) -> Job | None:
        """Return the job that the owner's request of this id has made."""
        return self._by_request.get((owner, request_id))

    def by_owner(self) -> Iterator[tuple[Job, ...]]:
        """Yield each owner's jobs, oldest first."""
        for jobs in tuple(self._by_owner.values()):
            yield tuple(jobs.values())

    def newest_first(self, owner: str, *, before: str | None = None) -> Iterator[Job]:
        """Yield the owner's jobs, those older than the job *before* if it is given.

        Raises `JobNotFound` when there is no such job.
        """
        jobs = reversed(self._by_owner[owner].values())

        if before is not None and not any(job.id == before for job in jobs):
            raise JobNotFound(
                f"job {before!r}, after which the list was to go on, was removed;"
                " list again",
                {"job": before},
            )

        return jobs

    def get(self, ref: str, *, owner: str) -> Job:
        """Return the owner's job with the id, the name or the prefix *ref*.

        Of several jobs with one name it is the newest. Raises `JobNotFound`,
        `AmbiguousJob`.
        """
        job = self._jobs.get(ref.lower())

        if job is not None and job.owner == owner:
            return job

        own = list(self.newest_first(owner))

        if named := next((job for job in own if job.name == ref), None):
            return named

        fits = [
            job
            for job in own
            if len(ref) >= MIN_PREFIX and job.id.startswith(ref.lower())
        ]

        if not fits:
            raise JobNotFound(f"there is no job {ref!r}; see 'twctl list -a'")

        if len(fits) > 1:
            ids = [job.id for job in fits[:_SHOWN]]
            raise AmbiguousJob(
                f"{ref!r} fits {len(fits)} jobs: {', '.join(ids)}; give more of the id",
                {"jobs": ids},
            )

        return fits[0]
