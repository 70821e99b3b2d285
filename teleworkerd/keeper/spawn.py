"""Starts the other processes of this program."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


async def spawn(
    module: str,
    *arguments: str,
    descriptors: Sequence[int],
    own_session: bool = False,
    directory: Path | None = None,
) -> asyncio.subprocess.Process:
    """Run *module* in a Python like ours, which gets *descriptors* as they are.

    It finds its modules where we found ours. In its *own_session* it is out of
    reach of the terminal's Ctrl-C; *directory* is where it works, if not here. Raises
    `OSError`.
    """
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # not from the working directory, unless we did
        "-m",
        module,
        *arguments,
        stdin=subprocess.DEVNULL,
        pass_fds=tuple(descriptors),
        start_new_session=own_session,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
