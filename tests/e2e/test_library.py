"""The library of CLI.md's last section, on both event loops."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

import twctl
from teleworkerd.protocol.errors import JobNotFound, LimitRejected, RequestError
from teleworkerd.protocol.types import JobState, Reason
from tests.e2e.daemon import Daemon
from tests.e2e.pki import Certificates


def connect(
    daemon: Daemon, certs: Certificates, name: str
) -> AbstractAsyncContextManager[twctl.Client]:
    """Connect as *name*."""
    identity = certs.of(name)
    return twctl.connect(
        daemon.address,
        ca=str(certs.ca),
        cert=str(identity.cert),
        key=str(identity.key),
    )


@pytest.fixture
async def client(daemon: Daemon, certs: Certificates) -> AsyncIterator[twctl.Client]:
    """A connection as alice."""
    async with connect(daemon, certs, "alice") as connected:
        yield connected


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"mem": 5.5}, "mem is a whole number of megabytes, not 5.5"),
        ({"mem": "5g"}, "mem is a whole number of megabytes, not '5g'"),
        ({"mem": True}, "mem is a whole number of megabytes, not True"),
        ({"cpus": "2"}, "cpus is a number of processors, not '2'"),
        ({"timeout": "10m"}, "timeout is a number of seconds, not '10m'"),
        ({"output_limit": "1k"}, "output_limit is a whole number of bytes, not '1k'"),
        ({"name": 3}, "name is text, not 3"),
        ({"user": b"nobody"}, "user is text, not b'nobody'"),
        ({"tty": True}, "tty is a TerminalSize, not True"),
        ({"stdin": "x"}, "stdin is True or False, not 'x'"),
        ({"workdir": 3}, "workdir is text, bytes or a path, not 3"),
        ({"env": {"A": 1}}, "env['A'] is text, bytes or a path, not 1"),
        ({"env": {1: "A"}}, "a name in env is text, bytes or a path, not 1"),
        ({"env": ["A=1"]}, "env is a mapping, not ['A=1']"),
        ({"labels": {"a": 1}}, "labels['a'] is text, not 1"),
        ({"labels": {b"a": "1"}}, "a key of labels is text, not b'a'"),
        ({"labels": ["a=1"]}, "labels is a mapping, not ['a=1']"),
        ({"argv": ["ls", 3]}, "argument 1 is text, bytes or a path, not 3"),
        ({"argv": "ls -l"}, "the command is one string; give a list of its arguments"),
    ],
)
async def test_mistake_of_a_program(
    client: twctl.Client, wrong: dict[str, Any], named: str
) -> None:
    """An argument of a wrong type is named."""
    with pytest.raises(TypeError, match=f"^{re.escape(named)}$"):
        await client.run(**{"argv": ["true"], **wrong})


async def test_value_that_cannot_be(client: twctl.Client) -> None:
    """A value that no server could read harms nothing else on the connection."""
    job = await client.run(["sleep", "300"])
    waiting = asyncio.create_task(job.wait())

    with pytest.raises(ValueError, match=r"output\.offset"):
        await anext(aiter(job.output(offset=-1)))

    await job.kill()
    assert (await waiting).reason is Reason.KILLED


@pytest.mark.parametrize(
    "ask",
    [
        lambda client, _: client.job("x" * 65).status(),
        lambda _, job: job.kill(99),
        lambda _, job: job.resize(0, 5),
        lambda client, _: client.list(name="x" * 300),
        lambda client, _: client.list(states=["running"] * 17),
        lambda client, _: client.run(["true"], request_id="x" * 300),
        lambda client, _: anext(aiter(client.events(since=-1))),
        lambda client, _: anext(aiter(client.top(["x"] * 65))),
    ],
)
async def test_value_out_of_its_range(
    client: twctl.Client,
    ask: Callable[[twctl.Client, twctl.RemoteJob], Awaitable[object]],
) -> None:
    """So does one that is too large, whoever is to find that out."""
    job = await client.run(["sleep", "300"])
    waiting = asyncio.create_task(job.wait())

    with pytest.raises((ValueError, RequestError)):
        await ask(client, job)

    await job.kill()
    assert (await waiting).reason is Reason.KILLED


async def test_run_read_and_wait(client: twctl.Client) -> None:
    """A job is started, read to its end and waited for, as in CLI.md."""
    job = await client.run(["sh", "-c", "seq 1 30000; exit 4"], mem=64)

    data = b"".join([chunk.data async for chunk in job.output()])

    status = await job.wait()
    assert data == b"".join(b"%d\n" % number for number in range(1, 30_001))
    assert (status.exit_code, status.state) == (4, JobState.FINISHED)
    assert status.limits.mem == 64


async def test_chunks_are_contiguous(client: twctl.Client) -> None:
    """Each chunk says where it starts: where the one before it has ended."""
    job = await client.run(["seq", "1", "200000"])
    end = 0

    async for chunk in job.output():
        assert chunk.offset == end
        end += len(chunk.data)

    assert end == 1_288_895
    await job.wait()


async def test_kill(client: twctl.Client) -> None:
    """A job can be killed, and says by what it ended."""
    job = await client.run(["sleep", "1000"])

    await job.kill()

    status = await job.wait()
    assert (status.exit_code, status.reason) == (137, Reason.KILLED)


async def test_two_people(
    client: twctl.Client, daemon: Daemon, certs: Certificates
) -> None:
    """Somebody else's job is not found."""
    job = await client.run(["true"])

    async with connect(daemon, certs, "bob") as other:
        with pytest.raises(JobNotFound):
            await other.job(job.id).status()

    await job.wait()


async def test_refused_limit(client: twctl.Client) -> None:
    """A limit that is out of range is refused before anything starts."""
    with pytest.raises(RequestError) as refused:
        await client.run(["true"], cpu=101)

    assert "cpu" in str(refused.value)
    assert not isinstance(refused.value, LimitRejected)
