"""Who is given up, and who is not, by a clock that the test turns."""

import os

import pytest

from teleworkerd.daemon.watchdog import Watchdog, watchdog_interval


class Watched:
    """A watchdog of 10 s, and somebody who answers it as long as it does."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.watchdog = Watchdog(10.0, now=self.now)
        self.is_alive = True
        self.probes: list[int] = []

    def live(self, seconds: float) -> None:
        """Let time pass while everybody does what is to be done."""
        for _ in range(round(seconds / self.watchdog.interval)):
            self.wake(self.watchdog.interval)

    def wake(self, seconds: float) -> None:
        """Let time pass without anything being done, but at its end."""
        self.now += seconds

        if (number := self.watchdog.tick(self.now)) is not None:
            self.probes.append(number)

        if self.is_alive and self.probes:
            self.watchdog.answered(self.probes[-1])


@pytest.fixture
def watched() -> Watched:
    """Somebody who has answered for a while."""
    watched = Watched()
    watched.live(5)
    return watched


def test_probes(watched: Watched) -> None:
    """Whoever answers is asked again, many times before it would be given up."""
    watched.live(1000)

    assert not watched.watchdog.is_over
    assert watched.probes == [*range(1, 1006)]


def test_silence(watched: Watched) -> None:
    """Whoever does not answer is given up after the limit, and is asked once."""
    watched.is_alive = False
    watched.live(1)
    asked = watched.probes[-1]
    watched.live(9)
    was_over = watched.watchdog.is_over
    watched.live(1)

    assert (was_over, watched.watchdog.is_over) == (False, True)
    assert watched.probes[-1] == asked


def test_short_silence(watched: Watched) -> None:
    """Silences that are short do not add up."""
    for _ in range(10):
        watched.is_alive = False
        watched.live(6)
        watched.is_alive = True
        watched.live(1)

    assert not watched.watchdog.is_over


def test_own_absence(watched: Watched) -> None:
    """Whoever was stopped itself counts next to nothing of that time."""
    watched.is_alive = False
    watched.live(1)
    watched.wake(100_000)
    watched.wake(100_000)
    assert not watched.watchdog.is_over

    watched.is_alive = True
    watched.live(100)

    assert not watched.watchdog.is_over


def test_silence_after_an_absence(watched: Watched) -> None:
    """Whoever is silent still is given up in the end."""
    watched.is_alive = False
    watched.live(1)
    watched.wake(100_000)
    watched.live(8)

    assert watched.watchdog.is_over


def test_late_answer(watched: Watched) -> None:
    """An answer to an earlier probe is none to the last one."""
    watched.is_alive = False
    watched.live(2)
    watched.watchdog.answered(watched.probes[-1] - 1)
    watched.live(9)

    assert watched.watchdog.is_over


def test_other_limit(watched: Watched) -> None:
    """Another limit is for the silence that begins with it."""
    watched.is_alive = False
    watched.live(9)
    watched.watchdog.allow(5)
    watched.live(4.5)
    was_over = watched.watchdog.is_over
    watched.live(1)

    assert (was_over, watched.watchdog.is_over) == (False, True)


def test_looks() -> None:
    """However long the limit is, a look comes every second."""
    assert [Watchdog(limit, now=0.0).interval for limit in (1.0, 5.0, 300.0)] == [
        *(0.1, 0.5),
        1.0,
    ]


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_service_manager(environ: dict[str, str], seconds: float | None) -> None:
    """A service manager is told at half of its interval, if it means us."""
    assert watchdog_interval(environ) == seconds
