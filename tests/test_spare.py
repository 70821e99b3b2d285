"""Spare descriptors and threads are there when there are no others."""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from teleworkerd.spare import NoThreads, Spare, lack_of, started_threads
from tests.scarce import no_descriptors


def is_any_left() -> bool:
    """Whether this process can open anything."""
    try:
        os.close(os.dup(0))
    except OSError:
        return False

    return True


@pytest.fixture
def spare() -> Iterator[Spare]:
    """Two descriptors."""
    spare = Spare(2)
    yield spare
    spare.close()


def test_lent_when_there_are_no_others(spare: Spare) -> None:
    """Within the block as many can be opened as are kept, and no more."""
    with no_descriptors():
        found = [is_any_left()]

        with spare.lent():
            first, second = os.dup(0), os.dup(0)
            found.append(is_any_left())
            os.close(first)
            os.close(second)

        found.append(is_any_left())

    assert found == [False, False, False]


def test_filled_again_when_there_are_some(spare: Spare) -> None:
    """What others have taken meanwhile is kept back again once it is free."""
    with no_descriptors():
        spare.free()
        spare.free()
        taken = [os.dup(0), os.dup(0)]
        assert not spare.fill()

        for fd in taken:
            os.close(fd)

        assert spare.fill()
        assert not is_any_left()


def test_given_back(tmp_path: Path) -> None:
    """A spare that is closed holds nothing."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  names
    Spare(3).close()

    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208  names


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_lack(number: int) -> None:
    """What is lacking is said in words."""
    lack = lack_of(OSError(number, os.strerror(number)))

    assert lack is not None
    assert lack.endswith(" left")


def test_no_lack() -> None:
    """Other errors are no lack."""
    assert lack_of(MemoryError()) == "the daemon has no memory left"
    assert lack_of(FileNotFoundError(errno.ENOENT, "gone")) is None
    assert lack_of(OSError("no number")) is None
    assert lack_of(ValueError()) is None


def test_threads_run_already() -> None:
    """No thread is started later."""
    threads = started_threads(3, name="early")

    with without_threads():
        done = [threads.submit(int, "7").result(timeout=10) for _ in range(9)]

    threads.shutdown()
    assert done == [7] * 9


def test_no_threads() -> None:
    """Without threads there is an error that says so, and nothing is left."""
    before = threading.active_count()

    with without_threads(), pytest.raises(NoThreads, match="3 threads for late"):
        started_threads(3, name="late")

    assert threading.active_count() == before


@contextmanager
def without_threads() -> Iterator[None]:
    """Let no thread start."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        yield
