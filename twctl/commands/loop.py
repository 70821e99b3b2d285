"""Runs what a verb does on an event loop."""

import asyncio
import gc
from collections.abc import Coroutine
from typing import Any, TypeVar

import uvloop

from teleworkerd.protocol.memory import expect_chunks


T = TypeVar("T")


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run *main* to its end; raises `KeyboardInterrupt` at Ctrl-C."""
    expect_chunks()
    # The call goes on for a while, and what there is now is there to its end.
    gc.freeze()
    gc.enable()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)
