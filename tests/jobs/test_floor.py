"""No job is started on a disk that is too full for it; what there is stays."""

import errno
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from teleworkerd.config import Config
from teleworkerd.counters import Counters
from teleworkerd.jobs.floor import Floor
from teleworkerd.jobs.manager import JobManager
from teleworkerd.protocol.errors import NameTaken, NoSpace
from teleworkerd.protocol.types import JobState
from teleworkerd.reserve import Room
from teleworkerd.settings import GIB, MIB, DaemonConfig
from teleworkerd.store import JobStore
from tests.fakes import TRUE, Clock, FakeExecutor, config_in
from tests.keeper.moving import fill, small_disk


CONFIG = Config(DaemonConfig(state_dir="/srv/jobs"))
NAMED = replace(TRUE, name="build")


def test_enough() -> None:
    """With what is to be free, and not a byte more, a job may start."""
    looked: list[tuple[Path, int]] = []

    def look(path: Path, min_free: int) -> Room:
        looked.append((path, min_free))
        return Room(GIB, GIB)

    Floor(look).check(CONFIG)

    assert looked == [(Path("/srv/jobs/jobs"), GIB)]


@pytest.mark.parametrize(
    ("room", "text"),
    [
        (
            Room(GIB - 1, GIB),
            "1073741823 bytes are free on the server's disk, and no job",
        ),
        (Room(3 * MIB // 2, GIB), "1536 KiB are free .* with less than 1 GiB;"),
        (Room(0, 51 << 10), "0 bytes are free .* with less than 51 KiB; .* twctl rm"),
    ],
)
def test_too_little(room: Room, text: str) -> None:
    """Below that it is told how much there is, what is needed, and what to do."""
    with pytest.raises(NoSpace, match=text) as caught:
        Floor(lambda *_: room).check(CONFIG)

    assert caught.value.details == {"free": room.free, "floor": room.floor}


def test_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """However many jobs are refused, the log has when that begins, and its end."""
    caplog.set_level("INFO")
    rooms = [Room(GIB, GIB), *[Room(MIB, GIB)] * 50, *[Room(GIB, GIB)] * 5]
    floor = Floor(lambda *_: rooms.pop())

    for _ in range(5):
        floor.check(CONFIG)

    for _ in range(50):
        with pytest.raises(NoSpace):
            floor.check(CONFIG)

    floor.check(CONFIG)

    assert caplog.messages == [
        "too little is free on the disk to start jobs: 1 MiB",
        "enough is free on the disk to start jobs again",
    ]


def test_disk_that_does_not_say(caplog: pytest.LogCaptureFixture) -> None:
    """A disk that cannot be asked is found out about by the start; it is told once."""
    answers = [False, True, False, False]

    def look(*_: object) -> Room:
        if answers.pop():
            return Room(GIB, GIB)

        raise OSError(errno.EIO, os.strerror(errno.EIO))

    floor = Floor(look)
    floor.check(CONFIG)
    floor.check(CONFIG)
    assert caplog.messages == [
        "nobody knows what is free at /srv/jobs/jobs: [Errno 5] Input/output error"
    ]

    floor.check(CONFIG)
    floor.check(CONFIG)
    assert len(caplog.messages) == 2


@pytest_asyncio.fixture
async def full(tmp_path: Path) -> AsyncIterator[Config]:
    """A configuration with a floor, on a disk that has more than that."""
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts a disk")

    with small_disk(tmp_path / "disk") as disk:
        config = config_in(disk)
        yield replace(config, output=replace(config.output, min_free=GIB))


async def test_full_disk(full: Config) -> None:
    """A new job is refused, and nothing recorded; with room the same request works."""
    executor = FakeExecutor(full.jobs_dir)
    store = await JobStore(full.database).open()
    manager = JobManager(
        executor=executor, store=store, config=full, counters=Counters(), now=Clock()
    )
    known, _ = await manager.run(NAMED, owner="alice", request_id="1")
    fill(full.state_dir / "ballast")

    with pytest.raises(NoSpace):
        await manager.run(TRUE, owner="alice", request_id="2")

    assert [status.id for status in manager.list(owner="alice")] == [known.id]
    assert len(executor.started) == 1
    assert len(await store.load()) == 1

    # What there is has nothing to do with that, nor what is wrong in another way.
    assert await manager.run(NAMED, owner="alice", request_id="1") == (known, False)

    with pytest.raises(NameTaken):
        await manager.run(NAMED, owner="alice", request_id="3")

    executor.exit(known.id)
    assert (await known.wait()).state is JobState.FINISHED

    (full.state_dir / "ballast").unlink()
    _, is_new = await manager.run(TRUE, owner="alice", request_id="2")
    assert is_new
    manager.close()
    await store.close()


async def test_no_floor(full: Config) -> None:
    """Without a floor the disk decides by itself."""
    config = replace(full, output=replace(full.output, min_free=0))
    executor = FakeExecutor(full.jobs_dir)
    store = await JobStore(full.database).open()
    manager = JobManager(
        executor=executor, store=store, config=config, counters=Counters(), now=Clock()
    )
    fill(full.state_dir / "ballast")
    _, is_new = await manager.run(TRUE, owner="alice", request_id="1")

    assert is_new
    manager.close()
    await store.close()
