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

from teleworkerd.output.history import OutputHistory
from teleworkerd.protocol.types import Chunk, Gap, Stream
from tests.fakes import open_descriptors
from tests.output.written import Runs, Written, joined, run_of


SIZES = st.integers(0, 40)
STDOUT = Stream.STDOUT


class HistoryMachine(RuleBasedStateMachine):
    """Writes and drops, tells the history or not, and reads anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.written = Written(Path(self.directory.name) / "job")
        self.end = 0
        self.history: OutputHistory
        self.chunk = self.window = 0

    @initialize(window=st.integers(0, 24), chunk=st.integers(1, 12))
    def make(self, window: int, chunk: int) -> None:
        """Begin with any window and any chunk."""
        self.window, self.chunk = window, chunk
        spool = self.written.directory.spool(STDOUT)
        self.history = OutputHistory(STDOUT, spool, window=window, chunk=chunk)

    @rule(data=st.binary(max_size=40))
    def write(self, data: bytes) -> None:
        """The job writes; the history has not been told."""
        self.written.write(data)

    @rule(count=st.integers(1, 40))
    def drop(self, count: int) -> None:
        """What the job writes is dropped; of that the history is told first."""
        gap = self.written.drop(count)
        self.history.gaps.add(gap.offset, gap.stop)

    @rule(less=SIZES, most=st.integers(1, 20))
    def extend(self, less: int, most: int) -> None:
        """What is taken in comes out in order, in pieces that are not too long."""
        end = max(self.written.ends[STDOUT] - less, 0)
        found: Runs = []
        start = self.end

        for piece in self.history.extend(end):
            assert self.end == piece.offset < piece.stop == self.history.end
            assert isinstance(piece, Gap) or len(piece.data) <= self.chunk
            self.end = piece.stop
            found.append(run_of(piece))

            if len(found) == most:
                break

        assert self.written.runs(STDOUT, start, self.end) == joined(found)

    @rule(less=SIZES)
    def skip(self, less: int) -> None:
        """Bytes may be noted without being read."""
        self.end = max(self.written.ends[STDOUT] - less, self.end)
        self.history.skip(self.end)

    @rule(back=st.integers(0, 100), limit=SIZES)
    def read(self, back: int, limit: int) -> None:
        """What is read is a beginning of what there is; nothing at the end only."""
        offset = max(self.end - back, 0)
        there = self.written.runs(STDOUT, offset, self.end)
        piece = self.history.read(offset, limit)

        if piece is None:
            assert not limit or not there
        else:
            assert piece.offset == offset < piece.stop
            assert isinstance(piece, Gap) or len(piece.data) <= limit
            assert self.written.runs(STDOUT, offset, piece.stop) == [run_of(piece)]

    @rule()
    def close(self) -> None:
        """Memory and descriptor may be freed at any time."""
        self.history.close()

        assert open_descriptors(self.written.directory.spool(STDOUT)) == 0
        assert len(self.history._window) == 0

    @invariant()
    def is_bounded(self) -> None:
        """The window is never longer than it may be."""
        if hasattr(self, "history"):
            assert len(self.history._window) in {0, self.window}
            assert self.end == self.history.end

    def teardown(self) -> None:
        """Leave nothing open."""
        if hasattr(self, "history"):
            self.history.close()

        self.directory.cleanup()


TestHistory = HistoryMachine.TestCase
TestHistory.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """A spool with the ten digits."""
    path = tmp_path / "stdout"
    path.write_bytes(b"0123456789")
    return path


def history_of(
    spool: Path, *, window: int = 4, chunk: int = 3, gap: tuple[int, int] | None = None
) -> OutputHistory:
    """Return a history that has taken in all ten."""
    history = OutputHistory(STDOUT, spool, window=window, chunk=chunk)

    if gap is not None:
        history.gaps.add(*gap)

    list(history.extend(10))
    return history


def read_all(history: OutputHistory, offset: int, limit: int) -> list[bytes | int]:
    """Return what is read from *offset* on: bytes, and how many are missing."""
    found = []

    while piece := history.read(offset, limit):
        found.append(run_of(piece))
        offset = piece.stop

    return [what for _, what in joined(found)]


@pytest.mark.parametrize("limit", [1, 3, 10])
@pytest.mark.parametrize(
    ("window", "chunk"), [(4, 3), (4, 9), (3, 3), (1, 2), (0, 4), (64, 3)]
)
def test_read_across_the_window(
    spool: Path, window: int, chunk: int, limit: int
) -> None:
    """From every offset, below, at and in the window, reads reach the end."""
    history = history_of(spool, window=window, chunk=chunk)
    found = [read_all(history, offset, limit) for offset in range(11)]

    history.close()
    assert found == [*([b"0123456789"[offset:]] for offset in range(10)), []]


@pytest.mark.parametrize(
    ("gap", "found"),
    [
        ((0, 2), [2, b"23456789"]),
        ((4, 6), [b"0123", 2, b"6789"]),  # up to the window's beginning
        ((4, 7), [b"0123", 3, b"789"]),  # across it
        ((7, 8), [b"0123456", 1, b"89"]),
        ((8, 10), [b"01234567", 2]),
        ((8, 12), [b"01234567", 2]),  # it is growing
        ((0, 10), [10]),
        ((12, 20), [b"0123456789"]),
    ],
)
@pytest.mark.parametrize("limit", [1, 3, 10])
def test_gap_and_window(
    spool: Path, gap: tuple[int, int], found: list[bytes | int], limit: int
) -> None:
    """A gap is one wherever it lies, and what is around it is whole."""
    history = history_of(spool, gap=gap)
    again = read_all(history, 0, limit)
    inside = history.read(min(gap[1], 10) - 1, 5)

    history.close()
    assert again == found
    assert inside == (
        Chunk(STDOUT, 9, b"9")
        if gap[0] > 10
        else Gap(STDOUT, min(gap[1], 10) - 1, min(gap[1], 10))
    )


def test_gap_comes_whole(spool: Path) -> None:
    """A gap costs its reader nothing: no limit cuts it, but the end does."""
    history = OutputHistory(STDOUT, spool, window=4, chunk=3)
    history.gaps.add(1, 1 << 40)
    pieces = list(history.extend(1 << 30))

    history.close()
    assert pieces == [Chunk(STDOUT, 0, b"0"), Gap(STDOUT, 1, 1 << 30)]
    assert history.read(5, 1) == Gap(STDOUT, 5, 1 << 30)


@pytest.mark.parametrize("window", [1, 2, 4, 7])
@pytest.mark.parametrize("chunk", [1, 3, 4, 5, 40])
def test_window_is_a_ring(tmp_path: Path, window: int, chunk: int) -> None:
    """Round after round, every offset in the window has its own byte, from memory."""
    spool = tmp_path / "stdout"
    spool.write_bytes(bytes(range(40)))
    history = OutputHistory(STDOUT, spool, window=window, chunk=chunk)

    for end in range(1, 41, 3):
        list(history.extend(end))
        hidden, history._fd = history._fd, None
        spool.rename(tmp_path / "hidden")
        first = max(end - window, 0)
        assert read_all(history, first, 5) == [bytes(range(first, end))]
        (tmp_path / "hidden").rename(spool)
        history._fd = hidden

    history.close()


def test_newest_bytes_come_from_memory(spool: Path) -> None:
    """Who follows reads from the window, not from the disk; no byte more is there."""
    history = history_of(spool, chunk=10)
    history._fd, fd = None, history._fd
    spool.unlink()

    assert read_all(history, 6, 10) == [b"6789"]

    with pytest.raises(FileNotFoundError):
        history.read(5, 1)

    history._fd = fd
    history.close()


def test_nothing_old_in_the_window(spool: Path) -> None:
    """What was skipped is not in the window, whatever the ring still holds."""
    history = OutputHistory(STDOUT, spool, window=8, chunk=8)
    list(history.extend(4))
    history.skip(7)
    list(history.extend(8))
    spool.write_bytes(b"ABCDEFGHIJ")

    assert read_all(history, 0, 8) == [b"ABCDEFG7"]
    history.close()


def test_spool_opened_when_needed(spool: Path) -> None:
    """A history that nobody reads has no descriptor and no window."""
    history = OutputHistory(STDOUT, spool, window=4, chunk=10)
    history.skip(10)

    assert open_descriptors(spool) == 0
    assert history.read(0, 2) == Chunk(STDOUT, 0, b"01")
    assert open_descriptors(spool) == 1
    assert len(history._window) == 0

    history.close()
    history.close()
    assert open_descriptors(spool) == 0


def test_read_after_the_close(spool: Path) -> None:
    """A closed history still has all that it had."""
    history = history_of(spool)
    history.close()

    assert read_all(history, 0, 4) == [b"0123456789"]
    history.close()


def test_gap_needs_no_spool(tmp_path: Path) -> None:
    """Of what was dropped nothing is looked for on the disk."""
    history = OutputHistory(STDOUT, tmp_path / "none", window=4, chunk=4)
    history.gaps.add(0, 10)

    assert list(history.extend(10)) == [Gap(STDOUT, 0, 10)]
    assert history.read(3, 1) == Gap(STDOUT, 3, 10)


def test_cut_spool_is_an_error(spool: Path) -> None:
    """A spool shorter than was told is an error, never a silent gap or an end."""
    history = OutputHistory(STDOUT, spool, window=4, chunk=8)

    with pytest.raises(OSError, match="ends before offset 10"):
        list(history.extend(12))

    assert history.end == 10
    history.skip(12)

    with pytest.raises(OSError, match="stdout"):
        history.read(11, 1)

    history.close()
