"""How a stream is read: by offset, with credit, to its end."""

import hashlib
from pathlib import Path

import pytest

from teleworkerd.protocol.messages import (
    Cancel,
    Credit,
    InfoRequest,
    Message,
    OutputRequest,
    Request,
)
from teleworkerd.protocol.responses import (
    ErrorResponse,
    InfoResponse,
    OutputChunk,
    OutputEnd,
    OutputResponse,
)
from teleworkerd.protocol.types import Stream
from teleworkerd.settings import OutputConfig
from tests.e2e.pki import Certificates
from tests.fakes import config_in
from tests.server.peers import error_of, until
from tests.server.scene import CREDIT, scene


async def test_output(certs: Certificates, tmp_path: Path) -> None:
    """What there is of a stream, from any offset."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        data = bytes(range(256)) * 40
        play.executor.write(job, data)

        for offset in (0, 1, 5000, len(data)):
            request = OutputRequest(1, job, offset=offset, credit=CREDIT)
            got, end = await play.read(request)
            assert got == data[offset:]
            assert (end.offset, end.complete, end.status) == (len(data), False, None)


async def test_output_beyond_the_end(certs: Certificates, tmp_path: Path) -> None:
    """An offset that is not there yet is an error that says what is."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        play.executor.write(job, b"abc")
        error = await play.alice.ask(OutputRequest(1, job, offset=4), ErrorResponse)

    assert error_of(error) == (1, "offset_out_of_range")
    assert error.details == {"first": 0, "end": 3}


async def test_follow(certs: Certificates, tmp_path: Path) -> None:
    """A reader that follows gets what comes, and at the end the job's status."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        request = OutputRequest(1, job, Stream.STDERR, follow=True, credit=CREDIT)
        await play.alice.ask(request, OutputResponse)
        wanted = hashlib.sha256()

        for n in range(50):
            piece = bytes([n]) * (n * 100)
            wanted.update(piece)
            play.executor.write(job, piece, Stream.STDERR)

        play.executor.exit(job)
        data, end = await play.rest(request)

    assert hashlib.sha256(data).digest() == wanted.digest()
    assert end.complete
    assert end.status is not None
    assert end.status.exit_code == 3


async def test_credit(certs: Certificates, tmp_path: Path) -> None:
    """No more is sent than was asked for; other requests are not held up."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        play.executor.write(job, bytes(5000))
        request = OutputRequest(1, job, credit=1500)
        await play.alice.ask(request, OutputResponse)
        first = await play.alice.expect(OutputChunk)
        second = await play.alice.expect(OutputChunk)
        play.alice.flush(InfoRequest(2))
        await play.alice.expect(InfoResponse)
        play.alice.flush(Credit(1, CREDIT))
        data, _ = await play.rest(request)

    assert len(first.data) + len(second.data) == 1500
    assert len(data) == 3500


async def test_credit_of_each(certs: Certificates, tmp_path: Path) -> None:
    """Readers of one stream on one connection have each their own credit and place."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        play.executor.write(job, bytes(range(200)) * 25)
        slow = OutputRequest(1, job, credit=10)
        await play.alice.ask(slow, OutputResponse)
        first = await play.alice.expect(OutputChunk)
        data, end = await play.read(OutputRequest(2, job, offset=7, credit=CREDIT))
        play.alice.flush(Credit(1, CREDIT))
        rest, last = await play.rest(slow)

    assert first.data == bytes(range(10))
    assert (end.id, data) == (2, (bytes(range(200)) * 25)[7:])
    assert (last.id, first.data + rest) == (1, bytes(range(200)) * 25)


@pytest.mark.parametrize("credit", [0, 10, CREDIT], ids=["none", "some", "plenty"])
async def test_cancelled_output(
    certs: Certificates, tmp_path: Path, credit: int
) -> None:
    """A reader that cancels gets an end, not an error, at the offset it has."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        play.executor.write(job, bytes(3000))
        request = OutputRequest(1, job, follow=True, credit=credit)
        await play.alice.ask(request, OutputResponse)
        got = 0

        while got < min(credit, 3000):
            got += len((await play.alice.expect(OutputChunk)).data)

        play.alice.flush(Cancel(1))
        data, end = await play.rest(request)
        again = await play.read(OutputRequest(1, job, offset=2999, credit=CREDIT))

    assert (data, end.offset, end.complete) == (b"", got, False)
    assert again[0] == b"\0"


async def test_output_and_cancel_in_one_breath(
    certs: Certificates, tmp_path: Path
) -> None:
    """A cancel that comes with its request is answered once."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        request = OutputRequest(1, job, follow=True, credit=CREDIT)
        play.alice.flush(request, Cancel(1), InfoRequest(2))
        finals: list[Message] = []

        while len(finals) < 2:
            message = await play.alice.receive()

            if not isinstance(message, (OutputResponse, OutputChunk)):
                finals.append(message)

    assert {type(message) for message in finals} in (
        {OutputEnd, InfoResponse},
        {ErrorResponse, InfoResponse},
    )


async def test_slow_reader(certs: Certificates, tmp_path: Path) -> None:
    """Many subscriptions of one client that does not read fill one buffer, not many."""
    async with scene(certs, tmp_path, output=OutputConfig()) as play:
        job = await play.run()
        play.executor.write(job, bytes(4 << 20))
        limit = play.manager._config.output.send_buffer
        transport = play.alice.writer.transport
        transport.pause_reading()  # type: ignore[attr-defined]  # a transport that reads, too
        requests: list[Request] = [
            OutputRequest(n, job, credit=4 << 20) for n in range(100)
        ]
        play.alice.flush(*requests)
        (session,) = (
            each for each in play.server.sessions if each.principal.name == "alice"
        )
        await until(lambda: not session._writable.is_set(), what="a full buffer")
        most = session._transport.get_write_buffer_size()
        transport.resume_reading()  # type: ignore[attr-defined]  # as above
        got = dict.fromkeys(range(100), 0)
        ended = 0

        while ended < 3:
            message = await play.alice.receive()
            most = max(most, session._transport.get_write_buffer_size())

            if isinstance(message, OutputChunk):
                assert message.offset == got[message.id]
                got[message.id] += len(message.data)
            elif isinstance(message, OutputEnd):
                ended += 1

    # Beyond the mark there may be what was being sent, and TLS's own.
    assert most < 2 * limit


async def test_lost_reader(certs: Certificates, tmp_path: Path) -> None:
    """A reader whose connection is gone is no reader any more."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        await play.alice.ask(
            OutputRequest(1, job, follow=True, credit=CREDIT), OutputResponse
        )
        found = play.manager.get(job, owner="alice")
        assert found.readers == 1
        await play.alice.leave()

        await until(lambda: found.readers == 0, what="the end of the subscription")


async def test_spool_that_is_gone(certs: Certificates, tmp_path: Path) -> None:
    """Output that cannot be read any more is an error, not a silence."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        play.executor.write(job, bytes(5000))
        (config_in(tmp_path).jobs_dir / job / "stdout").unlink()
        request = OutputRequest(1, job, credit=CREDIT)
        await play.alice.ask(request, OutputResponse)

        assert error_of(await play.alice.expect(ErrorResponse)) == (1, "internal")
