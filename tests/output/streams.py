"""One stream or both with their readers, and the files below them."""

from pathlib import Path

from teleworkerd.output.fanout import Fanout
from teleworkerd.output.history import OutputHistory
from teleworkerd.output.index import OutputIndex
from teleworkerd.output.interleave import Interleaving
from teleworkerd.output.subscription import Subscription
from teleworkerd.protocol.types import Stream
from tests.output.written import Written


STDOUT = Stream.STDOUT


class Source:
    """A fan-out, and the means to write what it hands on."""

    def __init__(
        self, path: Path, *, window: int = 8, chunk: int = 4, queue_chunks: int = 2
    ) -> None:
        self.written = Written(path)
        self.spool = self.written.directory.spool(STDOUT)
        self.index = OutputIndex(self.written.directory.index)
        self.history = OutputHistory(STDOUT, self.spool, window=window, chunk=chunk)
        self.fanout = Fanout(self.history, chunk=chunk, queue_chunks=queue_chunks)

    def write(self, data: bytes, *, at: int = 0) -> None:
        """Let the job write *data*, and the keeper tell of it."""
        self.written.write(data)
        self.written.record(at)
        self.grow()

    def drop(self, count: int) -> None:
        """Let what the job writes be dropped, and the keeper tell of it."""
        gap = self.written.drop(count)
        self.written.record()
        self.fanout.gaps.add(gap.stop - count, gap.stop)
        self.grow()

    def grow(self) -> None:
        """Tell how far the stream is."""
        self.fanout.grow(self.written.ends[STDOUT])

    def with_times(self, offset: int = 0) -> Subscription:
        """Return a reader who wants to know when the bytes came."""
        return self.fanout.subscribe(offset=offset, index=self.index)

    def close(self) -> None:
        """Give back the descriptors."""
        self.history.close()
        self.index.close()


class Job:
    """Both streams of a job, and the means to write and to tell of them."""

    def __init__(self, path: Path, *, window: int = 8, chunk: int = 4) -> None:
        self.written = Written(path)
        self.index = OutputIndex(self.written.directory.index)
        self.histories = {
            stream: OutputHistory(
                stream,
                self.written.directory.spool(stream),
                window=window,
                chunk=chunk,
            )
            for stream in Stream
        }
        self.fanouts = {
            stream: Fanout(history, chunk=chunk, queue_chunks=2)
            for stream, history in self.histories.items()
        }

    def read(
        self,
        stdout: int = 0,
        stderr: int = 0,
        *,
        stops: dict[Stream, int] | None = None,
        times: bool = True,
    ) -> Interleaving:
        """Return a reader of both at these offsets."""
        return Interleaving(
            self.fanouts,
            self.index,
            offsets={Stream.STDOUT: stdout, Stream.STDERR: stderr},
            stops=stops,
            times=times,
        )

    def drop(self, count: int, stream: Stream) -> None:
        """Let what the job writes be dropped; the readers' side knows of the gap."""
        gap = self.written.drop(count, stream)
        self.fanouts[stream].gaps.add(gap.offset, gap.stop)

    def tell(self, *, everything: bool = False) -> None:
        """Tell how far the streams are: as the index says, or beyond that."""
        ends = self.written.sizes if everything else self.written.recorded

        for fanout, end in zip(self.fanouts.values(), ends, strict=True):
            fanout.grow(end)

    def say(self, data: bytes, stream: Stream = STDOUT, *, at: int = 0) -> None:
        """Let the job have written *data*, recorded and told."""
        self.written.write(data, stream)
        self.written.record(at)
        self.tell()

    def end(self) -> None:
        """Tell everything, and that it was all."""
        self.tell(everything=True)

        for fanout in self.fanouts.values():
            fanout.end()

    def close(self) -> None:
        """Give back the descriptors."""
        self.index.close()

        for history in self.histories.values():
            history.close()
