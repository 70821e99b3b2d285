"""What Prometheus is told: every metric, its name and what it means.

Only a server that was given a `[metrics] listen` imports this.
"""

import contextlib
import shutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from teleworkerd.counters import STARTED, Counters, Histogram
from teleworkerd.jobs.job import Job
from teleworkerd.jobs.manager import JobManager
from teleworkerd.output.subscription import Reading
from teleworkerd.protocol.errors import ErrorCode
from teleworkerd.protocol.types import JobState


CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_OUTCOMES: Final = (
    STARTED,
    ErrorCode.LAUNCH_FAILED,
    ErrorCode.LIMIT_REJECTED,
    ErrorCode.UNAVAILABLE,
)
"""Of launches; a counter that only appears with the first failure hides it."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the numbers come from; the times are nanoseconds since the epoch."""

    manager: JobManager
    counters: Counters
    connections: Callable[[], int]
    readings: Collection[tuple[Job, Reading]]
    state_dir: Path
    keeper_pid: int
    keeper_open_files: Callable[[], int]
    keeper_started_at: int
    started_at: int
    restarts: int


class Metrics(Collector):
    """Turns the *sources* into text; only to be used on the loop of the server.

    What the loop changes is read there, between two of its steps, so that what one
    answer says holds all at the same time.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        self._registry.register(_KeeperProcess(sources))

    def text(self) -> bytes:
        """Return all metrics, in the format `CONTENT_TYPE`."""
        return generate_latest(self._registry)

    def describe(self) -> Iterator[Metric]:
        """Return nothing: the registry need not look at the metrics beforehand."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Return every metric of TeleWorker's own."""
        yield from self._jobs()
        yield from self._launches_and_ends()
        yield from self._output()
        yield from self._clients()
        yield from self._processes()

    def _jobs(self) -> Iterator[Metric]:
        states = dict.fromkeys(JobState, 0)
        held_up = 0

        # There may be tens of thousands: one short look at each.
        for job in self._sources.manager:
            states[job.facts.state] += 1
            held_up += job.is_held_up

        jobs = GaugeMetricFamily(
            "teleworker_jobs",
            "Jobs that there are, by their state.",
            labels=["state"],
        )

        for state, count in states.items():
            jobs.add_metric([state], count)

        yield jobs
        yield GaugeMetricFamily(
            "teleworker_jobs_held_up",
            "Jobs whose output is not taken now, because a limit or the disk is full.",
            held_up,
        )
        yield GaugeMetricFamily(
            "teleworker_readers",
            "Requests that read output now.",
            len(self._sources.readings),
        )
        yield GaugeMetricFamily(
            "teleworker_reader_lag_bytes",
            "Bytes that the reader who is furthest behind has still to be sent.",
            max((_left_of(*each) for each in self._sources.readings), default=0),
        )

    def _launches_and_ends(self) -> Iterator[Metric]:
        counters = self._sources.counters
        launches = CounterMetricFamily(
            "teleworker_launches",
            "Jobs that were to be started, by how that went:"
            " started, or the code of the error.",
            labels=["outcome"],
        )

        for outcome in dict.fromkeys((*_OUTCOMES, *counters.launches)):
            launches.add_metric([outcome], counters.launches.get(outcome, 0))

        yield launches
        yield _histogram(
            "teleworker_launch_seconds",
            "Time from a request until its command ran.",
            counters.launch_seconds,
        )
        ends = CounterMetricFamily(
            "teleworker_job_ends",
            "Jobs that have ended, by the reason.",
            labels=["reason"],
        )

        for reason, count in counters.ends.items():
            ends.add_metric([reason], count)

        yield ends

    def _output(self) -> Iterator[Metric]:
        counters = self._sources.counters
        yield CounterMetricFamily(
            "teleworker_output_bytes",
            "Bytes that jobs have written, those that were dropped among them.",
            counters.output_bytes,
        )
        yield CounterMetricFamily(
            "teleworker_output_dropped_bytes",
            "Bytes that jobs have written and that were not kept.",
            counters.dropped_bytes,
        )
        yield CounterMetricFamily(
            "teleworker_output_sent_bytes",
            "Bytes of output that were sent to clients.",
            counters.sent_bytes,
        )
        free = GaugeMetricFamily(
            "teleworker_state_dir_free_bytes",
            "Bytes that are free on the disk of the state directory.",
        )

        # What cannot be told is missing; the rest is told all the same.
        with contextlib.suppress(OSError):
            free.add_metric([], shutil.disk_usage(self._sources.state_dir).free)

        yield free

    def _clients(self) -> Iterator[Metric]:
        counters = self._sources.counters
        yield GaugeMetricFamily(
            "teleworker_connections",
            "Connections of clients that there are.",
            self._sources.connections(),
        )
        requests = CounterMetricFamily(
            "teleworker_requests",
            "Requests that were answered, by their type and by how: ok, or the code"
            " of the error.",
            labels=["type", "code"],
        )

        for (kind, code), count in counters.requests.items():
            requests.add_metric([kind, code], count)

        yield requests
        refusals = CounterMetricFamily(
            "teleworker_refused_connections",
            "Clients that were refused before their first request, by the reason.",
            labels=["reason"],
        )

        for reason, count in counters.refusals.items():
            refusals.add_metric([reason], count)

        yield refusals
        dismissals = CounterMetricFamily(
            "teleworker_dismissed_connections",
            "Connections of clients that were let in and that the server ended, by"
            " the reason.",
            labels=["reason"],
        )

        for why, count in counters.dismissals.items():
            dismissals.add_metric([why], count)

        yield dismissals
        yield CounterMetricFamily(
            "teleworker_throttled_connections",
            "Connections that were not read at times because their client sent too"
            " many messages.",
            counters.throttled,
        )

    def _processes(self) -> Iterator[Metric]:
        sources = self._sources
        yield CounterMetricFamily(
            "teleworker_server_restarts",
            "Server processes that the keeper has started after the first.",
            sources.restarts,
        )
        yield GaugeMetricFamily(
            "teleworker_server_start_time_seconds",
            "When the server process began, in seconds since the epoch.",
            sources.started_at / 1e9,
        )
        yield GaugeMetricFamily(
            "teleworker_keeper_start_time_seconds",
            "When the keeper began, in seconds since the epoch.",
            sources.keeper_started_at / 1e9,
        )
        yield _histogram(
            "teleworker_loop_lag_seconds",
            "How late the server came to what it was to do at a given time.",
            sources.counters.loop_lag,
        )


class _KeeperProcess(Collector):
    """The keeper as a process: what the kernel tells everybody, and what it says."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._name = "teleworker_keeper"
        self._seen = ProcessCollector(
            namespace=self._name, pid=lambda: sources.keeper_pid, registry=None
        )

    def describe(self) -> Iterator[Metric]:
        """Return nothing, as `Metrics` does."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Return the metrics that `ProcessCollector` has."""
        name = f"{self._name}_process_open_fds"
        yield from (each for each in self._seen.collect() if each.name != name)
        yield GaugeMetricFamily(
            name, "Number of open file descriptors.", self._sources.keeper_open_files()
        )


def _left_of(job: Job, reading: Reading) -> int:
    return sum(job.size(stream) - at for stream, at in reading.offsets.items())


def _histogram(name: str, what: str, values: Histogram) -> Metric:
    buckets = [
        ("+Inf" if bound == float("inf") else str(bound), float(count))
        for bound, count in values.buckets
    ]
    return HistogramMetricFamily(name, what, buckets, values.total)
