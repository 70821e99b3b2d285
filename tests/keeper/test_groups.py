"""The end of a tree by a keeper that can open nothing."""

from pathlib import Path

import pytest

from teleworkerd.cgroups import groupfs
from teleworkerd.cgroups.base import CgroupError
from teleworkerd.cgroups.freezer import FreezerTree
from teleworkerd.cgroups.proctree import ProcTree
from teleworkerd.cgroups.tracking import TrackedJob, Tree
from teleworkerd.keeper.ending import end_tree, remove_groups
from teleworkerd.keeper.groups import SpareCgroup
from teleworkerd.protocol.status import Usage
from teleworkerd.spare import Spare
from tests.scarce import no_descriptors


@pytest.fixture
def group(tmp_path: Path) -> Path:
    """What looks like a group, with another below it and nobody in both."""
    below = tmp_path / "group" / "below"
    below.mkdir(parents=True)

    for directory in (below, below.parent):
        (directory / "cgroup.procs").write_text("")

    return below.parent


def cgroup(tree: Tree, spare: Spare) -> SpareCgroup:
    """Return the groups of a job that has *tree* alone."""
    return SpareCgroup("one", TrackedJob(tree), spare)


def test_spare_descriptors_do(group: Path) -> None:
    """With what is kept back a tree is seen."""
    (group / "below" / "cgroup.procs").write_text("17\n4\n")
    job = cgroup(FreezerTree(group), Spare(2))

    with no_descriptors():
        assert job.pids() == {4, 17}


@pytest.mark.parametrize("kind", ["group", "proc"])
def test_not_seen_is_not_gone(
    group: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A tree that cannot be looked at is not taken for one that has ended."""
    tree: Tree = FreezerTree(group)

    if kind == "proc":
        tree = ProcTree("one", proc=Path("/proc"))

    job = cgroup(tree, Spare(0))

    with no_descriptors():
        with pytest.raises(CgroupError, match="Too many open files"):
            job.pids()

        job.signal(15)
        job.kill()
        assert job.usage() == Usage()

    assert [record.getMessage().partition(":")[0] for record in caplog.records] == (
        ["job one"] * 3
    )


async def test_end_waits_for_a_look(
    group: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody says that a tree has ended, or its groups are gone, unseen."""
    monkeypatch.setattr("teleworkerd.keeper.ending.KILL_TIMEOUT", 0.1)
    monkeypatch.setattr("teleworkerd.keeper.ending.REMOVE_TIMEOUT", 0.1)
    job = cgroup(FreezerTree(group), Spare(0))

    with no_descriptors():
        await end_tree(job, linger=0)
        await remove_groups(job)

    assert "job one: nobody knows which processes are left" in caplog.text
    assert "job one: a cgroup stays busy" in caplog.text
    assert groupfs.descend(group) == [group / "below", group]
