"""What the chaos test needs of the machine."""

import os

import pytest


@pytest.fixture
def root() -> None:
    """Run as root only."""
    if os.geteuid() != 0:
        pytest.skip("needs root: jobs run as another account, on a disk of their own")
