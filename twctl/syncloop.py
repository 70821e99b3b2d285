"""An event loop on a thread of its own, for callers who have none."""

import asyncio
import atexit
import contextlib
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import Any, Final, TypeVar

from teleworkerd.protocol.errors import ConnectionClosed


T = TypeVar("T")

_END: Final = object()
_LOOK_UP: Final = 1.0  # seconds
_CLOSED: Final = "the client is closed; make another one"


class LoopThread:
    """Runs coroutines for any number of threads, until it is closed.

    The end of the program closes it as well. A program that forks has it in the
    parent alone: in the child each call is a `RuntimeError`.
    """

    def __init__(self) -> None:
        self.is_closed = False  # it runs nothing any more
        self._pid = os.getpid()
        # Reentrant: the garbage collector may come to an iterator in between.
        self._closing = threading.RLock()
        self._endings: set[asyncio.Task[None]] = set()
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._runner.get_loop()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._work, name="twctl", daemon=True)
        self._thread.start()
        _open.add(self)

    @property
    def is_ours(self) -> bool:
        """Whether it was made by this process, and not by one that forked it."""
        return self._pid == os.getpid()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run *coroutine* to its end, and return what it returns.

        It is cancelled when Ctrl-C, or whatever a signal handler raises, ends the
        wait. Raises `ConnectionClosed` after `close`, also of another thread.
        """
        tasks: list[asyncio.Task[T]] = []
        ended = threading.Event()

        def begin() -> None:
            tasks.append(self._loop.create_task(coroutine))
            tasks[0].add_done_callback(lambda _: ended.set())

        def give_up() -> None:
            if tasks:
                tasks[0].cancel()
            else:
                ended.set()

        try:
            self._check()

            try:
                if self._schedule(begin):
                    _wait_for(ended)
            except BaseException:
                # Only after this is all left as it was.
                _wait_for(ended) if self._schedule(give_up) else self._thread.join()

                if tasks and not tasks[0].cancelled():
                    tasks[0].exception()

                raise
        finally:
            if not tasks:
                coroutine.close()

        if not tasks or (tasks[0].cancelled() and self.is_closed):
            raise ConnectionClosed(_CLOSED)

        return tasks[0].result()

    def iterate(self, make: Callable[[], AsyncGenerator[T, None]]) -> Iterator[T]:
        """Yield what the generator that *make* returns yields, each when it is wanted.

        It is closed when the iteration ends, however it ends.
        """
        generator = make()

        async def step() -> T | object:
            return await anext(generator, _END)

        try:
            while (item := self.call(step())) is not _END:
                yield item  # type: ignore[misc]  # all but the end are a T
        finally:
            self._end(generator)

    def close(self) -> None:
        """End the thread; again is no harm."""
        if not self.is_ours:
            return

        with self._closing:
            if not self.is_closed:
                self.is_closed = True
                self._loop.call_soon_threadsafe(self._stopped.set)

        if not self._is_own():
            self._thread.join()

    def _work(self) -> None:
        # It takes care of tasks, generators and threads that are left.
        with self._runner:
            self._runner.run(self._wait())

    async def _wait(self) -> None:
        await self._stopped.wait()

    def _schedule(self, callback: Callable[[], object]) -> bool:
        """Have the loop call it; returns False when it is closed.

        Whatever it is to call before it closes, it does.
        """
        with self._closing:
            if not self.is_closed:
                self._loop.call_soon_threadsafe(callback)

            return not self.is_closed

    def _end(self, generator: AsyncGenerator[Any, None]) -> None:
        """Close *generator*; the end of the loop does so as well."""
        if not self.is_ours or self.is_closed:
            return

        # The garbage collector finds an iterator that nobody has in whichever thread
        # it happens to run.
        if self._is_own():
            self._endings.add(ending := self._loop.create_task(generator.aclose()))
            ending.add_done_callback(self._endings.discard)
        else:
            with contextlib.suppress(ConnectionClosed):
                self.call(generator.aclose())

    def _is_own(self) -> bool:
        return threading.current_thread() is self._thread

    def _check(self) -> None:
        if not self.is_ours:
            raise RuntimeError(
                "this client was made before a fork; make another one in this process"
            )

        if self._is_own():
            raise RuntimeError(
                "a function that the client calls cannot wait for the client; "
                "note what it is told, and act when the call has returned"
            )

        if self.is_closed:
            raise ConnectionClosed(_CLOSED)


_open: "Final[weakref.WeakSet[LoopThread]]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    # Once the interpreter goes down the threads stand still: whatever is collected
    # then, an iterator for one, would wait for them in vain.
    for loop in list(_open):
        loop.close()


def _wait_for(event: threading.Event) -> None:
    # A signal that comes just before a wait begins does not end it.
    while not event.wait(_LOOK_UP):
        continue
