"""What jobs use while they run, and what holds for the keeper's own ceilings."""

import errno
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from teleworkerd.keeper import ending
from teleworkerd.keeper.messages import JobsMeasured, TreeUnkillable
from teleworkerd.keeper.orders import MeasureJobs, SignalJob
from teleworkerd.protocol.spec import Limits
from teleworkerd.protocol.status import Usage
from teleworkerd.protocol.types import OnFull, Reason
from teleworkerd.settings import LimitsConfig
from tests.keeper.kept import KeeperProcess, KeptJob, Place, eventually


SIZE = 16 << 20  # bytes of the disk that is frozen


def measured(keeper: KeeperProcess, *jobs: KeptJob) -> dict[str, Usage]:
    """Return what the keeper says that *jobs* use."""
    keeper.send(MeasureJobs(7, tuple(job.id for job in jobs)))
    answer = keeper.expect(JobsMeasured)
    assert answer.number == 7
    return {each.job: each.usage for each in answer.jobs}


def test_use_of_running_jobs(keeper: KeeperProcess) -> None:
    """The keeper tells what runs now: memory, processes, time."""
    job = keeper.launch("sh", "-c", "sleep 300 & wait", limits=Limits(mem=50))
    plain = keeper.launch("sleep", "300")
    job.launched()
    plain.launched()
    eventually(
        lambda: measured(keeper, job)[job.id].processes == 2, what="both processes"
    )
    usages = measured(keeper, job, plain)

    assert usages.keys() == {job.id, plain.id}
    assert 0 < (usages[job.id].memory_bytes or 0) <= 50 << 20
    assert usages[plain.id].processes == 1
    assert usages[plain.id].cpu_seconds is not None


def test_use_of_who_does_not_run(keeper: KeeperProcess) -> None:
    """A job that has ended, or never was, is left out."""
    job = keeper.launch("true")
    job.exited()

    assert measured(keeper, job) == {}


def test_many_orders(keeper: KeeperProcess) -> None:
    """Orders are answered in turn, each under its number."""
    job = keeper.launch("sleep", "300")
    job.launched()

    for number in range(20):
        keeper.send(MeasureJobs(number, (job.id,)))

    assert [keeper.expect(JobsMeasured).number for _ in range(20)] == [*range(20)]


def test_memory_that_nobody_counts(keeper: KeeperProcess) -> None:
    """Without a group that counts, the peak is that of the main process."""
    record, _ = keeper.run("dd", "if=/dev/zero", "of=/dev/null", "bs=40M", "count=1")

    assert record.usage.memory_peak_bytes is not None
    assert 40 << 20 <= record.usage.memory_peak_bytes < 200 << 20


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        (LimitsConfig(job_mem=50), errno.EPERM),
        (LimitsConfig(owner_mem=70), errno.EAGAIN),
    ],
)
def test_ceilings_of_the_keeper(
    place: Place, settings: LimitsConfig, code: int
) -> None:
    """What is beyond a ceiling is not started, whatever the server let through."""
    config = replace(place.config(), limits=settings)

    with KeeperProcess(config) as keeper:
        first = keeper.launch("sleep", "300", limits=Limits(mem=40))
        first.launched()
        failure = keeper.launch("true", limits=Limits(mem=60)).failed()

        assert failure.errno == code
        assert "[limits]" in failure.message

        keeper.send(SignalJob(first.id, signal.SIGKILL, tree=True))
        first.exited()
        second = keeper.launch("true", limits=Limits(mem=45))
        assert second.exited().exit_code == 0


def test_default_limits(place: Place) -> None:
    """A job that names nothing gets what the settings say, and tells so."""
    config = replace(place.config(), limits=LimitsConfig(mem=64, pids=9))

    with KeeperProcess(config) as keeper:
        launched = keeper.launch("true").launched().launched

    assert launched.applied == Limits(mem=64, pids=9)


def test_default_timeout(place: Place) -> None:
    """A job that names no time is ended when the default is over."""
    config = replace(place.config(), limits=LimitsConfig(timeout=0.2))

    with KeeperProcess(config) as keeper:
        record, _ = keeper.run("sleep", "300")

    assert (record.reason, record.exit_code) == (Reason.TIMEOUT, 124)


def is_unmounted(mount: Path) -> bool:
    """Unmount it, if nobody is there any more; return whether it is."""
    return subprocess.run(["umount", str(mount)], check=False).returncode == 0


@contextmanager
def frozen_disk(directory: Path) -> Iterator[Path]:
    """Lend a file system; whoever writes to it hangs in the kernel until the end."""
    if (mkfs := shutil.which("mkfs.ext4", path="/usr/sbin:/sbin")) is None:
        pytest.skip("there is no mkfs.ext4")

    backing, mount = directory / "backing", directory / "disk"
    backing.write_bytes(bytes(SIZE))
    mount.mkdir()

    def do(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True)

    with ExitStack() as undo:
        do(mkfs, "-q", str(backing))
        do("mount", "-o", "loop", str(backing), str(mount))
        undo.callback(eventually, lambda: is_unmounted(mount), what="it is let go")
        mount.chmod(0o777)
        do("fsfreeze", "--freeze", str(mount))
        undo.callback(do, "fsfreeze", "--unfreeze", str(mount))
        yield mount


def test_who_cannot_be_killed(place: Place) -> None:
    """A process that hangs in the kernel is told of, and outlived: others go on."""
    change = (
        "import teleworkerd.keeper.ending as ending, teleworkerd.keeper.job as job;"
        " job.KILL_TIMEOUT = ending.KILL_TIMEOUT = 0.2; job.RETRY = ending.RETRY = 0.1"
    )
    assert ending.KILL_TIMEOUT > ending.RETRY

    with KeeperProcess(place.config(), change=change) as keeper:
        with frozen_disk(place.base) as disk:
            job = keeper.launch("touch", str(disk / "file"))
            pid = job.launched().launched.pid
            stat = Path(f"/proc/{pid}/stat")
            eventually(lambda: ") D " in stat.read_text(), what="the process hangs")
            keeper.send(SignalJob(job.id, signal.SIGKILL, tree=True))
            told = keeper.expect(TreeUnkillable)

            assert told.job == job.id
            assert f"the kernel does not end process {pid} (touch, state D" in str(
                told.why
            )
            assert keeper.run("true")[0].exit_code == 0

        record = job.exited()

    assert (record.reason, record.exit_code) == (Reason.KILLED, 137)


def test_frozen_by_its_own(keeper: KeeperProcess) -> None:
    """A job that froze itself, in a group of its own, is killed all the same."""
    if not Path("/sys/fs/cgroup/freezer/cgroup.procs").exists():
        pytest.skip("there is no freezer of version 1")

    freezer = Path("/sys/fs/cgroup/freezer/teleworker-test-frozen")
    freezer.mkdir()

    try:
        job = keeper.launch("sleep", "300", on_full=OnFull.DROP)
        pid = job.launched().launched.pid
        (freezer / "cgroup.procs").write_text(str(pid))
        (freezer / "freezer.state").write_text("FROZEN")
        eventually(
            lambda: (freezer / "freezer.state").read_text() == "FROZEN\n",
            what="it is frozen",
        )
        keeper.send(SignalJob(job.id, signal.SIGKILL, tree=True))
        record = job.exited()
    finally:
        eventually(lambda: not (freezer / "cgroup.procs").read_text(), what="empty")
        freezer.rmdir()

    assert (record.reason, record.exit_code) == (Reason.KILLED, 137)
