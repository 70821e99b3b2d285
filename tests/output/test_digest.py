"""Digests: of all that was kept and nothing else, whatever the pace."""

import asyncio
import hashlib
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teleworkerd.output import digest as digest_module
from teleworkerd.output.digest import EMPTY, Hasher, StreamDigest
from teleworkerd.output.gaps import Gaps
from teleworkerd.protocol.types import Stream
from teleworkerd.spare import Spare
from tests.fakes import DEADLINE, open_descriptors
from tests.output.written import Written
from tests.scarce import no_descriptors


STDOUT = Stream.STDOUT
STEP = 8


@pytest.fixture
def hasher() -> Iterator[Hasher]:
    """Two threads."""
    hasher = Hasher(2)
    yield hasher
    hasher.close()


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[int, int]]]:
    """Make the steps small, and note them."""
    found: list[list[tuple[int, int]]] = []
    work = StreamDigest._hash

    def note(digest: StreamDigest, runs: list[tuple[int, int]]) -> None:
        found.append(runs)
        work(digest, runs)

    monkeypatch.setattr(StreamDigest, "_hash", note)
    monkeypatch.setattr(digest_module, "_STEP", STEP)
    return found


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """The files of a job."""
    return Written(tmp_path / "job")


def digest_of(written: Written, hasher: Hasher) -> StreamDigest:
    """Return the digest of its stdout, of which nothing is computed yet."""
    gaps = Gaps(STDOUT)

    for gap in written.gaps:
        gaps.add(gap.offset, gap.stop)

    return StreamDigest(written.directory.spool(STDOUT), gaps, hasher)


async def finish(digest: StreamDigest, end: int) -> bytes:
    """Return the digest up to *end*."""
    return await asyncio.wait_for(digest.finish(end), DEADLINE)


@settings(max_examples=40, deadline=None)
@given(
    actions=st.lists(
        st.tuples(
            st.sampled_from(["write", "drop", "grow", "turn"]), st.integers(1, 30)
        ),
        max_size=20,
    ),
    step=st.integers(1, 30),
    block=st.integers(1, 16),
)
async def test_digest_of_what_is_kept(
    actions: list[tuple[str, int]], step: int, block: int
) -> None:
    """However it grows, the digest is that of the bytes that were kept."""
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory() as directory,
    ):
        patch.setattr(digest_module, "_STEP", step)
        patch.setattr(digest_module, "_BLOCK", block)
        written, gaps, hasher = Written(Path(directory)), Gaps(STDOUT), Hasher(2)
        digest = StreamDigest(written.directory.spool(STDOUT), gaps, hasher)

        for number, (action, amount) in enumerate(actions):
            if action == "write":
                written.write(bytes([number]) * amount)
            elif action == "drop":
                gap = written.drop(amount)
                gaps.add(gap.offset, gap.stop)
            elif action == "grow":
                digest.grow(written.ends[STDOUT])
            else:
                await asyncio.sleep(0)

        found = await finish(digest, written.ends[STDOUT])
        hasher.close()

    assert found == written.sha256(STDOUT)


def test_empty() -> None:
    """The digest of nothing."""
    assert hashlib.sha256(b"").digest() == EMPTY


async def test_nothing_done_before_the_end(
    written: Written, hasher: Hasher, steps: list[list[tuple[int, int]]]
) -> None:
    """All can be computed at the end, step by step."""
    written.write(bytes(range(20)))
    found = await finish(digest_of(written, hasher), 20)

    assert found == written.sha256(STDOUT)
    assert steps == [[(0, 8)], [(8, 16)], [(16, 20)]]


async def test_little_waits(
    written: Written, hasher: Hasher, steps: list[list[tuple[int, int]]]
) -> None:
    """Less than a step is not worth a thread; at the end it is."""
    written.write(bytes(STEP - 1))
    digest = digest_of(written, hasher)
    digest.grow(STEP - 1)
    await asyncio.sleep(0.01)
    assert steps == []

    assert await finish(digest, STEP - 1) == written.sha256(STDOUT)


async def test_no_byte_twice(
    written: Written,
    hasher: Hasher,
    monkeypatch: pytest.MonkeyPatch,
    steps: list[list[tuple[int, int]]],
) -> None:
    """Growth, and the end, that come while a thread is at work wait for their turn."""
    gate, begun = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    work = StreamDigest._hash

    def slow(digest: StreamDigest, runs: list[tuple[int, int]]) -> None:
        loop.call_soon_threadsafe(begun.set)
        assert gate.wait(DEADLINE)
        work(digest, runs)

    monkeypatch.setattr(StreamDigest, "_hash", slow)
    digest = digest_of(written, hasher)
    written.write(bytes(range(10)))
    digest.grow(10)
    await asyncio.wait_for(begun.wait(), DEADLINE)
    written.write(bytes(range(20)))
    digest.grow(30)
    ending = asyncio.create_task(digest.finish(30))
    await asyncio.sleep(0)
    gate.set()

    assert await asyncio.wait_for(ending, DEADLINE) == written.sha256(STDOUT)
    assert steps == [[(0, 8)], [(8, 16)], [(16, 24)], [(24, 30)]]


