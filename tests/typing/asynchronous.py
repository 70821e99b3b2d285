"""The types of the asynchronous library, and calls that it must not allow."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta
from typing import assert_type

import twctl


async def of_a_client(client: twctl.Client, profile: twctl.Profile) -> None:
    """A client starts and finds jobs."""
    assert_type(twctl.connect("host", ca="a", context="c"), twctl.Client)
    assert_type(twctl.Client(profile, retry_for=1.0), twctl.Client)
    job = await client.run(["make"], mem=2048, labels={"a": "b"}, on_full="drop")
    assert_type(job, twctl.RemoteJob)
    assert_type(client.job("build"), twctl.RemoteJob)
    assert_type(await client.list(states=["running"]), list[twctl.JobStatus])
    assert_type(await client.info(), twctl.InfoResponse)
    assert_type(client.top(["build"]), AsyncGenerator[twctl.Sample, None])
    assert_type(client.events(since=7), AsyncGenerator[twctl.News, None])

    assert_type(client.now(), int)
    assert_type(client.is_up, bool)

    async with client as entered:
        assert_type(entered, twctl.Client)

    await client.run()  # type: ignore[call-arg]  # without a command
    await client.run(["make"], memory=1)  # type: ignore[call-arg]  # no such limit
    await client.run(["make"], mem="2g")  # type: ignore[arg-type]  # not a number
    client.list()  # type: ignore[unused-coroutine]  # without await


async def of_a_job(job: twctl.RemoteJob) -> None:
    """A job is asked, read, written to and ended."""
    assert_type(await job.status(), twctl.JobStatus)
    assert_type(await job.wait(), twctl.JobStatus)
    assert_type(await job.wait(timeout=0.5), twctl.JobStatus)
    assert_type(await job.kill(15, tree=True), bool)
    assert_type(await job.stop(None), bool)
    assert_type(await job.resize(80, 24), bool)
    assert_type(await job.resolve(), str)
    await job.remove()

    async for chunk in job.output("stderr", offset=3):
        assert_type(chunk, twctl.Chunk)

    async with aclosing(job.interleaved(since=timedelta(hours=1))) as chunks:
        assert_type(await anext(chunks), twctl.Chunk)

    async with await job.input() as stdin:
        assert_type(stdin, twctl.JobInput)
        assert_type(await stdin.close(), twctl.InputEndReason)
        assert_type(await stdin.wait(), twctl.InputEndReason)
        assert_type(stdin.ended, twctl.InputEndReason | None)
        assert_type(stdin.taken, int)
        await stdin.write(b"bytes")
        await stdin.drain()
        await stdin.leave()
        await stdin.write("text")  # type: ignore[arg-type]  # not bytes

    await job.kill(tree="yes")  # type: ignore[arg-type]  # not a bool
