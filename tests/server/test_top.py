"""The request `top`: samples of what jobs use."""

import asyncio
import itertools
from functools import partial
from pathlib import Path

import pytest

from teleworkerd.protocol.messages import (
    EVERYBODY,
    Cancel,
    Message,
    StatusRequest,
    TopRequest,
)
from teleworkerd.protocol.responses import (
    ErrorResponse,
    StatusResponse,
    TopEnd,
    UsageSample,
)
from teleworkerd.protocol.status import Usage
from teleworkerd.protocol.types import JobState
from teleworkerd.server.pages import Page
from teleworkerd.server.session import Session
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


async def test_others_have_turns(
    certs: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many watch, and however many jobs, others go on after each message."""
    happened: list[str] = []
    send = Session.send

    async def noted(session: Session, message: Message) -> None:
        if isinstance(message, UsageSample):
            happened.append("sample")

        await send(session, message)

    async def others() -> None:
        while True:
            happened.append("others")
            await asyncio.sleep(0)

    monkeypatch.setattr(Session, "send", noted)
    monkeypatch.setattr("teleworkerd.server.top.Page", partial(Page, 1))

    async with scene(certs, tmp_path) as play:
        for request in "abc":
            await play.run(request=request)

        going_on = asyncio.create_task(others())

        for number in range(10, 20):
            play.alice.flush(TopRequest(number, count=1))

        ends = 0

        while ends < 10:
            ends += isinstance(await play.alice.receive(), TopEnd)

        going_on.cancel()

    assert happened.count("sample") == 30
    assert ("sample", "sample") not in itertools.pairwise(happened)
