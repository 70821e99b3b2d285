"""What the server does about an error that nobody else has met."""

import asyncio
import logging
import os
from typing import Any


log = logging.getLogger(__name__)


def on_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what the *loop* tells of; without memory, end this process at once.

    Something then was left half done, by us or by the loop: a connection that nobody
    will close, a job whose end nobody will note. Another server finds all that there
    is, and begins with more memory.
    """
    if isinstance(context.get("exception"), MemoryError):
        log.error("no memory is left: another server takes over")
        os._exit(1)

    loop.default_exception_handler(context)
