"""An event loop on a thread of its own, for callers who have none."""

import asyncio
import atexit
import contextlib
import inspect
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import Any, Final, Generic, TypeVar

from teleworkerd.protocol.errors import ConnectionClosed


T = TypeVar("T")

_END: Final = object()
_LOOK_UP: Final = 1.0  # seconds
_AT_EXIT: Final = 2.0  # seconds; a moment is enough
_CLOSED: Final = "the client is closed; make another one"


class LoopThread:
    """Runs coroutines for any number of threads, until it is closed.

    The end of the program closes it. A program that forks has it in the parent alone:
    in the child it is closed, and each call is a `RuntimeError`.
    """

    def __init__(self) -> None:
        self._is_closed = False
        self._pid = os.getpid()
        # Reentrant: the garbage collector may come to an iterator in between.
        self._closing = threading.RLock()
        self._endings: set[asyncio.Task[None]] = set()
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._runner.get_loop()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._work, name="twctl", daemon=True)
        self._thread.start()
        # Soon after, the interpreter stops such threads wherever they are.
        atexit.register(self._close_at_exit)

    @property
    def is_closed(self) -> bool:
        """Whether it runs nothing any more for this process."""
        return self._is_closed or self.is_of_another_process

    @property
    def is_of_another_process(self) -> bool:
        """Whether this is a child that was forked since."""
        return self._pid != os.getpid()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run *coroutine* to its end, and return what it returns.

        It is cancelled when Ctrl-C, or whatever a signal handler raises, ends the
        wait. Raises `ConnectionClosed` after `close`, also of another thread.
        """
        call = _Call(coroutine, self._loop)

        try:
            self._check()
        except BaseException:
            coroutine.close()
            raise

        try:
            if self._schedule(call.begin):
                call.wait()
        except BaseException:
            self._give_up(call)
            raise

        if call.task is None:
            coroutine.close()

        if call.task is None or (call.task.cancelled() and self.is_closed):
            raise ConnectionClosed(_CLOSED)

        return call.task.result()

    def iterate(
        self, make: Callable[[], AsyncGenerator[T, None]]
    ) -> Generator[T, None, None]:
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
        if self.is_of_another_process:
            return

        self._stop()
        atexit.unregister(self._close_at_exit)

        if not self._is_own():
            self._thread.join()

    def _close_at_exit(self) -> None:
        if not self.is_closed:
            self._stop()
            # A function of the program that it calls may never return.
            self._thread.join(_AT_EXIT)

    def _stop(self) -> None:
        with self._closing:
            if not self._is_closed:
                self._is_closed = True
                self._loop.call_soon_threadsafe(self._stopped.set)

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
            if not self._is_closed:
                self._loop.call_soon_threadsafe(callback)

            return not self._is_closed

    def _give_up(self, call: "_Call[Any]") -> None:
        """Cancel *call*; returns when all is left as it was."""
        try:
            if self._schedule(call.give_up):
                call.wait()
            else:
                self._thread.join()
                call.give_up()
        except BaseException:
            # Who presses Ctrl-C again does not wait, but it may not be told yet.
            self._schedule(call.give_up)
            raise

    def _end(self, generator: AsyncGenerator[Any, None]) -> None:
        """Close *generator*; the end of the loop does so as well."""
        if self.is_closed:
            return

        # A step that was given up is about to end it.
        if inspect.isasyncgen(generator) and generator.ag_running:
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
        if self.is_of_another_process:
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


class _Call(Generic[T]):
    """A coroutine that the loop runs for another thread.

    `begin` and `give_up` are for the loop to call, in this order, while it runs.
    """

    def __init__(
        self, coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop
    ) -> None:
        self.task: asyncio.Task[T] | None = None
        self._coroutine = coroutine
        self._loop = loop
        self._ended = threading.Event()
        self._is_given_up = False

    def begin(self) -> None:
        self.task = self._loop.create_task(self._coroutine)
        self.task.add_done_callback(self._end)

    def give_up(self) -> None:
        if self._is_given_up:
            return

        self._is_given_up = True

        if self.task is not None:
            self.task.cancel()
        else:
            self._coroutine.close()
            self._ended.set()

    def wait(self) -> None:
        """Return when it has ended."""
        # A signal that comes just before a wait begins does not end it.
        while not self._ended.wait(_LOOK_UP):
            continue

    def _end(self, task: asyncio.Task[T]) -> None:
        if not task.cancelled():
            task.exception()  # whoever waited for it may be gone

        self._ended.set()
