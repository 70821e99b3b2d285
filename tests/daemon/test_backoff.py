"""How long nobody serves after servers that die."""

from teleworkerd.daemon.backoff import Backoff


def test_never_ready() -> None:
    """Servers that never become ready are started less and less often."""
    backoff = Backoff()

    assert [backoff.pause(None) for _ in range(9)] == [
        *(0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4),
        *(10.0, 10.0),
    ]


def test_ready_and_dead() -> None:
    """Neither do those follow at once that die as soon as they are ready."""
    backoff = Backoff()

    assert [backoff.pause(served) for served in (0.0, 2.5, 9.9, 0.0, 0.0, 0.0)] == [
        *(0.1, 0.2, 0.4, 0.8),
        *(1.0, 1.0),
    ]


def test_served_well() -> None:
    """One that has served for a while is followed as soon as the first."""
    backoff = Backoff()

    for served in (None, 0.0, None, 0.0):
        backoff.pause(served)

    assert backoff.pause(10.0) == 0.1


def test_ready_at_last() -> None:
    """Once one is ready, the cause is gone for which others were not."""
    backoff = Backoff()

    for _ in range(5):
        backoff.pause(None)

    assert backoff.pause(1.0) == 0.1
    assert backoff.pause(None) == 0.1
