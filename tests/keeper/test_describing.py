"""What a start is told of `[jobs] isolation`: what jobs get, or why they cannot."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from teleworkerd.config import Config
from teleworkerd.keeper import isolation, namespaces
from teleworkerd.keeper.isolation import describe_isolation
from teleworkerd.settings import ConfigError, Isolation, JobsConfig
from tests.keeper.isolated import VisiblePlace, private
from tests.keeper.kept import children_of, eventually


@pytest.fixture
def own_place() -> Iterator[VisiblePlace]:
    """Directories for a keeper of the test's own."""
    directories = VisiblePlace()
    yield directories
    directories.remove()


def test_description(own_place: VisiblePlace) -> None:
    """What can be had is described in words, once it was tried."""
    jobs = private(private_pids=True, private_network=True)

    text = describe_isolation(own_place.config(jobs))

    assert text == (
        "private: own mounts, IPC, host name, view of control groups, processes,"
        " network, and 1 GiB of /tmp"
    )
    links = (Path("/proc/self/ns", name) for name in ("pid", "pid_for_children"))
    assert len({link.readlink() for link in links}) == 1


def test_description_of_none() -> None:
    """Without isolation nothing is tried."""
    assert describe_isolation(Config()).startswith("none: ")


def test_description_of_an_old_kernel(
    own_place: VisiblePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where jobs of one account see each other, it says so, and what helps."""
    monkeypatch.setattr(isolation, "can_scope", lambda: False)

    assert "set private_pids" in describe_isolation(own_place.config(private()))


def test_description_of_what_is_refused(
    own_place: VisiblePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that refuses is a wrong setting; nothing of the trial is left."""

    def refuse(flags: int) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(namespaces, "unshare", refuse)
    before = children_of(os.getpid())

    with pytest.raises(ConfigError, match=r"namespaces: Operation not permitted"):
        describe_isolation(own_place.config(private()))

    eventually(lambda: children_of(os.getpid()) <= before, what="no child")


def test_without_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is not root is told to be, or to do without."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    with pytest.raises(ConfigError, match="runs as root"):
        describe_isolation(Config(jobs=JobsConfig(isolation=Isolation.PRIVATE)))


def test_root_on_a_machine_that_is_not_known(
    own_place: VisiblePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job of root that could not be held is not started."""
    monkeypatch.setattr(isolation, "no_user_namespaces", lambda _: None)

    with pytest.raises(ConfigError, match="jobs of root cannot be private"):
        describe_isolation(own_place.config(private()))
