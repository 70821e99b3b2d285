"""What is counted, and what is not."""

import asyncio
from math import inf

import pytest

from teleworkerd.counters import STARTED, Counters, Histogram
from teleworkerd.protocol.errors import Unavailable


async def _launch(error: BaseException | None = None) -> str:
    await asyncio.sleep(0)

    if error is not None:
        raise error

    return "job"


def test_histogram() -> None:
    """A value is in the bucket of its own bound and in all above."""
    histogram = Histogram((1.0, 2.0))

    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(value)

    assert histogram.buckets == [(1.0, 2), (2.0, 3), (inf, 4)]
    assert histogram.total == 12.0


async def test_launch() -> None:
    """What was started is counted, with the time that it took."""
    counters = Counters()

    assert await counters.launch(_launch) == "job"
    assert counters.launches == {STARTED: 1}
    assert counters.launch_seconds.buckets[-1] == (inf, 1)


async def test_launch_that_fails() -> None:
    """A failure is counted by its code; it says nothing of how long a launch takes."""
    counters = Counters()

    with pytest.raises(Unavailable):
        await counters.launch(lambda: _launch(Unavailable("not now")))

    assert counters.launches == {"unavailable": 1}
    assert counters.launch_seconds.buckets[-1] == (inf, 0)


async def test_launch_that_is_cancelled() -> None:
    """A launch that nobody waited for is none."""
    counters = Counters()

    with pytest.raises(asyncio.CancelledError):
        await counters.launch(lambda: _launch(asyncio.CancelledError()))

    assert counters.launches == {}
