"""An event loop on a thread of its own, for callers who have none."""

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import Any, Final, TypeVar

from teleworkerd.protocol.errors import ConnectionClosed


T = TypeVar("T")

_END: Final = object()


class LoopThread:
    """Runs coroutines for any number of threads, until it is closed.

    A program that forks has it in the parent alone: in the child each call is a
    `RuntimeError`.
    """

    def __init__(self) -> None:
        self.is_closed = False  # it runs nothing any more
        self._pid = os.getpid()
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._runner.get_loop()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._work, name="twctl", daemon=True)
        self._thread.start()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run *coroutine* to its end, and return what it returns.

        It is cancelled when Ctrl-C, or whatever a signal handler raises, ends the
        wait. Raises `ConnectionClosed` after `close`.
        """
        try:
            self._check()
        except BaseException:
            coroutine.close()
            raise

        tasks: list[asyncio.Task[T]] = []
        ended = threading.Event()

        def begin() -> None:
            tasks.append(self._loop.create_task(coroutine))
            tasks[0].add_done_callback(lambda _: ended.set())

        def give_up() -> None:
            tasks[0].cancel()

        self._loop.call_soon_threadsafe(begin)

        try:
            ended.wait()
        except BaseException:
            self._loop.call_soon_threadsafe(give_up)
            # Only then is all of it left as it was.
            ended.wait()
            tasks[0].cancelled() or tasks[0].exception()
            raise

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
            if not self.is_closed and self._pid == os.getpid():
                self.call(generator.aclose())

    def close(self) -> None:
        """End the thread; again is no harm."""
        if self.is_closed or self._pid != os.getpid():
            return

        self.is_closed = True
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()

    def _work(self) -> None:
        # It takes care of tasks, generators and threads that are left.
        with self._runner:
            self._runner.run(self._wait())

    async def _wait(self) -> None:
        await self._stopped.wait()

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise RuntimeError(
                "this client was made before a fork; make another one in this process"
            )

        if self.is_closed:
            raise ConnectionClosed("the client is closed; make another one")
