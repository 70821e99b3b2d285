"""What there is to do between the exit of a job and its final state."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from teleworkerd.execution import ExitRecord, Postscript
from teleworkerd.failpoints import failpoint
from teleworkerd.output.joboutput import JobOutput
from teleworkerd.output.sync import DirectorySync, SyncFailed
from teleworkerd.protocol.types import Stream


log = logging.getLogger(__name__)

_SYNC_PATIENCE: Final = 10.0  # seconds that an end waits for the disk

Digests = dict[Stream, bytes]
"""The SHA-256 of each stream, as far as it is known."""

Seal = Callable[[str, Postscript], Awaitable[None]]
"""Adds to the exit record of the job with this id."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What is known of an ended job beyond its exit record.

    `durable` is as in `JobStatus`.
    """

    digests: Digests
    durable: bool | None


class Finishing:
    """Has a job hashed, sealed, and brought to the disk."""

    def __init__(self, output: JobOutput, sync: DirectorySync, seal: Seal) -> None:
        self._job_id = output.path.name
        self._output = output
        self._sync = sync
        self._seal = seal

    @property
    def waits_for_the_disk(self) -> bool:
        """Whether an end is to wait for the disk at all."""
        return self._sync.is_wanted

    async def run(
        self, record: ExitRecord, *, stopped: bool, failed_sync: bool
    ) -> Findings:
        """Do it for the job of *record*.

        It was to be *stopped*, or not; the disk may have failed before.
        """
        failpoint("exit-heard")
        digests = known_digests(record)

        if digests is None or stopped is not record.stopped:
            digests = digests or await self._compute()
            await self._seal(self._job_id, _postscript(digests, stopped=stopped))
            failpoint("sealed")

        durable = False if failed_sync else await self._is_durable()

        if durable is False and not record.failed_sync:
            await self._seal(self._job_id, Postscript(failed_sync=True))

        failpoint("synced")
        return Findings(digests, durable)

    async def _compute(self) -> Digests:
        digests: Digests = {}

        for stream in Stream:
            try:
                digests[stream] = await self._output.finish(stream)
            except OSError as error:
                log.error(
                    "job %s: %s cannot be hashed: %s", self._job_id, stream, error
                )

        return digests

    async def _is_durable(self) -> bool | None:
        if not self._sync.is_wanted:
            return None

        try:
            async with asyncio.timeout(_SYNC_PATIENCE):
                await self._sync.finish()
        except SyncFailed:
            return False
        except TimeoutError:
            log.error("job %s: nobody knows when the disk has all of it", self._job_id)
            return None

        return True


def known_digests(record: ExitRecord) -> Digests | None:
    """Return what *record* says of the digests, if it is all that there is."""
    if record.stdout_sha256 is None or record.stderr_sha256 is None:
        return None

    try:
        return {
            Stream.STDOUT: bytes.fromhex(record.stdout_sha256),
            Stream.STDERR: bytes.fromhex(record.stderr_sha256),
        }
    except ValueError:
        return None


def _postscript(digests: Digests, *, stopped: bool) -> Postscript:
    found = {stream: digest.hex() for stream, digest in digests.items()}
    return Postscript(
        found.get(Stream.STDOUT), found.get(Stream.STDERR), stopped=stopped
    )
