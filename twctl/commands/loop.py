"""Runs what a verb does on an event loop, for as long as somebody reads it."""

import asyncio
import gc
import os
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

import uvloop

from teleworkerd.protocol.memory import expect_chunks
from twctl.render import end_line
from twctl.sink import Sink


T = TypeVar("T")

_DESCRIPTORS: Final = 16  # of a loop, with one connection


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run *main* to its end; raises `KeyboardInterrupt` at Ctrl-C."""
    try:
        _check_descriptors()
        return _run(main)
    except KeyboardInterrupt:
        end_line()
        raise
    finally:
        main.close()


def _run(main: Coroutine[Any, Any, T]) -> T:
    expect_chunks()
    # The call goes on for a while, and what there is now is there to its end.
    gc.freeze()
    gc.enable()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


async def while_read(main: Coroutine[Any, Any, T]) -> T:
    """Do *main*; raises `BrokenPipeError` as soon as nobody reads our stdout."""
    task, sink, is_abandoned = asyncio.current_task(), Sink(1), False

    def abandoned() -> None:
        nonlocal is_abandoned

        is_abandoned = task is not None and task.cancel()

    sink.watch(abandoned)

    try:
        return await main
    except asyncio.CancelledError:
        if is_abandoned and task is not None and not task.uncancel():
            raise BrokenPipeError from None

        raise
    finally:
        sink.unwatch()
        sink.close()


def _check_descriptors() -> None:
    """Raise `OSError` unless there are enough: uvloop cannot close a part of a loop."""
    taken: list[int] = []

    try:
        while len(taken) < _DESCRIPTORS:
            taken.append(os.dup(2))
    finally:
        for descriptor in taken:
            os.close(descriptor)
