"""What `twctl` prints: JSON for programs, and text kept safe for terminals."""

import sys
import time
from enum import StrEnum
from typing import Final

from teleworkerd.protocol.messages import VERSION, InfoResponse
from teleworkerd.protocol.types import JobStatus, StreamStatus


SCHEMA: Final = 1
SECOND: Final = 10**9  # nanoseconds


class OutputForm(StrEnum):
    """For whom to print."""

    TEXT = "text"
    JSON = "json"


def parse_form(text: str) -> OutputForm:
    """Return the form of that name; raises `ValueError` with a sentence."""
    try:
        return OutputForm(text)
    except ValueError:
        raise ValueError(f"{text!r} is not text or json") from None


def moment(nanoseconds: int) -> str:
    """Return a time since the epoch as RFC 3339, UTC, with nanoseconds."""
    seconds, rest = divmod(nanoseconds, SECOND)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09}Z"


def decode(data: bytes) -> str:
    """Return text from which every byte can be had back."""
    return data.decode("utf-8", "surrogateescape")


def escape(text: str) -> str:
    """Return *text* with all that a terminal might act upon made visible."""
    if text.isascii() and text.isprintable():
        return text

    return "".join(char if char.isprintable() else _visible(char) for char in text)


def status_object(status: JobStatus) -> dict[str, object]:
    """Return a job as `status -o json` prints it."""
    requested = {
        "mem": status.limits.mem,
        "cpu": status.limits.cpu,
        "io": status.limits.io,
    }
    usage = status.usage
    return {
        "schema": SCHEMA,
        "id": status.id,
        "owner": status.owner,
        "name": status.name,
        "labels": dict(status.labels),
        "command": [decode(argument) for argument in status.command],
        "state": str(status.state),
        "exit_code": status.exit_code,
        "signal": status.signal,
        "reason": None if status.reason is None else str(status.reason),
        "error": status.lost if status.error is None else status.error.message,
        "created_at": moment(status.created_at),
        "started_at": _moment_or_none(status.started_at),
        "ended_at": _moment_or_none(status.ended_at),
        "user": status.user,
        "limits": {
            "requested": requested,
            "applied": status.applied.as_dict(),
            "not_applied": dict(status.not_applied),
        },
        "truncated": status.truncated,
        "usage": {
            "cpu_seconds": usage.cpu_seconds,
            "memory_peak_bytes": usage.memory_peak_bytes,
            "io_read_bytes": usage.io_read_bytes,
            "io_write_bytes": usage.io_write_bytes,
            "processes": usage.processes,
            "oom_kills": usage.oom_kills,
        },
        "output": {
            "stdout": _stream_object(status.stdout),
            "stderr": _stream_object(status.stderr),
        },
        "merge": status.merge,
        "output_limit": status.output_limit,
        "on_full": None if status.on_full is None else str(status.on_full),
        "held_up": status.held_up,
        "durable": status.durable,
    }


def info_object(info: InfoResponse) -> dict[str, object]:
    """Return a server as `info -o json` prints it."""
    return {
        "schema": SCHEMA,
        "version": info.version,
        "protocol": VERSION,
        "name": info.name,
        "started_at": moment(info.started_at),
        "keeper_started_at": moment(info.keeper_started_at),
        "restarts": info.restarts,
        "cgroups": info.cgroups,
        "limits": dict(info.limits),
        "jobs": dict(info.jobs),
        "connections": info.connections,
        "load": list(info.load),
    }


def print_json(value: object) -> None:
    """Print *value* on one line of pure ASCII, surrogates escaped."""
    import json  # noqa: PLC0415 - most calls print none

    print_line(json.dumps(value))


def print_line(text: str) -> None:
    """Print *text*; raises `BrokenPipeError` too when there is no stdout at all."""
    stdout: object = sys.stdout

    if stdout is None:
        raise BrokenPipeError

    sys.stdout.write(f"{text}\n")


def print_notice(text: str) -> None:
    """Print a line on stderr; there is nobody to tell when that fails."""
    stderr: object = sys.stderr

    if stderr is None:
        return

    try:
        sys.stderr.write(f"twctl: {escape(text)}\n")
        sys.stderr.flush()
    except OSError:
        return


def print_error(text: str) -> None:
    """Print our own failure, in the form that scripts look for."""
    print_notice(f"error: {text}")


def _visible(char: str) -> str:
    code = ord(char)

    if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8
        return f"\\x{code - 0xDC00:02x}"

    return char.encode("unicode_escape").decode("ascii")


def _moment_or_none(nanoseconds: int | None) -> str | None:
    return None if nanoseconds is None else moment(nanoseconds)


def _stream_object(stream: StreamStatus) -> dict[str, object]:
    return {
        "bytes": stream.end,
        "first_offset": stream.first_offset,
        "sha256": None if stream.sha256 is None else stream.sha256.hex(),
        "dropped": stream.dropped,
    }
