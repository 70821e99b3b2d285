"""What a caller writes as a command, made into the spec that goes to the server."""

import os
from collections.abc import Mapping, Sequence

from teleworkerd.protocol.errors import InvalidRequest
from teleworkerd.protocol.spec import JobSpec, Limits, TerminalSize
from teleworkerd.protocol.types import OnFull


Argument = str | bytes | os.PathLike[str] | os.PathLike[bytes]


def build_spec(  # noqa: PLR0913 - one parameter for each thing a job can be given
    argv: Sequence[Argument],
    *,
    mem: int | None = None,
    cpu: int | None = None,
    io: int | None = None,
    cpus: float | None = None,
    pids: int | None = None,
    strict_limits: bool = False,
    env: Mapping[str, str] | Mapping[bytes, bytes] | None = None,
    workdir: Argument | None = None,
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
    timeout: float | None = None,
    merge: bool = False,
    output_limit: int | None = None,
    on_full: OnFull | str | None = None,
    user: str | None = None,
    stdin: bool = False,
    tty: TerminalSize | None = None,
    wait_all: bool = False,
) -> JobSpec:
    """Return the spec; text becomes bytes as the file system has it.

    Raises `InvalidRequest` for what no server would take, and `TypeError` for a
    command that is one string: nothing here splits it, for there is no shell.
    """
    if output_limit is not None and output_limit < 0:
        raise InvalidRequest(
            f"output_limit {output_limit} is out of range; it must be 0 or more"
        )

    if isinstance(argv, str | bytes):
        raise TypeError("the command is one string; give a list of its arguments")

    return JobSpec(
        command=tuple(map(os.fsencode, argv)),
        env={os.fsencode(k): os.fsencode(v) for k, v in (env or {}).items()},
        workdir=None if workdir is None else os.fsencode(workdir),
        limits=Limits(mem=mem, cpu=cpu, io=io, cpus=cpus, pids=pids),
        name=name,
        labels=dict(labels or {}),
        timeout=timeout,
        merge=merge,
        output_limit=output_limit,
        on_full=None if on_full is None else OnFull(on_full),
        user=user,
        strict_limits=strict_limits,
        stdin=stdin,
        tty=tty,
        wait_all=wait_all,
    )
