"""The types of `twctl.sync`, and calls that it must not allow."""

from collections.abc import Generator, Mapping
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import assert_type

import twctl


def of_a_client(client: twctl.sync.Client, profile: twctl.Profile) -> None:
    """A client starts and finds jobs, and knows its server."""
    assert_type(
        twctl.sync.connect("host", ca="a", cert=Path("b"), key="c"), twctl.sync.Client
    )
    patient = twctl.Client(profile, retry_for=1.5, notice=print, warn=print)
    assert_type(twctl.sync.Client(patient), twctl.sync.Client)
    job = client.run(["a", b"b", Path("c")], cpus=0.5, env={b"K": b"V"}, tty=None)
    assert_type(job, twctl.sync.RemoteJob)
    assert_type(client.job("build"), twctl.sync.RemoteJob)
    assert_type(client.list(states=["running"], owner="*"), list[twctl.JobStatus])
    assert_type(client.info(), twctl.InfoResponse)
    assert_type(client.top(["build"]), Generator[twctl.Sample, None, None])
    assert_type(client.events(since=7, follow=False), Generator[twctl.News, None, None])
    assert_type(client.now(), int)
    assert_type(client.is_up, bool)

    with client as entered:
        assert_type(entered, twctl.sync.Client)

    client.run()  # type: ignore[call-arg]  # without a command
    client.run(["make"], memory=1)  # type: ignore[call-arg]  # no such limit
    client.run(["make"], mem="2g")  # type: ignore[arg-type]  # not a number


def of_a_job(job: twctl.sync.RemoteJob) -> None:
    """A job is asked, read, written to and ended."""
    assert_type(job.id, str)
    assert_type(job.not_applied, Mapping[str, str])
    assert_type(job.status(), twctl.JobStatus)
    assert_type(job.wait(timeout=0.5), twctl.JobStatus)
    assert_type(job.kill(15, tree=True), bool)
    assert_type(job.stop(None), bool)
    assert_type(job.resize(80, 24), bool)
    assert_type(job.resolve(), str)
    job.remove()

    for chunk in job.output("stderr", offset=3, times=True):
        assert_type(chunk, twctl.Chunk)

    with closing(job.interleaved(stdout=3, since=timedelta(hours=1))) as chunks:
        assert_type(next(chunks), twctl.Chunk)

    with job.input() as stdin:
        assert_type(stdin, twctl.sync.JobInput)
        assert_type(stdin.close(), twctl.InputEndReason)
        assert_type(stdin.wait(), twctl.InputEndReason)
        assert_type(stdin.ended, twctl.InputEndReason | None)
        assert_type(stdin.taken, int)
        stdin.write(b"bytes")
        stdin.drain()
        stdin.leave()
        stdin.write("text")  # type: ignore[arg-type]  # not bytes

    job.output(from_offset=3)  # type: ignore[call-arg]  # it is called offset
    job.wait(timeout="10s")  # type: ignore[arg-type]  # not a number
    job.kill(tree="yes")  # type: ignore[arg-type]  # not a bool
