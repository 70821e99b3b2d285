"""A stream's bytes by offset, against bytes that are simply kept."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from teleworkerd.output.history import Chunk, OutputHistory
from tests.fakes import open_descriptors


SIZES = st.integers(0, 40)


class HistoryMachine(RuleBasedStateMachine):
    """Writes to the spool, tells the history or not, and reads anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.spool = Path(self.directory.name) / "stdout"
        self.spool.touch()
        self.written = b""
        self.end = 0
        self.history: OutputHistory
        self.chunk = self.window = 0

    @initialize(window=st.integers(0, 24), chunk=st.integers(1, 12))
    def make(self, window: int, chunk: int) -> None:
        """Begin with any window and any chunk."""
        self.window, self.chunk = window, chunk
        self.history = OutputHistory(self.spool, window=window, chunk=chunk)

    @rule(data=st.binary(max_size=40))
    def write(self, data: bytes) -> None:
        """The job writes; the history has not been told."""
        self.written += data

        with self.spool.open("ab") as file:
            file.write(data)

    @rule(less=SIZES)
    def extend(self, less: int) -> None:
        """What is taken in comes out in order, in chunks that are not too long."""
        end = max(len(self.written) - less, 0)
        chunks = list(self.history.extend(end))
        new = self.written[self.end : end]

        assert new == b"".join(chunk.data for chunk in chunks)
        assert all(1 <= len(chunk.data) <= self.chunk for chunk in chunks)

        for chunk in chunks:
            assert self.end == chunk.offset
            self.end = chunk.stop

    @rule(less=SIZES)
    def skip(self, less: int) -> None:
        """Bytes may be noted without being read."""
        self.end = max(len(self.written) - less, self.end)
        self.history.skip(self.end)

    @rule(back=SIZES, limit=SIZES)
    def read(self, back: int, limit: int) -> None:
        """What is read is a beginning of what there is; nothing at the end only."""
        offset = max(self.end - back, 0)
        there = self.written[offset : self.end][:limit]
        data = self.history.read(offset, limit)

        assert there[: len(data)] == data
        assert bool(there) == bool(data)

    @rule()
    def close(self) -> None:
        """Memory and descriptor may be freed at any time."""
        self.history.close()

        assert open_descriptors(self.spool) == 0
        assert len(self.history._window) == 0

    @invariant()
    def is_bounded(self) -> None:
        """The window is never longer than it may be."""
        if hasattr(self, "history"):
            assert self.window >= len(self.history._window)
            assert self.end == self.history.end

    def teardown(self) -> None:
        """Leave nothing open."""
        if hasattr(self, "history"):
            self.history.close()

        self.directory.cleanup()


TestHistory = HistoryMachine.TestCase
TestHistory.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """A spool with the ten digits."""
    path = tmp_path / "stdout"
    path.write_bytes(b"0123456789")
    return path


@pytest.mark.parametrize("offset", range(11))
@pytest.mark.parametrize("limit", [1, 3, 10])
def test_read_across_the_window(spool: Path, offset: int, limit: int) -> None:
    """From every offset, below, at and in the window, reads reach the end."""
    history = OutputHistory(spool, window=4, chunk=3)
    list(history.extend(10))
    found = b""

    while data := history.read(offset + len(found), limit):
        found += data

    history.close()
    assert b"0123456789"[offset:] == found


def test_newest_bytes_come_from_memory(spool: Path) -> None:
    """Who follows reads from the window, not from the disk."""
    history = OutputHistory(spool, window=4, chunk=10)
    list(history.extend(10))
    history._fd, fd = None, history._fd
    spool.unlink()

    assert history.read(6, 10) == b"6789"
    with pytest.raises(FileNotFoundError):
        history.read(5, 1)

    history._fd = fd
    history.close()


def test_spool_opened_when_needed(spool: Path) -> None:
    """A history that nobody reads has no descriptor."""
    history = OutputHistory(spool, window=4, chunk=10)
    history.skip(10)

    assert open_descriptors(spool) == 0
    assert history.read(0, 2) == b"01"
    assert open_descriptors(spool) == 1

    history.close()
    history.close()
    assert open_descriptors(spool) == 0


def test_end_grows_with_each_chunk(spool: Path) -> None:
    """Who looks between two chunks sees as much as has been yielded."""
    history = OutputHistory(spool, window=4, chunk=4)
    ends = [(chunk, history.end) for chunk in history.extend(10)]

    history.close()
    assert [
        (Chunk(0, b"0123"), 4),
        (Chunk(4, b"4567"), 8),
        (Chunk(8, b"89"), 10),
    ] == ends


def test_cut_spool_is_an_error(spool: Path) -> None:
    """A spool shorter than was told is an error, never a silent gap or an end."""
    history = OutputHistory(spool, window=4, chunk=8)

    with pytest.raises(OSError, match="ends before offset 10"):
        list(history.extend(12))

    assert history.end == 10
    history.skip(12)

    with pytest.raises(OSError, match="stdout"):
        history.read(11, 1)

    history.close()
