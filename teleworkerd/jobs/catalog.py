"""All jobs, by their ids, their owners, and the requests that made them."""

from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice, takewhile
from typing import Final

from teleworkerd.jobs.job import Job
from teleworkerd.protocol.errors import AmbiguousJob, JobNotFound
from teleworkerd.protocol.spec import JobSpec
from teleworkerd.protocol.status import JobStatus
from teleworkerd.protocol.types import JobState


MIN_PREFIX: Final = 4  # characters of an id that may stand for it
_SHOWN: Final = 8  # jobs that an ambiguous prefix names


class JobCatalog:
    """Which jobs there are; to each owner the jobs of others do not exist."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._by_owner: defaultdict[str, dict[str, Job]] = defaultdict(dict)
        self._by_name: dict[tuple[str, str | None], list[Job]] = {}  # oldest first
        self._ids: list[str] = []  # in order
        self._by_request: dict[tuple[str, str], Job] = {}
        self._commands: Counter[str] = Counter()  # bytes of each owner's

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._jobs

    def __iter__(self) -> Iterator[Job]:
        return iter(tuple(self._jobs.values()))

    def find_id(self, job_id: str) -> Job | None:
        """Return the job with exactly this id, whoever it belongs to."""
        return self._jobs.get(job_id)

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
        insort(self._ids, job.id)
        self._named(job).append(job)
        self._by_request[job.owner, job.identity.request_id] = job
        self._commands[job.owner] += command_size(job.facts)

    def hide(self, job: Job) -> None:
        """Let nobody find *job* any more, but by its request."""
        del self._jobs[job.id]
        del self._by_owner[job.owner][job.id]
        del self._ids[bisect_left(self._ids, job.id)]
        self._named(job).remove(job)

        if not self._named(job):
            del self._by_name[job.owner, job.name]

    def show(self, job: Job) -> None:
        """Undo `hide`."""
        jobs = {**self._by_owner[job.owner], job.id: job}
        oldest_first = sorted(
            jobs.items(), key=lambda item: item[1].identity.created_at
        )
        self._jobs[job.id] = job
        self._by_owner[job.owner] = dict(oldest_first)
        insort(self._ids, job.id)
        self._named(job).append(job)
        self._named(job).sort(key=lambda job: job.identity.created_at)

    def forget(self, job: Job) -> None:
        """Let the request of *job*, which is hidden, make another one."""
        del self._by_request[job.owner, job.identity.request_id]
        self._commands[job.owner] -= command_size(job.facts)

    def made_by(self, owner: str, request_id: str) -> Job | None:
        """Return the job that the owner's request of this id has made."""
        return self._by_request.get((owner, request_id))

    def count(self, owner: str) -> int:
        """Return how many jobs the owner has."""
        return len(self._by_owner[owner]) if owner in self._by_owner else 0

    def command_bytes(self, owner: str) -> int:
        """Return how large the commands of all jobs of the owner are."""
        return self._commands[owner]

    def by_owner(self) -> Iterator[tuple[Job, ...]]:
        """Yield each owner's jobs, oldest first."""
        for jobs in tuple(self._by_owner.values()):
            yield tuple(jobs.values())

    def newest_first(
        self, owner: str | None, *, before: str | None = None
    ) -> Iterator[Job]:
        """Yield the owner's jobs, those older than the job *before* if it is given.

        Without an *owner* everybody's. Raises `JobNotFound` when there is no such job.
        """
        if owner is None:
            oldest_first = sorted(self, key=lambda job: job.identity.created_at)
            jobs = reversed(oldest_first)
        else:
            jobs = reversed(list(self._of(owner)))

        if before is not None and not any(job.id == before for job in jobs):
            raise JobNotFound(
                f"job {before!r}, after which the list was to go on, was removed;"
                " list again",
                {"job": before},
            )

        return jobs

    def fitting(
        self,
        owner: str | None,
        *,
        states: Collection[JobState],
        name: str | None,
        labels: Mapping[str, str],
        before: str | None,
    ) -> Iterator[Job]:
        """Yield those of `newest_first` that are so; without *states* in any."""
        for job in self.newest_first(owner, before=before):
            facts = job.facts
            is_in_state = not states or facts.state in states
            is_named = name is None or facts.name == name

            if is_in_state and is_named and labels.items() <= facts.labels.items():
                yield job

    def get(self, ref: str, *, owner: str, everybody: bool = False) -> Job:
        """Return the owner's job with the id, the name or the prefix *ref*.

        Of several jobs with one name it is the newest. With *everybody* it may be
        another's job, by its id or a prefix, if none of the owner's fits. Raises
        `JobNotFound`, `AmbiguousJob`.
        """
        job = self._jobs.get(ref.lower())

        if job is not None and (everybody or job.owner == owner):
            return job

        if named := self._by_name.get((owner, ref)):
            return named[-1]

        fitting = self._beginning_with(ref)
        fits = [job for job in fitting if job.owner == owner]

        if not fits and everybody:
            fits = fitting

        if not fits:
            raise JobNotFound(f"{_say_nothing_found(ref)}; see 'twctl list -a'")

        if len(fits) > 1:
            ids = [job.id for job in fits[:_SHOWN]]
            raise AmbiguousJob(
                f"{ref!r} fits {len(fits)} jobs: {', '.join(ids)}; give more of the id",
                {"jobs": ids},
            )

        return fits[0]

    def find(self, ref: str) -> Job | None:
        """Return any job with the id or the prefix *ref*, whoever it belongs to."""
        return next(iter(self._beginning_with(ref)), None)

    def _of(self, owner: str) -> Iterable[Job]:
        return self._by_owner[owner].values() if owner in self._by_owner else ()

    def _named(self, job: Job) -> list[Job]:
        """All jobs of that owner and name, oldest first; those without one, too."""
        return self._by_name.setdefault((job.owner, job.name), [])

    def _beginning_with(self, ref: str) -> list[Job]:
        """All jobs whose id begins with *ref*, newest first."""
        prefix = ref.lower()

        if len(prefix) < MIN_PREFIX:
            return []

        start = bisect_left(self._ids, prefix)
        ids = takewhile(
            lambda job_id: job_id.startswith(prefix), islice(self._ids, start, None)
        )
        jobs = [self._jobs[job_id] for job_id in ids]
        return sorted(jobs, key=lambda job: job.identity.created_at, reverse=True)


def command_size(job: JobStatus | JobSpec) -> int:
    """Return how many bytes the command of *job* and its labels have."""
    labels = sum(len(key) + len(value) for key, value in job.labels.items())
    return sum(map(len, job.command)) + labels


def _say_nothing_found(ref: str) -> str:
    if len(ref) < MIN_PREFIX:
        return (
            f"there is no job of the name {ref!r}, and the beginning of an ID has"
            f" {MIN_PREFIX} characters or more"
        )

    return f"there is no job {ref!r}"
