"""The request `top`: samples of what jobs use."""

from pathlib import Path

from teleworkerd.protocol.messages import EVERYBODY, Cancel, StatusRequest, TopRequest
from teleworkerd.protocol.responses import (
    ErrorResponse,
    StatusResponse,
    TopEnd,
    UsageSample,
)
from teleworkerd.protocol.status import Usage
from teleworkerd.protocol.types import JobState
from tests.e2e.pki import Certificates
from tests.fakes import EXITED
from tests.server.peers import error_of
from tests.server.scene import scene


USED = Usage(cpu_seconds=1.5, memory_bytes=4096)


async def test_samples(certs: Certificates, tmp_path: Path) -> None:
    """As many samples come as were asked for, then the end."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        play.executor.usages[job] = USED
        request = TopRequest(5, interval=0.1, count=2)
        first = await play.alice.ask(request, UsageSample)
        second = await play.alice.receive()
        end = await play.alice.receive()

    assert isinstance(second, UsageSample)
    assert second.at > first.at
    assert [(s.id, s.usage) for s in first.jobs] == [(job, USED)]
    assert isinstance(end, TopEnd)


async def test_job_that_ends(certs: Certificates, tmp_path: Path) -> None:
    """A job that has ended is there once more; when all named have, that is the end."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        request = TopRequest(5, (job,), interval=0.1)
        first = await play.alice.ask(request, UsageSample)
        play.executor.exit(job)

        last = first

        while isinstance(message := await play.alice.receive(), UsageSample):
            last = message

    assert first.jobs[0].state is JobState.RUNNING
    assert last.jobs[0].state is JobState.FINISHED
    assert last.jobs[0].usage == EXITED.usage
    assert isinstance(message, TopEnd)


async def test_no_job(certs: Certificates, tmp_path: Path) -> None:
    """Where nothing runs a sample is empty, and nothing is measured."""
    async with scene(certs, tmp_path) as play:
        sample = await play.alice.ask(TopRequest(5, count=1), UsageSample)

        assert sample.jobs == ()
        assert play.executor.measured == []


async def test_cancel(certs: Certificates, tmp_path: Path) -> None:
    """Who cancels gets the end."""
    async with scene(certs, tmp_path) as play:
        await play.alice.ask(TopRequest(5, interval=3600), UsageSample)
        play.alice.flush(Cancel(5))
        await play.alice.expect(TopEnd)


async def test_jobs_of_others(certs: Certificates, tmp_path: Path) -> None:
    """Another's job is not found, and not among all; nor may all be asked for."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        named = await play.bob.ask(TopRequest(5, (job,)), ErrorResponse)
        sample = await play.bob.ask(TopRequest(6, count=1), UsageSample)
        await play.bob.expect(TopEnd)
        request = TopRequest(7, owner=EVERYBODY)
        everybody = await play.bob.ask(request, ErrorResponse)

    assert error_of(named) == (5, "job_not_found")
    assert sample.jobs == ()
    assert error_of(everybody) == (7, "permission_denied")


async def test_interval(certs: Certificates, tmp_path: Path) -> None:
    """An interval that nobody can keep is refused, for this request alone."""
    async with scene(certs, tmp_path) as play:
        request = TopRequest(5)
        object.__setattr__(request, "interval", 0.0)
        refused = await play.alice.ask(request, ErrorResponse)

    assert error_of(refused) == (5, "invalid_request")


async def test_status_measures(certs: Certificates, tmp_path: Path) -> None:
    """The status of a running job says what it uses now."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        play.executor.usages[job] = USED
        response = await play.alice.ask(StatusRequest(5, job), StatusResponse)

    assert response.status.usage == USED
