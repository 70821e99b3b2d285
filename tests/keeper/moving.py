"""Spools that move in this process, and a job's end of them."""

import asyncio
import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from teleworkerd.jobdir import JobDirectory
from teleworkerd.keeper.quota import Quota, Shortage
from teleworkerd.keeper.spool import Spool
from teleworkerd.keeper.spools import Spools
from teleworkerd.output.gaps import read_gaps
from teleworkerd.output.index import RECORD, IndexRecord
from teleworkerd.protocol.messages import Message
from teleworkerd.protocol.spec import JobSpec
from teleworkerd.protocol.types import Stream
from teleworkerd.reserve import Reserve
from teleworkerd.settings import OutputConfig
from teleworkerd.spare import Spare


PIPE: Final = 64 << 10
DISK: Final = 1 << 20


def quota_of(*, owner: int = 0, total: int = 0) -> Quota:
    """Return a quota with these limits."""
    return Quota(OutputConfig(owner_limit=owner, total_limit=total))


@contextmanager
def small_disk(path: Path, size: int = DISK) -> Iterator[Path]:
    """Mount a disk of *size* bytes at *path*."""
    path.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", path],
        check=True,
    )

    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def fill(path: Path) -> None:
    """Take all the room that the small disk of *path* has."""
    with suppress(OSError):
        path.write_bytes(bytes(8 * DISK))


def no_room(*_: object) -> int:
    """Fail as a full disk does."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def until(condition: Callable[[], object]) -> None:
    """Wait until *condition* holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  a full disk sends no event
            await asyncio.sleep(0.005)


async def rest() -> None:
    """Let the loop do all that it can do at once."""
    for _ in range(20):
        await asyncio.sleep(0)


class Moving:
    """The spools of a job, what it writes into them, and what is told of it.

    *options* are those of its spec; *limit* is the job's own.
    """

    def __init__(
        self,
        path: Path,
        *,
        quota: Quota | None = None,
        owner: str = "alice",
        limit: int | None = None,
        **options: Any,
    ) -> None:
        self.directory = JobDirectory(path)
        self.directory.create()
        self.quota = quota or quota_of()
        self.share = self.quota.add(path.name, owner, limit=limit)
        self.reserve = Reserve(path.with_name("reserve"))
        self._stack = ExitStack()
        spare = Spare(1)
        self._stack.callback(spare.close)
        self.told: list[Message] = []
        self.exceeded: list[str] = []
        self.written = dict.fromkeys(Stream, b"")
        self.spools = Spools(
            self.directory,
            JobSpec((b"x",), **options),
            config=OutputConfig(pipe=PIPE),
            share=self.share,
            reserve=self.reserve,
            spare=spare,
            watcher=self,
        )
        self._stack.callback(self.spools.close)
        self.pipes = [os.dup(fd) for fd in self.spools.write_ends]

        for pipe in self.pipes:
            os.set_blocking(pipe, False)

        self.spools.launched()

    def output_changed(self) -> None:
        """Take the news, as the keeper does."""
        self.told.extend(self.spools.news())

    def output_exceeded(self, shortage: Shortage) -> None:
        """Note that the job is to be killed."""
        self.exceeded.append(shortage.why)

    @property
    def kept(self) -> int:
        """How many bytes are kept."""
        return self.share.kept

    @property
    def dropped(self) -> int:
        """How many bytes are not."""
        return sum(self.spools.dropped_of(stream) for stream in Stream)

    @property
    def held_up(self) -> str | None:
        """Why output is not taken."""
        return self.spools.why_held_up

    def spool(self, stream: Stream = Stream.STDOUT) -> Spool:
        """Return one of the spools."""
        return self.spools._spools[stream]

    def is_quiet(self) -> bool:
        """Whether all that was written has been taken, and the index says so."""
        wanted = tuple(len(self.written[stream]) for stream in Stream)
        return self.spools.ends == wanted

    async def write(self, data: bytes, stream: Stream = Stream.STDOUT) -> None:
        """Write *data* as a job would, waiting while the pipe is full."""
        pipe = self.pipes[list(Stream).index(stream)]

        while data:
            count = 0

            with suppress(BlockingIOError):
                count = os.write(pipe, data)

            self.written[stream] += data[:count]
            data = data[count:]
            await asyncio.sleep(0)

    async def say(self, data: bytes, stream: Stream = Stream.STDOUT) -> None:
        """Write *data*, and wait until the index says that it was."""
        await self.write(data, stream)
        await until(self.is_quiet)

    def hang_up(self) -> None:
        """Close the job's end of the pipes."""
        while self.pipes:
            os.close(self.pipes.pop())

    async def end(self) -> None:
        """Wait for the end of the pipes, have all written down, and check it."""
        self.hang_up()

        async with asyncio.timeout(10):
            await self.spools.ended()
            await self.spools.settle()

        self.discard()
        self.check()

    def discard(self) -> None:
        """Close everything, whether or not it is at its end."""
        self.hang_up()
        self._stack.close()

    def gaps(self, stream: Stream = Stream.STDOUT) -> list[tuple[int, int]]:
        """Return what the file says of the gaps of *stream*."""
        return [
            (gap.offset, gap.stop)
            for gap in read_gaps(self.directory.gaps)
            if gap.stream is stream
        ]

    def output(self, stream: Stream = Stream.STDOUT) -> bytes:
        """Return what the spool holds."""
        return self.directory.spool(stream).read_bytes()

    def records(self) -> list[IndexRecord]:
        """Return the records of the index."""
        data = self.directory.index.read_bytes()
        return [IndexRecord(*fields) for fields in RECORD.iter_unpack(data)]

    def check(self) -> None:
        """Compare what is in the files, once all is over, with what was written."""
        records = self.records() if self.directory.index.exists() else []
        ends = {
            Stream.STDOUT: [record.stdout for record in records],
            Stream.STDERR: [record.stderr for record in records],
        }

        for stream, written in self.written.items():
            expected = bytearray(written)

            for offset, stop in self.gaps(stream):
                expected[offset:stop] = bytes(stop - offset)

            missing = sum(stop - offset for offset, stop in self.gaps(stream))
            found = self.output(stream)

            assert found == expected[: len(found)]
            assert not any(expected[len(found) :])
            assert missing == self.spools.dropped_of(stream)
            assert ends[stream] == sorted(ends[stream])
            assert (ends[stream] or [0])[-1] == len(written)

        times = [record.time for record in records]
        assert times == sorted(times)
        assert self.kept + self.dropped == sum(map(len, self.written.values()))


def scheduled() -> list[asyncio.TimerHandle]:
    """Return the timers of the running loop that are not cancelled."""
    loop: Any = asyncio.get_running_loop()
    return [timer for timer in loop._scheduled if not timer.cancelled()]
