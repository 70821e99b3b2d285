"""Jobs and servers as text for people."""

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from teleworkerd.protocol.messages import VERSION
from teleworkerd.protocol.responses import InfoResponse, JobNews
from teleworkerd.protocol.spec import Limits
from teleworkerd.protocol.status import JobStatus, StreamStatus
from teleworkerd.protocol.types import MIB, JobState
from twctl.exit_codes import of_status
from twctl.render import SECOND, decode, escape, moment
from twctl.sizes import bar, show_size


SHORT_ID: Final = 12
COMMAND_WIDTH: Final = 60

_PLAIN: Final = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")
_DURABLE: Final = {
    None: None,
    True: None,  # as it should be
    False: "no: the server's disk failed to write some of it; its log says what",
}
_UNITS: Final = ((86_400, "d"), (3600, "h"), (60, "m"))


def ending(status: JobStatus) -> str:
    """Return how a job has ended, as the rest of a sentence."""
    code = "" if status.exit_code is None else f", exit code {status.exit_code}"
    return f"{status.state}: {status.reason}{code}"


def news_text(news: JobNews, *, with_owner: bool = False) -> str:
    """Return what became of a job on one line."""
    what = "removed" if news.removed else str(news.state)

    if news.reason is not None and not news.removed:
        code = "" if news.exit_code is None else f", exit code {news.exit_code}"
        what = f"{what} ({news.reason}{code})"

    owner = f"  {news.owner}" if with_owner else ""
    name = "" if news.name is None else f"  {news.name}"
    return f"{news.number}  {moment(news.at)}  {news.job}{owner}  {what}{name}"


def status_text(status: JobStatus, *, now: int | None = None) -> str:
    """Return one job in full, a fact a line.

    For who looks at it *now*, in ns since the epoch, with how long ago things were,
    and with bars of what is used against limits.
    """
    facts: list[tuple[str, str | None]] = [
        ("id", status.id),
        ("name", status.name),
        ("owner", status.owner),
        ("command", command_line(status)),
        ("state", _state(status)),
        ("exit code", None if status.exit_code is None else str(status.exit_code)),
        ("signal", None if status.signal is None else str(status.signal)),
        ("error", status.error.message if status.error else status.lost),
        ("created", _when(status.created_at, now)),
        ("started", _when(status.started_at, now)),
        ("ended", _when(status.ended_at, now, since=status.started_at)),
        ("user", status.user),
        ("pid", None if status.pid is None else str(status.pid)),
        ("stdin", _stdin(status)),
        ("workdir", None if status.workdir is None else decode(status.workdir)),
        ("timeout", None if status.timeout is None else f"{status.timeout:g} s"),
        ("labels", ", ".join(f"{k}={v}" for k, v in status.labels.items())),
        ("limits", _limits(status.limits) or "none"),
        ("applied", _limits(status.applied)),
        ("not applied", "; ".join(f"{k}: {v}" for k, v in status.not_applied.items())),
        ("usage", _usage(status)),
        *(() if now is None else _bars(status)),
        ("stdout", _stream(status.stdout)),
        ("stderr", _stderr(status)),
        ("output", _output_limit(status)),
        ("held up", status.held_up),
        ("unkillable", status.unkillable),
        ("durable", _DURABLE[status.durable]),
    ]
    return _block(facts)


def info_text(info: InfoResponse) -> str:
    """Return what the server says about itself, a fact a line."""
    return _block(
        [
            ("version", info.version),
            ("protocol", str(VERSION)),
            ("you are", info.name),
            ("role", str(info.role)),
            ("jobs run as", " or ".join(info.accounts)),
            ("started", moment(info.started_at)),
            ("keeper", _keeper(info)),
            ("cgroups", info.cgroups),
            ("limits", "; ".join(f"{k}: {v}" for k, v in info.limits.items())),
            ("defaults", _settings(info.defaults)),
            ("ceilings", _settings(info.ceilings)),
            ("jobs", ", ".join(f"{v} {k}" for k, v in info.jobs.items()) or "none"),
            ("connections", str(info.connections)),
            ("load", " ".join(f"{value:.2f}" for value in info.load)),
        ]
    )


def list_text(jobs: Iterable[JobStatus], *, now: int, with_owners: bool = False) -> str:
    """Return a table of jobs; ages count up to *now*, in ns since the epoch."""
    rows = list_rows(jobs, now=now, with_owners=with_owners)
    return table([(*row[:-1], shorten(row[-1])) for row in rows])


