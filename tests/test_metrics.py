"""What Prometheus is told, and that nothing of it is loaded where nobody asks."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from teleworkerd.counters import STARTED, Counters, Refusal
from teleworkerd.jobs.manager import JobManager
from teleworkerd.metrics import Metrics, Sources
from teleworkerd.protocol.types import JobState, Reason, Stream
from teleworkerd.store import JobStore
from tests.fakes import TRUE, FakeExecutor, config_in


Samples = dict[tuple[str, ...], float]
"""Values by the name of the sample and the values of its labels."""


@pytest_asyncio.fixture
async def sources(tmp_path: Path) -> AsyncIterator[Sources]:
    """A server without jobs."""
    config = config_in(tmp_path)
    store = await JobStore(config.database).open()
    counters = Counters()
    manager = JobManager(
        executor=FakeExecutor(config.jobs_dir),
        store=store,
        config=config,
        counters=counters,
    )
    await manager.load()
    yield Sources(
        manager=manager,
        counters=counters,
        connections=lambda: 3,
        readings=set(),
        state_dir=tmp_path,
        keeper_open_files=lambda: 7,
        keeper_pid=os.getpid(),
        keeper_started_at=1_500_000_000,
        started_at=2_500_000_000,
        restarts=4,
    )
    manager.close()
    await store.close()


def samples(sources: Sources) -> Samples:
    """Return what Prometheus reads."""
    return dict(_samples(Metrics(sources).text().decode()))


def _samples(text: str) -> Iterator[tuple[tuple[str, ...], float]]:
    for family in text_string_to_metric_families(text):
        assert family.documentation, family.name

        for sample in family.samples:
            yield (sample.name, *sample.labels.values()), sample.value


async def test_counted(sources: Sources) -> None:
    """Each counter comes out under its name."""
    counters = sources.counters
    counters.output_bytes = 10
    counters.dropped_bytes = 2
    counters.sent_bytes = 30
    counters.launches[STARTED] = 5
    counters.launches["no_space"] = 1
    counters.launch_seconds.observe(0.02)
    counters.ends[Reason.OOM] = 6
    counters.requests["run", "ok"] = 7
    counters.refusals[Refusal.TLS] = 8
    counters.loop_lag.observe(0.002)

    expected: Samples = {
        ("teleworker_output_bytes_total",): 10,
        ("teleworker_output_dropped_bytes_total",): 2,
        ("teleworker_output_sent_bytes_total",): 30,
        ("teleworker_launches_total", "started"): 5,
        ("teleworker_launches_total", "no_space"): 1,
        ("teleworker_launch_seconds_count",): 1,
        ("teleworker_launch_seconds_sum",): 0.02,
        ("teleworker_launch_seconds_bucket", "0.01"): 0,
        ("teleworker_launch_seconds_bucket", "0.025"): 1,
        ("teleworker_launch_seconds_bucket", "+Inf"): 1,
        ("teleworker_job_ends_total", "oom"): 6,
        ("teleworker_requests_total", "ok", "run"): 7,
        ("teleworker_refused_connections_total", "tls"): 8,
        ("teleworker_loop_lag_seconds_count",): 1,
    }

    assert samples(sources).items() >= expected.items()


async def test_nothing_counted(sources: Sources) -> None:
    """What may happen is there with 0 before it does: else nobody sees the first."""
    names = samples(sources)

    assert {name: names[name] for name in _expected()} == dict.fromkeys(_expected(), 0)


def _expected() -> list[tuple[str, str]]:
    return [
        *(("teleworker_jobs", state) for state in JobState),
        *(("teleworker_job_ends_total", reason) for reason in Reason),
        *(("teleworker_refused_connections_total", why) for why in Refusal),
        ("teleworker_launches_total", "started"),
        ("teleworker_launches_total", "launch_failed"),
        ("teleworker_launches_total", "limit_rejected"),
        ("teleworker_launches_total", "unavailable"),
    ]


async def test_looked_at(sources: Sources) -> None:
    """What is asked for, and not counted, is as it is now."""
    executor = sources.manager._executor
    assert isinstance(executor, FakeExecutor)
    job, _ = await sources.manager.run(TRUE, owner="alice", request_id="1")
    executor.sinks[job.id].output_held_up("the disk is full")

    with (
        job.subscribe({Stream.STDOUT: 0}) as near,
        job.subscribe(dict.fromkeys(Stream, 0)) as far,
    ):
        executor.write(job.id, b"12345")
        executor.write(job.id, b"678", Stream.STDERR)
        found = samples(replace(sources, readings={(job, near), (job, far)}))

    expected: Samples = {
        ("teleworker_jobs", "running"): 1,
        ("teleworker_jobs", "finished"): 0,
        ("teleworker_jobs_held_up",): 1,
        ("teleworker_readers",): 2,
        ("teleworker_reader_lag_bytes",): 8,
        ("teleworker_connections",): 3,
        ("teleworker_server_restarts_total",): 4,
        ("teleworker_keeper_start_time_seconds",): 1.5,
        ("teleworker_server_start_time_seconds",): 2.5,
    }

    assert found.items() >= expected.items()
    assert found["teleworker_state_dir_free_bytes",] > 0
    assert found["process_open_fds",] > 0
    assert found["teleworker_keeper_process_resident_memory_bytes",] > 0
    assert found["teleworker_keeper_process_open_fds",] == 7


async def test_what_cannot_be_told(sources: Sources) -> None:
    """A disk or a keeper that is gone costs its own numbers, not the others."""
    broken = replace(sources, state_dir=Path("/nowhere"), keeper_pid=1 << 30)
    found = samples(broken)

    assert ("teleworker_state_dir_free_bytes",) not in found
    assert ("teleworker_keeper_process_resident_memory_bytes",) not in found
    assert ("teleworker_connections",) in found


@pytest.mark.slow
def test_not_loaded() -> None:
    """Who wants no metrics does not pay for the library."""
    program = (
        "import sys, teleworkerd.server.app; print('prometheus_client' in sys.modules)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, text=True
    ).stdout

    assert printed == "False\n"
