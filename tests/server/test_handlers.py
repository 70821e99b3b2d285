"""What each request does, against a manager whose jobs the test commands."""

import threading
from pathlib import Path
from typing import Any

import pytest

from teleworkerd.execution import LaunchError
from teleworkerd.output.digest import StreamDigest
from teleworkerd.protocol.errors import Unavailable
from teleworkerd.protocol.messages import (
    Cancel,
    InfoRequest,
    InterleaveRequest,
    KillRequest,
    ListRequest,
    OutputRequest,
    RemoveRequest,
    RunRequest,
    StatusRequest,
    StopRequest,
    WaitRequest,
)
from teleworkerd.protocol.responses import (
    DoneResponse,
    ErrorResponse,
    InfoResponse,
    ListResponse,
    RunResponse,
    StatusResponse,
)
from teleworkerd.protocol.spec import JobSpec
from teleworkerd.protocol.status import LaunchFailure
from teleworkerd.protocol.types import JobState, LaunchStage, Reason
from tests.e2e.pki import Certificates
from tests.fakes import TRUE
from tests.server.peers import DEADLINE, error_of, until
from tests.server.scene import CREDIT, scene


async def test_run(certs: Certificates, tmp_path: Path) -> None:
    """A job belongs to the name of the certificate."""
    async with scene(certs, tmp_path) as play:
        response = await play.alice.ask(RunRequest(1, "r", TRUE), RunResponse)
        (identity,) = play.executor.started

    assert response.created
    assert (identity.id, identity.owner) == (response.job, "alice")


async def test_run_again(certs: Certificates, tmp_path: Path) -> None:
    """A request id that is repeated names the same job; another's is another's."""
    async with scene(certs, tmp_path) as play:
        first = await play.run()
        second = await play.alice.ask(RunRequest(1, "r", TRUE), RunResponse)
        other = await play.bob.ask(RunRequest(1, "r", TRUE), RunResponse)

    assert (second.job, second.created) == (first, False)
    assert other.job != first
    assert other.created


async def test_run_that_fails(certs: Certificates, tmp_path: Path) -> None:
    """Where a launch failed is told in the details."""
    failure = LaunchFailure(LaunchStage.WORKDIR, 13, "no way in")

    async with scene(certs, tmp_path) as play:
        play.executor.error = LaunchError(failure)
        error = await play.alice.ask(RunRequest(1, "r", TRUE), ErrorResponse)

    assert error_of(error) == (1, "launch_failed")
    assert (error.details["stage"], error.details["errno"]) == ("cwd", 13)


async def test_cancelled_run(certs: Certificates, tmp_path: Path) -> None:
    """A run that is cancelled is answered; the job, once asked for, goes on."""
    async with scene(certs, tmp_path) as play:
        play.executor.gate.clear()
        play.alice.flush(RunRequest(1, "r", TRUE))
        await until(lambda: play.executor.started, what="the launch")
        play.alice.flush(Cancel(1))
        response = await play.alice.expect(ErrorResponse)
        play.executor.gate.set()
        again = await play.alice.ask(RunRequest(1, "r", TRUE), RunResponse)

    assert error_of(response) == (1, "cancelled")
    assert not again.created


async def test_status(certs: Certificates, tmp_path: Path) -> None:
    """One job in full."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        response = await play.alice.ask(StatusRequest(1, job), StatusResponse)

    assert response.status.id == job
    assert response.status.state is JobState.RUNNING
    assert response.status.command == (b"true",)


@pytest.mark.parametrize(
    "make",
    [
        lambda job: StatusRequest(1, job),
        lambda job: WaitRequest(1, job),
        lambda job: KillRequest(1, job),
        lambda job: StopRequest(1, job, 1.0),
        lambda job: RemoveRequest(1, job),
        lambda job: OutputRequest(1, job, credit=CREDIT),
        lambda job: InterleaveRequest(1, job, credit=CREDIT),
    ],
    ids=["status", "wait", "kill", "stop", "remove", "output", "interleave"],
)
async def test_job_of_another(certs: Certificates, tmp_path: Path, make: Any) -> None:
    """Somebody else's job reads like one that does not exist."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        missing = "0" * len(job)
        real = await play.bob.ask(make(job), ErrorResponse)
        unreal = await play.bob.ask(make(missing), ErrorResponse)

        assert error_of(real) == error_of(unreal) == (1, "job_not_found")
        assert real.message.replace(job, missing) == unreal.message
        assert real.details == unreal.details
        assert play.executor.executions[job].calls == []
        assert play.executor.removed == []