def list_rows(
    jobs: Iterable[JobStatus], *, now: int, with_owners: bool = False
) -> list[tuple[str, ...]]:
    """Return the heads of that table, and a row for each job, safe to print."""
    rows: list[tuple[str, ...]] = [
        ("ID", "OWNER", "NAME", "STATE", "EXIT", "AGE", "COMMAND")
    ]

    for job in jobs:
        code = of_status(job) if job.error is not None else job.exit_code
        rows.append(
            (
                escape(job.id[:SHORT_ID]),
                escape(job.owner),
                escape(job.name or "-"),
                str(job.state),
                "-" if code is None else str(code),
                age(max(0, now - job.created_at) // SECOND),
                command_line(job),
            )
        )

    if not with_owners:
        rows = [(id_, *rest) for id_, _, *rest in rows]

    return rows


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Return *rows* with their columns below one another."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def command_line(status: JobStatus) -> str:
    """Return the command as one could type it, safe to print."""
    return " ".join(_quote(escape(decode(argument))) for argument in status.command)


def age(seconds: int) -> str:
    """Return a span in its greatest unit: `5s`, `12m`, `3h`, `2d`."""
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds // size}{unit}"

    return f"{seconds}s"


def _when(time: int | None, now: int | None, *, since: int | None = None) -> str | None:
    """Return a time with how long before *now* and after *since* it was."""
    if time is None:
        return None

    if now is None:
        return moment(time)

    ago = age(max(0, now - time) // SECOND)
    took = "" if since is None else f", after {age(max(0, time - since) // SECOND)}"
    return f"{moment(time)} ({ago} ago{took})"


def _block(facts: Iterable[tuple[str, str | None]]) -> str:
    return "\n".join(f"{key + ':':<13}{escape(text)}" for key, text in facts if text)


def _quote(argument: str) -> str:
    if _PLAIN.fullmatch(argument):
        return argument

    return "'" + argument.replace("'", "'\"'\"'") + "'"


def shorten(text: str) -> str:
    """Return *text*, cut for a column of a table if it is long."""
    return text if len(text) <= COMMAND_WIDTH else f"{text[: COMMAND_WIDTH - 1]}…"


def _state(status: JobStatus) -> str:
    if status.state is JobState.LOST:
        return str(status.state)

    if status.state.is_final:
        return f"{status.state} ({status.reason or 'no reason known'})"

    since = status.started_at or status.created_at
    return f"{status.state} for {age(max(0, time.time_ns() - since) // SECOND)}"


def _limits(limits: Limits) -> str:
    units = {
        "mem": " MB",
        "cpu": "% of a share",
        "io": "% of a share",
        "cpus": " processors",
        "pids": " processes",
    }
    return ", ".join(f"{k} {v:g}{units[k]}" for k, v in limits.as_dict().items())


def _settings(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.10g}" for name, value in values.items())


def _keeper(info: InfoResponse) -> str:
    times = {0: "never", 1: "once"}.get(info.restarts, f"{info.restarts} times")
    return f"since {moment(info.keeper_started_at)}, has restarted the server {times}"


def _usage(status: JobStatus) -> str:
    usage = status.usage
    is_over = status.state.is_final
    parts = (
        None if usage.cpu_seconds is None else f"{usage.cpu_seconds:.2f} s of CPU",
        None if is_over else _size(usage.memory_bytes, "of memory"),
        _size(usage.memory_peak_bytes, "of memory at most"),
        _size(usage.io_read_bytes, "read"),
        _size(usage.io_write_bytes, "written"),
        None if is_over or not usage.processes else _processes(usage.processes),
        f"{usage.oom_kills} killed for memory" if usage.oom_kills else None,
    )
    return ", ".join(part for part in parts if part)


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"


def _size(size: int | None, what: str) -> str | None:
    return None if size is None else f"{show_size(size)} {what}"


def _bars(status: JobStatus) -> list[tuple[str, str | None]]:
    """Return a bar for each limit of a running job that its use can be held against."""
    usage, limits = status.usage, status.applied
    mem, pids = limits.mem, limits.pids
    memory, processes = usage.memory_bytes, usage.processes

    if status.state.is_final:
        return []

    return [
        (
            "memory",
            None
            if mem is None or memory is None
            else f"{bar(memory, mem * MIB)} of {show_size(mem * MIB)}",
        ),
        (
            "processes",
            None
            if pids is None or processes is None
            else f"{bar(processes, pids)} of {pids}",
        ),
    ]


def _stream(stream: StreamStatus) -> str:
    parts = (
        f"{stream.end} bytes",
        f"from {stream.first_offset} on" if stream.first_offset else None,
        f"{stream.dropped} of them dropped" if stream.dropped else None,
    )
    return ", ".join(part for part in parts if part)


def _output_limit(status: JobStatus) -> str | None:
    parts = (
        None if status.output_limit is None else f"{status.output_limit} bytes at most",
        None if status.on_full is None else f"{status.on_full} when full",
    )
    return ", ".join(part for part in parts if part)


def _stdin(status: JobStatus) -> str | None:
    if status.tty:
        return "a terminal"

    return "open" if status.stdin else None


def _stderr(status: JobStatus) -> str | None:
    if status.merge or status.tty:
        return "into stdout"

    return _stream(status.stderr)
