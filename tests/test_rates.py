"""So often over a longer time, so often at once."""

import pytest

from teleworkerd.rates import TokenBucket


def test_burst() -> None:
    """A new bucket has all that it may hold, and then there is a wait."""
    bucket = TokenBucket(2.0, 3, now=10.0)
    waits = []

    for _ in range(4):
        waits.append(bucket.wait(now=10.0))
        bucket.take(now=10.0)

    assert waits == [0.0, 0.0, 0.0, 0.5]


def test_rate() -> None:
    """What was taken comes back with the time, and no more than there was."""
    bucket = TokenBucket(2.0, 3, now=0.0)
    bucket.take(3, now=0.0)

    assert bucket.wait(now=0.25) == 0.25
    assert bucket.wait(now=0.5) == 0.0
    bucket.take(now=100.0)
    bucket.take(2, now=100.0)
    assert bucket.wait(now=100.0) == 0.5


def test_overdrawn() -> None:
    """Who takes more than there is waits until all of it has come back."""
    bucket = TokenBucket(10.0, 5, now=0.0)
    bucket.take(25, now=0.0)

    assert bucket.wait(now=0.0) == pytest.approx(2.1)
    assert bucket.wait(now=2.0) == pytest.approx(0.1)


def test_full() -> None:
    """A bucket that nobody takes from is full again after a while."""
    bucket = TokenBucket(1.0, 2, now=0.0)
    assert bucket.is_full(now=0.0)
    bucket.take(now=0.0)

    assert not bucket.is_full(now=0.9)
    assert bucket.is_full(now=1.0)
