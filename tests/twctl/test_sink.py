"""Writing to local descriptors that take their time."""

import asyncio
import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from twctl.sink import Sink, write_all


DATA = bytes(range(256)) * 4096  # a mebibyte: more than a pipe holds


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Both ends of a pipe."""
    ends = os.pipe()
    yield ends

    for fd in ends:
        with contextlib.suppress(OSError):
            os.close(fd)


def drain(fd: int, size: int) -> bytes:
    """Return *size* bytes from *fd*."""
    data = b""

    while len(data) < size:
        data += os.read(fd, size - len(data))

    return data


async def test_slow_pipe(pipe: tuple[int, int]) -> None:
    """A full pipe keeps the writer waiting, not the loop, and no byte is lost."""
    reader, writer = pipe
    sink = Sink(writer)
    writing = asyncio.create_task(sink.write(DATA))
    await asyncio.sleep(0)

    assert not writing.done()
    assert await asyncio.to_thread(drain, reader, len(DATA)) == DATA
    await writing
    sink.close()


async def test_flags_stay(pipe: tuple[int, int]) -> None:
    """Whoever shares the pipe does not find it non-blocking."""
    _, writer = pipe
    sink = Sink(writer)
    await sink.write(b"x")

    assert not fcntl.fcntl(writer, fcntl.F_GETFL) & os.O_NONBLOCK
    sink.close()


async def test_cancelled_write(pipe: tuple[int, int]) -> None:
    """A write that nobody reads can be given up."""
    _, writer = pipe
    sink = Sink(writer)
    writing = asyncio.create_task(sink.write(DATA))
    await asyncio.sleep(0)

    writing.cancel()

    with pytest.raises(asyncio.CancelledError):
        await writing

    sink.close()


async def test_reader_goes(pipe: tuple[int, int]) -> None:
    """A pipe without a reader is broken, for the writer and for the watcher."""
    reader, writer = pipe
    sink = Sink(writer)
    abandoned = asyncio.Event()
    sink.watch(abandoned.set)
    os.close(reader)

    await asyncio.wait_for(abandoned.wait(), 10)

    with pytest.raises(BrokenPipeError):
        await sink.write(b"x")

    sink.close()


async def test_socket() -> None:
    """What cannot be opened again is written by a thread."""
    ours, theirs = socket.socketpair()

    with ours, theirs:
        sink = Sink(ours.fileno())
        writing = asyncio.create_task(sink.write(DATA))
        received = await asyncio.to_thread(drain, theirs.fileno(), len(DATA))
        await writing
        theirs.close()

        assert received == DATA
        with pytest.raises(BrokenPipeError):
            await sink.write(DATA)


async def test_file(tmp_path: Path) -> None:
    """A file goes on where it is, appended by others or not."""
    with (tmp_path / "out").open("wb") as file:
        sink = Sink(file.fileno())
        sink.watch(lambda: None)
        await sink.write(b"one")
        os.write(file.fileno(), b"two")
        await sink.write(b"three")
        sink.close()

    assert (tmp_path / "out").read_bytes() == b"onetwothree"


async def test_pipe_that_somebody_made_non_blocking(pipe: tuple[int, int]) -> None:
    """A descriptor that says EAGAIN is waited for."""
    reader, writer = pipe
    os.set_blocking(writer, False)
    writing = asyncio.create_task(asyncio.to_thread(write_all, writer, DATA))

    assert await asyncio.to_thread(drain, reader, len(DATA)) == DATA
    await writing
