"""A keeper that fails at one job: that one ends, and no other is touched."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from teleworkerd.keeper.messages import JobLost
from tests.e2e.groups import left_of
from tests.keeper.kept import KeeperProcess, KeptJob, Place, is_alive


# What fails in a keeper that never does: a place at which it is, and then an error.
POINTS = """
import teleworkerd.keeper.{module} as module

def failpoint(name):
    if name == {point!r}:
        raise RuntimeError("a bug")

module.failpoint = failpoint
"""


def lost(job: KeptJob) -> str:
    """Wait until the keeper says that nobody will know the job's end."""
    return job.keeper.expect(JobLost, lambda message: message.job == job.id).why


@contextmanager
def failing_at(place: Place, module: str, point: str) -> Iterator[KeeperProcess]:
    """A keeper that fails whenever it comes by *point*, which is in its *module*."""
    change = POINTS.format(module=module, point=point)

    with KeeperProcess(place.config(), change=change) as keeper:
        yield keeper
        keeper.close(bug=True)


@pytest.mark.parametrize(
    ("module", "point"),
    [
        ("keeper", "launch-told"),
        ("job", "main-exited"),
        ("job", "tree-ended"),
        ("job", "drained"),
        ("job", "groups-removed"),
    ],
)
def test_end_that_goes_wrong(place: Place, module: str, point: str) -> None:
    """The job is lost, and says so; its processes and groups are gone."""
    with failing_at(place, module, point) as keeper:
        job = keeper.launch("sh", "-c", "sleep 1000 & exit 3")
        launched = job.launched().launched
        why = lost(job)
        loss = job.directory.read_loss()

        assert "the keeper failed while it ran" in why
        assert loss is not None
        assert loss.why == why
        assert not job.directory.exit.exists()
        assert not is_alive(launched.pid)
        assert left_of([job.id]) == []
        # Nothing holds it any more: it can be removed.
        assert job.remove() is None


def test_end_that_is_written(place: Place) -> None:
    """What goes wrong after the end is written does not make it unknown."""
    with failing_at(place, "job", "exit-written") as keeper:
        job = keeper.launch("sh", "-c", "exit 3")
        record = job.exited()

        assert record.exit_code == 3
        assert job.directory.read_exit() == record
        assert not job.directory.loss.exists()


@pytest.mark.parametrize("point", ["forked", "launch-recorded"])
def test_error_after_the_fork(place: Place, point: str) -> None:
    """A command that was started is not said to have failed to start."""
    with failing_at(place, "start", point) as keeper:
        job = keeper.launch("true")
        why = lost(job)

        assert "it ran, but the keeper failed" in why
        assert not job.directory.failure.exists()
        assert job.directory.loss.exists()
        assert left_of([job.id]) == []
