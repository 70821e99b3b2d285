"""A spec and some statuses, which the samples of messages are made of."""

import hashlib
from typing import Final

from teleworkerd.protocol.spec import JobSpec, Limits, TerminalSize
from teleworkerd.protocol.status import JobStatus, LaunchFailure, StreamStatus, Usage
from teleworkerd.protocol.types import JobState, LaunchStage, OnFull, Reason


JOB: Final = "5e3f1c1a-8a57-4b2e-9d43-0c6f7a1b2d3e"
REQUEST_ID: Final = "b7a1e0d2-3c44-4f0e-8a55-1d2c3b4a5968"
SENDER: Final = "0e5b6f5e-9d7c-4f0b-8d53-9f1a6d0c2b47"
CREATED_AT: Final = 1_760_000_000_000_000_000

SPEC: Final = JobSpec(
    command=(b"sh", b"-c", b"printf '\\377'"),
    env={b"LANG": b"C.UTF-8"},
    workdir=b"/srv/build",
    limits=Limits(mem=512, cpu=50, io=10, cpus=1.5, pids=100),
    name="nightly",
    labels={"team": "infra"},
    timeout=3600.0,
    merge=True,
    output_limit=1 << 30,
    on_full=OnFull.DROP,
    user="build",
    strict_limits=True,
    stdin=True,
    tty=TerminalSize(120, 40),
    wait_all=True,
)

ECHO_ENDED: Final = JobStatus(
    id=JOB,
    owner="alice",
    command=(b"echo", b"hi"),
    state=JobState.FINISHED,
    created_at=CREATED_AT,
    limits=Limits(),
    exit_code=0,
    reason=Reason.EXITED,
    started_at=CREATED_AT + 2_000_000,
    ended_at=CREATED_AT + 3_000_000,
    user="nobody",
    pid=4711,
    usage=Usage(cpu_seconds=0.001),
    stdout=StreamStatus(0, 3, hashlib.sha256(b"hi\n").digest()),
    stderr=StreamStatus(0, 0, hashlib.sha256(b"").digest()),
)

KILLED_FOR_MEMORY: Final = JobStatus(
    id=JOB,
    owner="alice",
    command=SPEC.command,
    state=JobState.FINISHED,
    created_at=CREATED_AT,
    limits=SPEC.limits,
    name=SPEC.name,
    labels=SPEC.labels,
    exit_code=137,
    signal=9,
    reason=Reason.OOM,
    started_at=CREATED_AT + 2_000_000,
    ended_at=CREATED_AT + 9_000_000_000,
    user="build",
    pid=4712,
    workdir=SPEC.workdir,
    timeout=SPEC.timeout,
    applied=Limits(mem=512, cpu=50, cpus=1.5, pids=100),
    not_applied={"io": "the kernel has no I/O weight for this disk"},
    usage=Usage(8.5, 536_870_912, 4096, 8192, 3, 1, 0),
    stdout=StreamStatus(100, 1000, bytes(range(32)), 50),
    stderr=StreamStatus(0, 0, hashlib.sha256(b"").digest()),
    merge=True,
    output_limit=SPEC.output_limit,
    on_full=SPEC.on_full,
    held_up="the disk is full",
    lost="the machine was restarted",
    durable=True,
    unkillable="the kernel does not end process 4713 (dd, state D)",
    stdin=True,
    tty=True,
    wait_all=True,
)

RUNNING: Final = JobStatus(
    id=JOB,
    owner="alice",
    command=(b"make",),
    state=JobState.RUNNING,
    created_at=CREATED_AT,
    limits=Limits(cpus=0.5),
    started_at=CREATED_AT + 2_000_000,
    user="nobody",
    pid=4714,
    applied=Limits(cpus=0.5, pids=4096),
    usage=Usage(0.5, processes=2, memory_bytes=65536),
)

NOT_STARTED: Final = JobStatus(
    id=JOB,
    owner="alice",
    command=(b"ehco", b"hi"),
    state=JobState.FAILED,
    created_at=CREATED_AT,
    limits=Limits(),
    reason=Reason.LAUNCH,
    error=LaunchFailure(LaunchStage.EXEC, 2, "ehco: not found in PATH"),
    ended_at=CREATED_AT + 3_000_000,
)