async def test_gaps_need_no_thread(
    written: Written, hasher: Hasher, steps: list[list[tuple[int, int]]]
) -> None:
    """However long a gap is, there is nothing to do for it."""
    end = (1 << 60) + 10
    written.write(b"ab")
    written.drop(1 << 60)
    digest = digest_of(written, hasher)
    written.directory.spool(STDOUT).unlink()
    written.directory.spool(STDOUT).write_bytes(b"ab")
    digest.grow(end - 8)
    assert digest._task is not None
    await asyncio.wait_for(digest._task, DEADLINE)

    assert await finish(digest, end - 8) == hashlib.sha256(b"ab").digest()
    assert steps == [[(0, 2)]]


async def test_steps_have_the_same_work(
    written: Written, hasher: Hasher, steps: list[list[tuple[int, int]]]
) -> None:
    """A step is as many bytes as are kept, with the gaps between them."""
    for _ in range(4):
        written.write(b"abc")
        written.drop(100)

    found = await finish(digest_of(written, hasher), 412)

    assert found == hashlib.sha256(b"abc" * 4).digest()
    assert steps == [[(0, 3), (103, 106), (206, 208)], [(208, 209), (309, 312)]]


async def test_again_from_the_beginning(written: Written, hasher: Hasher) -> None:
    """A later server computes the same, without what an earlier one had done."""
    written.write(bytes(range(100)))
    found = [await finish(digest_of(written, hasher), 100) for _ in range(2)]

    assert found == [written.sha256(STDOUT)] * 2


@pytest.mark.parametrize("fault", ["gone", "cut"])
async def test_spool_that_fails(written: Written, hasher: Hasher, fault: str) -> None:
    """A spool that cannot be read has no digest, rather than a wrong one."""
    spool = written.directory.spool(STDOUT)
    written.write(bytes(100))
    spool.unlink() if fault == "gone" else spool.write_bytes(bytes(50))
    digest = digest_of(written, hasher)

    with pytest.raises(OSError, match="stdout"):
        await finish(digest, 100)

    assert open_descriptors(spool) == 0


@pytest.mark.usefixtures("steps")
async def test_fault_in_between(
    written: Written, hasher: Hasher, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault that has passed by the end has passed too late, and makes no noise."""
    spool = written.directory.spool(STDOUT)
    written.write(bytes(100))
    spool.rename(spool.with_name("hidden"))
    digest = digest_of(written, hasher)
    digest.grow(100)

    assert digest._task is not None
    await asyncio.wait_for(asyncio.wait([digest._task]), DEADLINE)

    spool.with_name("hidden").rename(spool)
    digest.grow(200)

    with pytest.raises(FileNotFoundError):
        await finish(digest, 100)

    assert caplog.text == ""


async def test_cancelled(
    written: Written, hasher: Hasher, steps: list[list[tuple[int, int]]]
) -> None:
    """What is given up goes no further than the step that a thread is at."""
    written.write(bytes(100))
    digest = digest_of(written, hasher)
    digest.grow(100)
    task = digest._task
    digest.cancel()
    digest.cancel()
    assert task is not None
    await asyncio.wait([task])

    assert task.cancelled()
    assert len(steps) < 2


def test_descriptor_is_given_back(written: Written, hasher: Hasher) -> None:
    """Between two steps no spool is open, however many jobs there are."""
    written.write(bytes(100))
    digest_of(written, hasher)._hash([(0, 100)])

    assert open_descriptors(written.directory.spool(STDOUT)) == 0


async def test_without_descriptors(written: Written) -> None:
    """A spare descriptor does; the digest is right, and nothing stays open."""
    written.write(bytes(range(100)))
    spare = Spare(1)
    hasher = Hasher(1, spare)

    with no_descriptors():
        found = await finish(digest_of(written, hasher), 100)

    hasher.close()
    spare.close()
    assert found == written.sha256(STDOUT)


async def test_without_any_descriptor(
    written: Written,
    hasher: Hasher,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where not even that is there, the digest waits, and says so once."""
    monkeypatch.setattr(digest_module, "_RETRY", 0.01)
    written.write(bytes(range(100)))

    with no_descriptors():
        ending = asyncio.create_task(digest_of(written, hasher).finish(100))
        await asyncio.wait([ending], timeout=0.2)
        assert not ending.done()
        assert "hashed later: the daemon has no file descriptors left" in caplog.text

    assert await asyncio.wait_for(ending, DEADLINE) == written.sha256(STDOUT)
    assert len(caplog.records) == 1


@pytest.mark.usefixtures("steps")
async def test_lack_in_between(written: Written, hasher: Hasher) -> None:
    """A step that lacked something is taken again, from where it began."""
    written.write(bytes(range(100)))
    digest = digest_of(written, hasher)

    with no_descriptors():
        digest.grow(100)
        assert digest._task is not None
        await asyncio.wait_for(digest._task, DEADLINE)

    assert await finish(digest, 100) == written.sha256(STDOUT)