async def test_wait(certs: Certificates, tmp_path: Path) -> None:
    """A wait is answered when the job ends, and at once when it has."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        play.alice.flush(WaitRequest(1, job), InfoRequest(2))
        await play.alice.expect(InfoResponse)
        play.executor.exit(job)
        first = await play.alice.expect(StatusResponse)
        second = await play.alice.ask(WaitRequest(1, job), StatusResponse)

    assert first == second
    assert (first.status.state, first.status.exit_code) == (JobState.FINISHED, 3)


async def test_kill(certs: Certificates, tmp_path: Path) -> None:
    """A signal is passed on as it was asked for."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        response = await play.alice.ask(
            KillRequest(1, job, 15, tree=True), DoneResponse
        )
        calls = play.executor.executions[job].calls

    assert (response.job, response.already_ended) == (job, False)
    assert calls == [("signal", 15, True)]


async def test_stop(certs: Certificates, tmp_path: Path) -> None:
    """So is a stop, with its grace."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        await play.alice.ask(StopRequest(1, job, grace=2.5), DoneResponse)
        status = await play.alice.ask(StatusRequest(1, job), StatusResponse)

    assert play.executor.executions[job].calls == [("stop", 2.5, Reason.KILLED)]
    assert status.status.state is JobState.STOPPING


@pytest.mark.parametrize("kind", [KillRequest, StopRequest])
async def test_end_of_what_is_being_started(
    certs: Certificates, tmp_path: Path, kind: Any
) -> None:
    """What is asked of a job that starts is answered when it is done, not forgotten."""
    async with scene(certs, tmp_path) as play:
        play.executor.gate.clear()
        play.alice.flush(RunRequest(1, "r", TRUE))
        await until(lambda: play.executor.started, what="the start")
        (identity,) = play.executor.started
        play.alice.flush(kind(2, identity.id))
        (job,) = play.manager
        await until(lambda: job.facts.state is JobState.STOPPING, what="the request")
        assert identity.id not in play.executor.executions
        play.executor.gate.set()
        responses = {type(await play.alice.receive()) for _ in range(2)}

    assert responses == {RunResponse, DoneResponse}
    assert len(play.executor.executions[identity.id].calls) == 1


@pytest.mark.parametrize("kind", [KillRequest, StopRequest])
async def test_end_of_what_has_ended(
    certs: Certificates, tmp_path: Path, kind: type[Any]
) -> None:
    """To end a job that has ended is no error, and nothing is sent."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        play.executor.exit(job)
        response = await play.alice.ask(kind(1, job), DoneResponse)

    assert response.already_ended
    assert play.executor.executions[job].calls == []


