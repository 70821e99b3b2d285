"""What a job is, or has become: its status, output and use."""

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated

from teleworkerd.protocol.records import record
from teleworkerd.protocol.spec import MAX_ARGUMENTS, MAX_LABELS, Limits
from teleworkerd.protocol.types import (
    AtMost,
    Bytes,
    JobState,
    LaunchStage,
    Nanoseconds,
    Offset,
    OnFull,
    Reason,
    Text,
    Word,
)


@record
class LaunchFailure:
    """Why a command could not be started: the stage, the errno, a sentence."""

    stage: LaunchStage
    errno: int
    message: Text


@record
class Usage:
    """What a job really used; None where the host cannot tell.

    `memory_bytes` and `processes` are of the moment, the others count from the
    job's begin. `oom_kills` is how many of its processes the kernel killed for want
    of memory.
    """

    cpu_seconds: float | None = None
    memory_peak_bytes: int | None = None
    io_read_bytes: int | None = None
    io_write_bytes: int | None = None
    processes: int | None = None
    oom_kills: int | None = None
    memory_bytes: int | None = None


@record
class StreamStatus:
    """How much of a stream there is: offsets `first_offset` up to `end`.

    `end` counts every byte that the job has written so far, `dropped` those of
    them that were not kept. `sha256` is that of the kept ones, in order, once the
    job has ended.
    """

    first_offset: Offset = 0
    end: Offset = 0
    sha256: Annotated[bytes, AtMost(32)] | None = None
    dropped: Offset = 0


@record
class JobStatus:
    """One job in full, at one moment.

    `exit_code` is what a shell would report: the process's own code, 128 + n
    when signal n ended it, 124 when its time-out did; None where there is none.
    `truncated` means that what came out of its pipes last could not be waited for,
    because a process outside the job held them. `held_up` says why output is not
    taken at this moment, while it is not. `lost` says why nobody knows how the job
    ended. `applied` are the limits in force, those too that the server sets where none
    was asked for; `not_applied` says of each that was asked for and is not in force
    why. `unkillable` says which processes the kernel does not end, while the job
    waits for them. `durable` says whether all of it would outlive a power failure:
    None until it has ended, false for good once the disk refused to say so. `stdin`,
    `tty` and `wait_all` are what was asked for.
    """

    id: Word
    owner: Word
    command: Annotated[tuple[Bytes, ...], AtMost(MAX_ARGUMENTS)]
    state: JobState
    created_at: Nanoseconds
    limits: Limits
    name: Word | None = None
    labels: Annotated[Mapping[Word, Word], AtMost(MAX_LABELS)] = field(
        default_factory=dict
    )
    exit_code: int | None = None
    signal: int | None = None
    reason: Reason | None = None
    error: LaunchFailure | None = None
    started_at: Nanoseconds | None = None
    ended_at: Nanoseconds | None = None
    user: Word | None = None
    pid: int | None = None
    workdir: Bytes | None = None
    timeout: float | None = None
    applied: Limits = Limits()
    not_applied: Annotated[Mapping[Word, Text], AtMost(16)] = field(
        default_factory=dict
    )
    truncated: bool = False
    usage: Usage = Usage()
    stdout: StreamStatus = StreamStatus()
    stderr: StreamStatus = StreamStatus()
    merge: bool = False
    output_limit: Offset | None = None
    on_full: OnFull | None = None
    held_up: Text | None = None
    lost: Text | None = None
    durable: bool | None = None
    unkillable: Text | None = None
    stdin: bool = False
    tty: bool = False
    wait_all: bool = False

    @property
    def takes_input(self) -> bool:
        """Whether clients can send to it, while it runs."""
        return self.stdin or self.tty
