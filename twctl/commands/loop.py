"""Runs what a verb does on an event loop."""

import asyncio
import gc
import os
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

import uvloop

from teleworkerd.protocol.memory import expect_chunks
from twctl.render import end_line


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


def _check_descriptors() -> None:
    """Raise `OSError` unless there are enough: uvloop cannot close a part of a loop."""
    taken: list[int] = []

    try:
        while len(taken) < _DESCRIPTORS:
            taken.append(os.dup(2))
    finally:
        for descriptor in taken:
            os.close(descriptor)
