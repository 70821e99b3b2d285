"""Calls into a thread with an event loop."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Iterator

import pytest

from teleworkerd.protocol.errors import ConnectionClosed
from tests.e2e.waiting import wait_for
from twctl.syncloop import LoopThread


pytestmark = pytest.mark.timeout(20)

PROGRAM = """
import threading
from twctl.syncloop import LoopThread

loop = LoopThread()
began = threading.Event()

async def call():
    began.set()
    threading.Event().wait()

threading.Thread(target=loop.call, args=(call(),), daemon=True).start()
began.wait()
"""


async def leave() -> None:
    """Leave nothing."""


async def fail() -> None:
    """Fail as something may."""
    raise ValueError("as it is")


async def forever(began: threading.Event) -> None:
    """Say that it began, and never end."""
    began.set()
    await asyncio.Event().wait()


class Numbers:
    """Something to iterate over; `closed` is set when nobody does any more."""

    def __init__(self) -> None:
        self.closed = threading.Event()
        self.asked = 0

    async def count(self) -> AsyncGenerator[int, None]:
        """Yield the numbers from 1 on."""
        try:
            while True:
                self.asked += 1
                yield self.asked
        finally:
            await asyncio.sleep(0)
            self.closed.set()


def interrupt_after(event: threading.Event) -> threading.Thread:
    """Press Ctrl-C when *event* is set; return the thread that waits for it."""

    def press() -> None:
        event.wait()
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    return thread


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    """A thread that runs, and is closed."""
    started = LoopThread()
    yield started
    started.close()


def test_error(loop: LoopThread) -> None:
    """What a call raises comes to the caller, and the thread goes on."""
    for _ in range(2):
        with pytest.raises(ValueError, match="as it is"):
            loop.call(fail())


def test_own_thread(loop: LoopThread) -> None:
    """The thread cannot wait for itself, and is told so."""

    async def call_again() -> None:
        loop.call(leave())

    with pytest.raises(RuntimeError, match="cannot wait for the client"):
        loop.call(call_again())

    loop.call(leave())


def test_closed_by_its_own_thread(loop: LoopThread) -> None:
    """What the thread calls may end it: it ends when that has returned."""

    async def close() -> None:
        loop.close()

    loop.call(close())

    with pytest.raises(ConnectionClosed, match="is closed"):
        loop.call(leave())


def test_closed_while_others_wait(loop: LoopThread) -> None:
    """Who waits when another thread closes hears of it."""
    began = threading.Event()
    errors: list[Exception] = []

    def wait() -> None:
        try:
            loop.call(forever(began))
        except ConnectionClosed as error:
            errors.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    began.wait()
    loop.close()
    waiting.join()

    assert [str(error) for error in errors] == [
        "the client is closed; make another one"
    ]


def test_closed_while_others_begin() -> None:
    """A call that begins as another thread closes has an end, whichever comes first."""
    for _ in range(50):
        loop = LoopThread()
        ready = threading.Barrier(2)

        def call(loop: LoopThread = loop, ready: threading.Barrier = ready) -> None:
            ready.wait()

            try:
                while True:
                    loop.call(leave())
            except ConnectionClosed:
                pass

        calling = threading.Thread(target=call)
        calling.start()
        ready.wait()
        loop.close()
        calling.join()


def test_second_interruption(loop: LoopThread) -> None:
    """Who presses Ctrl-C again does not wait for what takes its time to end."""
    is_ending = threading.Event()
    may_end = threading.Event()

    async def stubborn() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(60)
        finally:
            is_ending.set()
            await asyncio.to_thread(may_end.wait)

    presses = interrupt_after(is_ending)

    with pytest.raises(KeyboardInterrupt):
        loop.call(stubborn())

    presses.join()
    may_end.set()
    loop.call(leave())


def test_interruption_of_an_interruption(
    loop: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second Ctrl-C that comes before the call is cancelled does not save it."""
    began = threading.Event()
    ended = threading.Event()
    schedule = loop._schedule

    async def end() -> None:
        try:
            await forever(began)
        finally:
            ended.set()

    def interrupt() -> None:
        began.wait()
        os.kill(os.getpid(), signal.SIGINT)

    def interrupted(callback: Callable[[], object]) -> bool:
        monkeypatch.setattr(loop, "_schedule", schedule)

        if began.is_set():
            raise KeyboardInterrupt

        monkeypatch.setattr(loop, "_schedule", interrupted)
        return schedule(callback)

    monkeypatch.setattr(loop, "_schedule", interrupted)
    presses = threading.Thread(target=interrupt)
    presses.start()

    with pytest.raises(KeyboardInterrupt):
        loop.call(end())

    presses.join()
    assert ended.wait(10)


def test_iteration_that_ends_slowly(loop: LoopThread) -> None:
    """Whoever does not wait for its end hears of the Ctrl-C, and of nothing else."""
    is_ending = threading.Event()
    may_end = threading.Event()

    async def stubborn() -> AsyncGenerator[int, None]:
        try:
            yield 1
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(60)
        finally:
            is_ending.set()
            await asyncio.to_thread(may_end.wait)

    presses = interrupt_after(is_ending)
    numbers = loop.iterate(stubborn)
    next(numbers)

    with pytest.raises(KeyboardInterrupt):
        next(numbers)

    presses.join()
    may_end.set()
    loop.call(leave())


def test_end_of_the_program() -> None:
    """It does not wait for ever for what the thread is in and never returns."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, check=False, timeout=15
    )

    assert (done.returncode, done.stderr) == (0, b"")


def test_nothing_is_asked_for_before_it_is_wanted(loop: LoopThread) -> None:
    """An iterator asks for the next thing, and for no more."""
    numbers = Numbers()
    count = loop.iterate(numbers.count)

    assert numbers.asked == 0
    assert next(count) == 1
    loop.call(leave())
    assert numbers.asked == 1


@pytest.mark.parametrize("where", ["here", "in the loop"])
def test_iterator_that_nobody_has(loop: LoopThread, where: str) -> None:
    """It is closed wherever it is found, in the loop's own thread too."""
    numbers = Numbers()
    held = [loop.iterate(numbers.count)]
    next(held[0])

    async def drop() -> None:
        held.clear()
        gc.collect()

    if where == "in the loop":
        loop.call(drop())
    else:
        held.clear()

    assert numbers.closed.wait(10)
    loop.call(leave())


def test_iterator_after_the_close(loop: LoopThread) -> None:
    """One that is left after the client was closed is closed already."""
    numbers = Numbers()
    count = loop.iterate(numbers.count)
    next(count)
    loop.close()

    wait_for(numbers.closed.is_set, what="the end of the iteration")

    with pytest.raises(ConnectionClosed, match="is closed"):
        next(count)
