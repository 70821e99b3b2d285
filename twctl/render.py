"""What `twctl` prints: JSON for programs, and text kept safe for terminals."""

import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TextIO

from teleworkerd.protocol.errors import TeleworkerError
from teleworkerd.protocol.messages import VERSION
from teleworkerd.protocol.responses import InfoResponse, JobNews
from teleworkerd.protocol.status import JobStatus, StreamStatus
from twctl.rejection import asked_pause


if TYPE_CHECKING:
    from twctl.sampling import Sample


SCHEMA: Final = 1
SECOND: Final = 10**9  # nanoseconds

# What Unicode calls printable, and yet nobody sees.
_UNSEEN: Final = frozenset(
    map(
        chr,
        (
            *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0),
            *range(0x180B, 0x1810),
            *range(0xFE00, 0xFE10),
            *range(0xE0100, 0xE01F0),
        ),
    )
)


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
    """Return *text* with all that a terminal might act upon made visible.

    So is what a reader would not see, and the ends of lines. What is escaped stays
    as it is when it is escaped once more.
    """
    if text.isascii() and text.isprintable():
        return text

    return "".join(
        char if char.isprintable() and char not in _UNSEEN else _visible(char)
        for char in text
    )


def status_object(status: JobStatus) -> dict[str, object]:
    """Return a job as `status -o json` prints it."""
    requested = {
        "mem": status.limits.mem,
        "cpu": status.limits.cpu,
        "io": status.limits.io,
        **status.limits.as_dict(),
    }
    usage = status.usage
    asked = status.limits.as_dict().keys()
    in_force = status.applied.as_dict()
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
            "applied": {k: v for k, v in in_force.items() if k in asked},
            "not_applied": dict(status.not_applied),
        },
        "default_limits": {k: v for k, v in in_force.items() if k not in asked},
        "truncated": status.truncated,
        "usage": {
            "cpu_seconds": usage.cpu_seconds,
            "memory_bytes": usage.memory_bytes,
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
        "stdin": status.stdin,
        "tty": status.tty,
        "wait_all": status.wait_all,
        "merge": status.merge,
        "output_limit": status.output_limit,
        "on_full": None if status.on_full is None else str(status.on_full),
        "held_up": status.held_up,
        "unkillable": status.unkillable,
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
        "newest_event": info.newest_event,
        "role": str(info.role),
        "accounts": list(info.accounts),
        "defaults": {name: _number(value) for name, value in info.defaults.items()},
        "ceilings": {name: _number(value) for name, value in info.ceilings.items()},
    }


def news_object(news: JobNews) -> dict[str, object]:
    """Return what became of a job as `events -o json` prints it."""
    return {
        "schema": SCHEMA,
        "seq": news.number,
        "time": moment(news.at),
        "job": news.job,
        "owner": news.owner,
        "name": news.name,
        "state": str(news.state),
        "reason": None if news.reason is None else str(news.reason),
        "exit_code": news.exit_code,
        "removed": news.removed,
    }


def sample_object(sample: "Sample") -> dict[str, object]:
    """Return what `top -o json` prints of *sample*."""
    return {
        "schema": SCHEMA,
        "at": moment(sample.at),
        "jobs": [
            {
                **status_object(use.status),
                "cpu_percent": use.cpu_percent,
                "io_read_bytes_per_second": use.read_rate,
                "io_write_bytes_per_second": use.write_rate,
                "output_bytes_per_second": use.output_rate,
            }
            for use in sample.jobs
        ],
    }


def not_applied(reasons: Mapping[str, str]) -> list[str]:
    """Return a sentence for each limit that is not in force though it was asked for."""
    return [f"limit {limit} is not applied: {why}" for limit, why in reasons.items()]


def to_json(value: object) -> str:
    """Return *value* as JSON on one line of printable ASCII, all else escaped."""
    import json  # noqa: PLC0415 - most calls print none

    return json.dumps(value).replace("\x7f", "\\u007f")


def has_colours(stream: TextIO) -> bool:
    """Whether colours may be printed there: on a terminal, unless NO_COLOR is set."""
    return not os.environ.get("NO_COLOR") and is_screen(stream)


def is_screen(stream: TextIO) -> bool:
    """Whether it is a terminal on which one can draw."""
    is_dumb = os.environ.get("TERM") in {"dumb", "unknown"}
    return stream.isatty() and not is_dumb


def print_json(value: object) -> None:
    """Print *value* as JSON."""
    print_line(to_json(value))


def print_text(text: str) -> None:
    """Print *text*, which may have several lines."""
    for line in text.split("\n"):
        print_line(line)


def print_line(text: str) -> None:
    """Print *text* as one line, whatever is in it."""
    sys.stdout.write(f"{escape(text)}\n")


def print_notice(text: str, *, apart: bool = False) -> None:
    """Print a line on stderr; there is nobody to tell when that fails.

    On a terminal on which others write as well, or which shows the keys that are
    pressed, it stands *apart*: it begins there where lines do, in raw mode too.
    """
    start, end = "", "\n"

    with suppress(OSError):
        if apart and sys.stderr.isatty():
            start = end = "\r\n"

        sys.stderr.write(f"{start}twctl: {escape(text)}{end}")
        sys.stderr.flush()


def end_line() -> None:
    """Have a shell's prompt begin where lines do, though Ctrl-C is shown there."""
    with suppress(OSError):
        if sys.stderr.isatty():
            sys.stderr.write("\n")
            sys.stderr.flush()


def print_warning(text: str) -> None:
    """Print what somebody should see to, though nothing has failed yet."""
    print_notice(f"warning: {text}")


def print_error(error: TeleworkerError | str) -> None:
    """Print our own failure, in the form that scripts look for."""
    text = str(error)
    when = "" if isinstance(error, str) else _when_again(error)
    print_notice(f"error: {text}{when}")


def _when_again(error: TeleworkerError) -> str:
    """Return, as the rest of a sentence, when to try again, if the server says so."""
    seconds = asked_pause(error)

    if seconds is None or "again" in str(error):  # then it is said in words
        return ""

    return f"; try again in {max(1, seconds)} s"


def _visible(char: str) -> str:
    code = ord(char)

    if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8
        return f"\\x{code - 0xDC00:02x}"

    return char.encode("unicode_escape").decode("ascii")


def _number(value: float) -> float:
    return int(value) if value == int(value) else value


def _moment_or_none(nanoseconds: int | None) -> str | None:
    return None if nanoseconds is None else moment(nanoseconds)


def _stream_object(stream: StreamStatus) -> dict[str, object]:
    return {
        "bytes": stream.end,
        "first_offset": stream.first_offset,
        "sha256": None if stream.sha256 is None else stream.sha256.hex(),
        "dropped": stream.dropped,
    }
