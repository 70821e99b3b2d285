"""Keepers and their directories."""

import os
from collections.abc import Iterator

import pytest

from tests.e2e.groups import ROOT, remove_empty_roots
from tests.keeper.kept import KeeperProcess, Place


@pytest.fixture(scope="session", autouse=True)
def machine() -> Iterator[None]:
    """Leave the cgroup hierarchies as they were."""
    if os.geteuid() != 0:
        pytest.skip("needs root: jobs run as another account and in cgroups")

    before = set(ROOT.glob("*/teleworker"))
    yield
    remove_empty_roots(before)


@pytest.fixture
def place() -> Iterator[Place]:
    """Directories for a keeper of the test's own."""
    directories = Place()
    yield directories
    directories.remove()


@pytest.fixture(scope="module")
def shared_place() -> Iterator[Place]:
    """Directories for the keeper that a module shares."""
    directories = Place()
    yield directories
    directories.remove()


@pytest.fixture(scope="module")
def keeper(shared_place: Place) -> Iterator[KeeperProcess]:
    """A keeper with its defaults that the tests of a module share."""
    with KeeperProcess(shared_place.config()) as running:
        yield running
