"""What is told of the refused: each counts, and nobody floods the log."""

import asyncio

import pytest

from teleworkerd.counters import Counters, Refusal
from teleworkerd.execution import Caller
from teleworkerd.server.heap import Heap, trim
from teleworkerd.server.peer import Peer, peer_of
from teleworkerd.server.refusals import Refusals
from tests.server.peers import until


PERIOD = 0.2


class Told:
    """Refusals with a short period, and what was noted of them."""

    def __init__(self, *, most: int = 100) -> None:
        self.counters = Counters()
        self.noted: list[tuple[Caller, str, int]] = []
        self.refusals = Refusals(
            self.counters,
            noted=lambda *facts: self.noted.append(facts),
            period=PERIOD,
            most=most,
        )

    def tell(self, peer: Peer, reason: str = "why", *, times: int = 1) -> None:
        """Refuse *peer* so often."""
        for _ in range(times):
            self.refusals.tell(peer, Refusal.TLS, reason)

    async def sums(self, count: int) -> None:
        """Wait until so much was noted."""
        await until(lambda: len(self.noted) >= count, what="what is noted")


def at(host: str, port: int = 1) -> Peer:
    """Return a peer."""
    return peer_of((host, port))


async def test_first(caplog: pytest.LogCaptureFixture) -> None:
    """The first is a line at once, with peer and reason, and is noted."""
    told = Told()
    told.tell(at("203.0.113.9", 77))
    told.refusals.flush()

    assert caplog.messages == ["refused 203.0.113.9:77: why"]
    assert told.noted == [(Caller("", "", "203.0.113.9:77"), "why", 1)]
    assert told.counters.refusals[Refusal.TLS] == 1


async def test_again(caplog: pytest.LogCaptureFixture) -> None:
    """What follows from the same source for the same reason is one line at the end."""
    told = Told()
    told.tell(at("203.0.113.9", 77), times=2000)
    told.tell(at("203.0.113.9", 78))
    assert len(caplog.messages) == 1
    await told.sums(2)

    assert caplog.messages[1:] == ["refused 203.0.113.9 2,000 more times in 0.2 s: why"]
    by = Caller("", "", "203.0.113.9:78")
    assert told.noted[1:] == [(by, "203.0.113.9: why", 2000)]
    assert told.counters.refusals[Refusal.TLS] == 2001


async def test_once_more(caplog: pytest.LogCaptureFixture) -> None:
    """One is no more times."""
    told = Told()
    told.tell(at("203.0.113.9"), times=2)
    told.refusals.flush()

    assert caplog.messages[1:] == ["refused 203.0.113.9 1 more time in 0.2 s: why"]


async def test_each_reason_and_source(caplog: pytest.LogCaptureFixture) -> None:
    """Another reason, or another source, is another line; a network is one source."""
    told = Told()
    told.tell(at("203.0.113.9"))
    told.tell(at("203.0.113.9"), "why else")
    told.tell(at("203.0.113.8"))
    told.tell(at("2001:db8::1"))
    told.tell(at("2001:db8::2"))
    told.refusals.flush()

    assert len(caplog.messages) == 5
    assert caplog.messages[4] == "refused 2001:db8::/64 1 more time in 0.2 s: why"


@pytest.mark.slow
async def test_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """While it goes on there is one line for each period; then the first is new."""
    told = Told()
    told.tell(at("203.0.113.9"), times=3)
    await told.sums(2)
    told.tell(at("203.0.113.9"), times=5)
    assert len(caplog.messages) == 2
    await told.sums(3)
    await until(lambda: not told.refusals._repeats, what="the end of it")
    told.tell(at("203.0.113.9"))

    assert [count for *_, count in told.noted] == [1, 2, 5, 1]


async def test_nothing_is_kept() -> None:
    """Who came once is forgotten after the period, and no timer is left."""
    told = Told()
    told.tell(at("203.0.113.9"))
    await until(lambda: not told.refusals._repeats, what="the end of it")

    assert told.refusals._repeats._timer is None


async def test_many_sources(caplog: pytest.LogCaptureFixture) -> None:
    """Beyond a number of sources the rest is one: memory and log are bounded."""
    told = Told(most=3)

    for number in range(100):
        told.tell(at(f"203.0.113.{number}"))

    told.refusals.tell(at("203.0.113.100"), Refusal.GONE, "it went")
    assert len(told.refusals._repeats) == 5
    told.refusals.flush()

    assert len(caplog.messages) == 6
    assert caplog.messages[3] == "refused 203.0.113.3:1: why"
    assert caplog.messages[5] == "refused other sources 96 more times in 0.2 s: tls"
    by = Caller("", "", "203.0.113.99:1")
    assert told.noted[5] == (by, "other sources: tls", 96)
    assert sum(count for *_, count in told.noted) == 101


@pytest.mark.slow
async def test_flush_twice(caplog: pytest.LogCaptureFixture) -> None:
    """At the end everything is told, once."""
    told = Told()
    told.tell(at("203.0.113.9"), times=2)
    told.refusals.flush()
    told.refusals.flush()
    await asyncio.sleep(2 * PERIOD)

    assert len(caplog.messages) == 2


async def test_memory_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """After many handshakes, once for all of them; a few are not worth it."""
    monkeypatch.setattr("teleworkerd.server.heap._DELAY", 0.05)
    calls: list[None] = []
    heap = Heap(lambda: calls.append(None))

    for _ in range(63):
        heap.left()

    assert heap._timer is None

    for _ in range(100):
        heap.left()

    await until(lambda: calls, what="the call")
    assert heap._timer is None
    heap.close()
    assert len(calls) == 1


async def test_memory_at_the_end() -> None:
    """A timer for that is not left behind."""
    calls: list[None] = []
    heap = Heap(lambda: calls.append(None))

    for _ in range(64):
        heap.left()

    heap.close()
    assert heap._timer is None
    assert calls == []


def test_trim() -> None:
    """The real thing does no harm."""
    trim()