async def test_end_of_what_is_being_hashed(
    certs: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job of which nothing runs any more is not sent signals, nor waited for less."""
    gate = threading.Event()
    monkeypatch.setattr(StreamDigest, "_hash", lambda *_: gate.wait(DEADLINE))

    async with scene(certs, tmp_path) as play:
        job = await play.run()
        play.executor.write(job, b"x")
        play.executor.exit(job, sealed=False)
        play.alice.flush(WaitRequest(1, job))
        killed = await play.alice.ask(KillRequest(2, job), DoneResponse)
        stopped = await play.alice.ask(StopRequest(3, job), DoneResponse)
        status = await play.alice.ask(StatusRequest(4, job), StatusResponse)
        gate.set()
        waited = await play.alice.expect(StatusResponse)

    assert killed.already_ended
    assert stopped.already_ended
    assert play.executor.executions[job].calls == []
    assert status.status.state is JobState.RUNNING
    assert (waited.id, waited.status.state) == (1, JobState.FINISHED)


async def test_remove(certs: Certificates, tmp_path: Path) -> None:
    """A job that has ended is removed, by any reference to it."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        play.executor.exit(job)
        response = await play.alice.ask(RemoveRequest(1, job[:8]), DoneResponse)
        gone = await play.alice.ask(StatusRequest(1, job), ErrorResponse)
        again = await play.alice.ask(RemoveRequest(1, job), ErrorResponse)
        other = await play.run()

    assert response == DoneResponse(1, job)
    assert error_of(gone) == error_of(again) == (1, "job_not_found")
    assert other != job


async def test_remove_what_runs(certs: Certificates, tmp_path: Path) -> None:
    """A job that runs is not removed."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        error = await play.alice.ask(RemoveRequest(1, job), ErrorResponse)

    assert error_of(error) == (1, "job_not_ended")
    assert error.details == {"job": job}


async def test_remove_that_fails(certs: Certificates, tmp_path: Path) -> None:
    """A job that the keeper cannot remove is still there."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        play.executor.exit(job)
        play.executor.refusal = Unavailable("the disk is read-only")
        error = await play.alice.ask(RemoveRequest(1, job), ErrorResponse)
        await play.alice.ask(StatusRequest(1, job), StatusResponse)

    assert error_of(error) == (1, "unavailable")


async def test_remove_and_go(certs: Certificates, tmp_path: Path) -> None:
    """A removal goes on when its client cancels it, or is gone."""
    async with scene(certs, tmp_path) as play:
        jobs = [await play.run(request=f"r{n}") for n in range(2)]

        for job in jobs:
            play.executor.exit(job)

        play.executor.bin.clear()
        play.alice.flush(RemoveRequest(1, jobs[0]), RemoveRequest(2, jobs[1]))
        await until(lambda: len(play.executor.removed) == 2, what="the removals")
        play.alice.flush(Cancel(1))
        error = await play.alice.expect(ErrorResponse)
        await play.alice.leave()
        await until(lambda: len(play.server.sessions) == 1, what="the end of alice")
        play.executor.bin.set()
        await until(
            lambda: not play.manager._removals._tasks, what="the end of the removals"
        )
        counts = play.manager.counts()

    assert error_of(error) == (1, "cancelled")
    assert sum(counts.values()) == 0


async def test_list(certs: Certificates, tmp_path: Path) -> None:
    """Own jobs, newest first, page by page."""
    async with scene(certs, tmp_path) as play:
        jobs = [await play.run(request=f"r{n}") for n in range(5)]
        first = await play.alice.ask(ListRequest(1, limit=3), ListResponse)
        last = first.jobs[-1].id
        rest = await play.alice.ask(ListRequest(1, before=last), ListResponse)
        other = await play.bob.ask(ListRequest(1), ListResponse)

    assert [job.id for job in first.jobs] == jobs[:1:-1]
    assert [job.id for job in rest.jobs] == jobs[1::-1]
    assert (first.more, rest.more) == (True, False)
    assert other.jobs == ()


async def test_list_after_a_removal(certs: Certificates, tmp_path: Path) -> None:
    """A page after a job that was removed is refused: it would not be the next one."""
    async with scene(certs, tmp_path) as play:
        jobs = [await play.run(request=f"r{n}") for n in range(3)]
        play.executor.exit(jobs[1])
        page = await play.alice.ask(ListRequest(1, limit=2), ListResponse)
        await play.alice.ask(RemoveRequest(1, jobs[1]), DoneResponse)
        request = ListRequest(1, before=page.jobs[-1].id)
        error = await play.alice.ask(request, ErrorResponse)

    assert error_of(error) == (1, "job_not_found")
    assert error.details == {"job": jobs[1]}


@pytest.mark.parametrize(
    ("count", "spec"),
    [
        (8, JobSpec((b"x" * 100_000,) * 3)),
        (24, JobSpec((b"true",), workdir=b"/" + b"w" * 100_000)),
        (5, JobSpec((b"true", *[b""] * 16_000))),
        (80, JobSpec((b"true",), labels={f"k{n}": "é" * 255 for n in range(64)})),
    ],
    ids=["command", "workdir", "arguments", "labels"],
)
async def test_list_of_big_jobs(
    certs: Certificates, tmp_path: Path, count: int, spec: JobSpec
) -> None:
    """However big the jobs are, each page fits a frame, and all of them come."""
    async with scene(certs, tmp_path) as play:
        jobs = {await play.run(spec, request=f"r{n}") for n in range(count)}
        found: list[str] = []
        before = None

        while True:
            page = await play.alice.ask(ListRequest(1, before=before), ListResponse)
            found += [job.id for job in page.jobs]

            if not page.more:
                break

            before = found[-1]

    assert len(found) == count
    assert set(found) == jobs


async def test_info(certs: Certificates, tmp_path: Path) -> None:
    """The server tells about itself."""
    async with scene(certs, tmp_path) as play:
        await play.run()
        response = await play.alice.ask(InfoRequest(1), InfoResponse)

    assert (response.name, response.connections, response.cgroups) == (
        "alice",
        2,
        "none",
    )
    assert response.jobs["running"] == 1
