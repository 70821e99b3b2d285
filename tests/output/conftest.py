"""What the tests of output share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.output.streams import Job, Source


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Source]:
    """A stream in chunks of four bytes, two to a queue, eight in the window."""
    source = Source(tmp_path / "job")
    yield source
    source.close()


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    """Both streams of a job that has written nothing yet."""
    job = Job(tmp_path / "both")
    yield job
    job.close()
