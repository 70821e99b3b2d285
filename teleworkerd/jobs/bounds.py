"""What jobs may be at most: running, kept, started in a time, and within limits."""

import math
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Final

from teleworkerd.ceilings import CeilingReached, Ceilings
from teleworkerd.jobs.job import Job
from teleworkerd.protocol.errors import LimitRejected, TooMany
from teleworkerd.protocol.spec import JobSpec
from teleworkerd.rates import TokenBucket
from teleworkerd.settings import ClientsConfig, LimitsConfig


_BUCKETS: Final = 1024  # owners, before those that start nothing are forgotten


class OwnerBounds:
    """Says whether an owner may start another job; *clock* only goes forward."""

    def __init__(
        self,
        config: ClientsConfig,
        limits: LimitsConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._ceilings = Ceilings(limits)
        self._clock = clock
        self._running: defaultdict[str, set[str]] = defaultdict(set)
        self._names: dict[tuple[str, str], str] = {}  # of those that run, and their ids
        self._buckets: dict[str, TokenBucket] = {}

    def configure(self, config: ClientsConfig, limits: LimitsConfig) -> None:
        """Use *config* and *limits* from now on."""
        self._ceilings.configure(limits)
        before, self._config = self._config, config

        if (config.start_rate, config.start_burst) != (
            before.start_rate,
            before.start_burst,
        ):
            self._buckets.clear()

    def note(self, job: Job) -> None:
        """Take into account what *job* is now."""
        running = self._running[job.owner]

        if job.is_over:
            running.discard(job.id)
            self._ceilings.release(job.id)
        else:
            running.add(job.id)
            self._ceilings.hold(job.id, job.owner, job.facts.limits)

        self._note_name(job)

        if not running:
            del self._running[job.owner]

    def running(self, owner: str | None) -> set[str]:
        """Return the ids of the jobs of *owner*, or of everybody, that are not over."""
        if owner is None:
            return set().union(*self._running.values())

        return set(self._running.get(owner, ()))

    def named(self, owner: str, name: str | None) -> str | None:
        """Return the id of the owner's job of that name that is not over."""
        return None if name is None else self._names.get((owner, name))

    def check_limits(self, owner: str, spec: JobSpec) -> None:
        """Raise `LimitRejected` or, if it may pass, `TooMany` for what is too much."""
        try:
            self._ceilings.check(owner, spec.limits, spec.timeout)
        except CeilingReached as error:
            is_whole = float(error.most).is_integer()
            most = int(error.most) if is_whole else f"{error.most:.10g}"

            if error.passes:
                raise TooMany(
                    str(error), {"what": error.ceiling, "most": most}
                ) from error

            raise LimitRejected(
                str(error),
                {"limit": error.limit, "ceiling": error.ceiling, "most": most},
            ) from error

    def check(self, owner: str, *, kept: int, commands: int) -> None:
        """Raise `TooMany` unless *owner* may have another job.

        With it there are so many *commands* of theirs, in bytes, after *kept* jobs.
        """
        running, most = self._running.get(owner, ()), self._config.running_jobs

        if len(running) >= most:
            raise TooMany(
                f"{owner} has as many running jobs as one name may, {most}; stop some"
                " ('twctl stop JOB') or wait for their ends, or ask the operator for"
                " more [clients] running_jobs",
                {"what": "running_jobs", "most": most},
            )

        most = self._config.kept_jobs

        if kept >= most:
            raise TooMany(
                f"{owner} has as many jobs as one name may, {most}, with those that"
                " have ended; remove some ('twctl rm JOB'), or ask the operator for"
                " more [clients] kept_jobs",
                {"what": "kept_jobs", "most": most},
            )

        most = self._config.kept_commands

        if commands > most:
            raise TooMany(
                f"the commands of {owner}'s jobs, with those that have ended, would"
                f" have {commands} bytes, and one name may have {most}; remove jobs"
                " ('twctl rm JOB'), or ask the operator for more [clients]"
                " kept_commands",
                {"what": "kept_commands", "most": most},
            )

    def start(self, owner: str) -> None:
        """Count a start of *owner*'s; raises `TooMany` when it comes too soon."""
        rate = self._config.start_rate

        if not rate:
            return

        now = self._clock()
        bucket = self._bucket(owner, now)

        if wait := bucket.wait(now=now):
            seconds = math.ceil(wait)
            raise TooMany(
                f"{owner} starts more than {rate:g} jobs a second, the most that one"
                f" name may over a longer time; try again in {seconds} s",
                {"what": "starts", "most": math.ceil(rate), "retry_after": seconds},
            )

        bucket.take(now=now)

    def _note_name(self, job: Job) -> None:
        if job.name is None:
            return

        key = job.owner, job.name

        if not job.is_over:
            self._names[key] = job.id
        elif self._names.get(key) == job.id:
            del self._names[key]

    def _bucket(self, owner: str, now: float) -> TokenBucket:
        if len(self._buckets) >= _BUCKETS and owner not in self._buckets:
            self._buckets = {
                name: bucket
                for name, bucket in self._buckets.items()
                if not bucket.is_full(now=now)
            }

        if owner not in self._buckets:
            self._buckets[owner] = TokenBucket(
                self._config.start_rate, self._config.start_burst, now=now
            )

        return self._buckets[owner]
