"""Signs of life on stderr, once something takes long."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final


PATIENCE: Final = 1.0  # seconds; what is done by then needs no sign
INTERVAL: Final = 0.1  # seconds between two pictures


@asynccontextmanager
async def meanwhile(showing: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Have *showing* go on for as long as the block does; its errors are its own."""
    task = asyncio.create_task(showing)

    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
