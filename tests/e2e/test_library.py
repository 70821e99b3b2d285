"""The library of CLI.md's last section, on both event loops."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, cast

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
        ({"mem": True}, "mem is a whole number of megabytes, not True"),
        ({"mem": "5g"}, "mem is a whole number of megabytes, not '5g'"),
        ({"timeout": "10m"}, "timeout is a number of seconds, not '10m'"),
        ({"tty": (80, 25)}, r"tty is a TerminalSize, not \(80, 25\)"),
        ({"stdin": "x"}, "stdin is True or False, not 'x'"),
        ({"name": 3}, "name is text, not 3"),
        ({"env": {"A": 1}}, r"env\['A'\] is text, bytes or a path, not 1"),
        ({"env": [1]}, r"env is a mapping, not \[1\]"),
        ({"labels": {"a": 1}}, "labels are text, not 'a': 1"),
        ({"workdir": 5}, "workdir is text, bytes or a path, not 5"),
        ({"argv": ["ls", 3]}, "argument 1 is text, bytes or a path, not 3"),
        ({"argv": "ls"}, "the command is one string"),
        ({"argv": 3}, "the command is a list of arguments, not 3"),
    ],
)
async def test_mistake_of_a_program(
    client: twctl.Client, wrong: dict[str, Any], named: str
) -> None:
    """A value that cannot be is named, and harms nothing else on the connection."""
    job = await client.run(["sleep", "300"])
    waiting = asyncio.create_task(job.wait())

    with pytest.raises(TypeError, match=named):
        await client.run(**{"argv": ["true"], **wrong})

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
        lambda client, _: client.run(["true"], request_id=cast("str", 5)),
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
