"""What a job is asked to be: command, limits, terminal; and what cannot be."""

import math
import re
from collections.abc import Mapping, Sized
from dataclasses import field
from typing import Annotated, Final

from teleworkerd.protocol.errors import InvalidRequest
from teleworkerd.protocol.records import record
from teleworkerd.protocol.types import (
    MAX_ARGUMENT,
    MIB,
    AtMost,
    Between,
    Bytes,
    Offset,
    OnFull,
    Word,
)


MAX_COMMAND_BYTES: Final = MIB  # argv and environment together, as execve counts
MAX_ARGUMENTS: Final = 16_384
MAX_PATH: Final = 4096  # bytes of the variable PATH
MAX_PATH_ENTRIES: Final = 128
MAX_LABELS: Final = 64
MAX_LABEL_VALUE: Final = 255
MAX_MEMORY_MB: Final = 1 << 30  # a pebibyte; far below where the kernel wraps
MIN_MEMORY_MB: Final = 4  # less kills the job before it can say why
MIN_CPUS: Final = 0.01  # the kernel's least quota in its usual period
MAX_CPUS: Final = 4096.0
MAX_PIDS: Final = 1 << 22  # the kernel's PID_MAX_LIMIT
MAX_TIMEOUT: Final = 10 * 366 * 86_400.0  # seconds
MAX_SIDE: Final = (1 << 16) - 1  # columns or rows, as the kernel keeps them

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_ACCOUNT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,62}\$?")
_LABEL_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,62}")
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")  # has no UTF-8


def _check_range(
    name: str, value: float | None, least: float, most: float, unit: str
) -> None:
    if value is not None and not least <= value <= most:
        raise InvalidRequest(
            f"limit {name} = {value} is out of range;"
            f" it must be from {least:.10g} to {most:.10g}{unit}"
        )


def _check_count(name: str, items: Sized, most: int) -> None:
    if len(items) > most:
        raise InvalidRequest(f"{len(items)} {name} are too many; the most is {most}")


def _show(string: bytes) -> str:
    shown = repr(string[:64])[1:]
    return shown if len(string) <= 64 else f"{shown}…"


@record
class Limits:
    """What a job may use at most; None means no limit.

    `mem` is in megabytes (2**20 bytes); `cpu` and `io` are shares from 1 to 100
    percent, which count where others want the same; `cpus` is how many processors
    it may keep busy, and `pids` how many processes and threads it may have, whatever
    others do. Raises `InvalidRequest` when a value is out of its range.
    """

    mem: int | None = None
    cpu: int | None = None
    io: int | None = None
    cpus: float | None = None
    pids: int | None = None

    def __post_init__(self) -> None:
        _check_range("mem", self.mem, MIN_MEMORY_MB, MAX_MEMORY_MB, " (megabytes)")
        _check_range("cpu", self.cpu, 1, 100, " percent")
        _check_range("io", self.io, 1, 100, " percent")
        _check_range("cpus", self.cpus, MIN_CPUS, MAX_CPUS, " processors")
        _check_range("pids", self.pids, 1, MAX_PIDS, " processes")

    def __bool__(self) -> bool:
        return bool(self.as_dict())

    def as_dict(self) -> dict[str, int | float]:
        """Return the limits that are set, by name."""
        values: dict[str, int | float | None] = {
            "mem": self.mem,
            "cpu": self.cpu,
            "io": self.io,
            "cpus": self.cpus,
            "pids": self.pids,
        }
        return {name: value for name, value in values.items() if value is not None}


@record
class TerminalSize:
    """How large a terminal is, in characters."""

    columns: Annotated[int, Between(1, MAX_SIDE)] = 80
    rows: Annotated[int, Between(1, MAX_SIDE)] = 24


@record
class JobSpec:
    """What was asked for; never changes.

    `command` is run directly, without a shell. `env` is added to the clean
    environment that the daemon gives every job. `workdir` None means the home
    of the job's account. `timeout` is in seconds from the start of the command.
    With `merge` stderr is the same pipe as stdout. `output_limit` bounds the bytes
    kept of both streams together, `on_full` says what happens then; None leaves
    both to the server. `user` is a Unix account that was granted to the owner; None
    is the owner's first. With `strict_limits` the job is not started unless every
    one of `limits` can be applied. With `stdin` clients can send to it; without, it
    reads nothing. With `tty` all three are a terminal of that size, and what the job
    writes is its stdout. With `wait_all` the job goes on until nothing that it started
    runs. Raises `InvalidRequest` for what no kernel would run.
    """

    command: Annotated[tuple[Bytes, ...], AtMost(MAX_ARGUMENTS)]
    env: Annotated[Mapping[Bytes, Bytes], AtMost(MAX_ARGUMENTS)] = field(
        default_factory=dict
    )
    workdir: Bytes | None = None
    limits: Limits = Limits()
    name: Word | None = None
    labels: Annotated[Mapping[Word, Word], AtMost(MAX_LABELS)] = field(
        default_factory=dict
    )
    timeout: float | None = None
    strict_limits: bool = False
    merge: bool = False
    output_limit: Offset | None = None
    on_full: OnFull | None = None
    user: Word | None = None
    stdin: bool = False
    tty: TerminalSize | None = None
    wait_all: bool = False

    def __post_init__(self) -> None:
        if not self.command or not self.command[0]:
            raise InvalidRequest("the command is empty; give a program to run")

        _check_count("arguments", self.command, MAX_ARGUMENTS)
        _check_count("environment variables", self.env, MAX_ARGUMENTS)
        _check_count("labels", self.labels, MAX_LABELS)
        self._check_strings()
        self._check_labels()

        if self.workdir is not None and not self.workdir.startswith(b"/"):
            raise InvalidRequest(
                f"workdir {_show(self.workdir)} is not absolute; begin it with /"
            )

        if self.name is not None and not _NAME.fullmatch(self.name):
            raise InvalidRequest(
                f"name {self.name!r} is not valid; use 1 to 64 of A-Z a-z 0-9 _ . -"
                " and begin with a letter or digit"
            )

        if self.user is not None and not _ACCOUNT.fullmatch(self.user):
            raise InvalidRequest(
                f"user {self.user!r:.80} is not the name of a Unix account"
            )

        if self.output_limit is not None and self.output_limit < 0:
            raise InvalidRequest(
                f"output_limit {self.output_limit} is negative; give a number of bytes"
            )

        if self.timeout is not None and not (
            math.isfinite(self.timeout) and 0 < self.timeout <= MAX_TIMEOUT
        ):
            raise InvalidRequest(
                f"timeout {self.timeout:g} s is out of range;"
                f" it must be more than 0 and at most {MAX_TIMEOUT:.0f} s"
            )

    @property
    def is_merged(self) -> bool:
        """Whether all that the job writes is its stdout."""
        return self.merge or self.tty is not None

    @property
    def takes_input(self) -> bool:
        """Whether clients can send to it."""
        return self.stdin or self.tty is not None

    def _check_labels(self) -> None:
        for key, value in self.labels.items():
            if not _LABEL_KEY.fullmatch(key):
                raise InvalidRequest(
                    f"label key {key!r:.80} is not valid; use 1 to 63 of"
                    " A-Z a-z 0-9 _ . / - and begin with a letter or digit"
                )

            if len(value) > MAX_LABEL_VALUE or _SURROGATE.search(value):
                raise InvalidRequest(
                    f"the value of label {key} is not valid; use at most"
                    f" {MAX_LABEL_VALUE} characters of Unicode"
                )

    def _check_path(self) -> None:
        path = self.env.get(b"PATH", b"")
        entries = path.count(b":") + 1

        # A command is looked for in each, and that may hold up other starts.
        if len(path) > MAX_PATH or entries > MAX_PATH_ENTRIES:
            raise InvalidRequest(
                f"the variable PATH has {entries} directories in {len(path)} bytes;"
                f" the most are {MAX_PATH_ENTRIES} in {MAX_PATH}"
            )

    def _check_strings(self) -> None:
        strings = [*self.command, *self.env.keys(), *self.env.values()]

        if self.workdir is not None:
            strings.append(self.workdir)

        for string in strings:
            if b"\0" in string:
                raise InvalidRequest(f"{_show(string)} holds a NUL byte")

            if len(string) > MAX_ARGUMENT:
                raise InvalidRequest(
                    f"{_show(string)} has {len(string)} bytes;"
                    f" the most is {MAX_ARGUMENT}"
                )

        for name in self.env:
            if not name or b"=" in name:
                raise InvalidRequest(
                    f"environment name {_show(name)} is empty or holds '='"
                )

        self._check_path()
        total = sum(len(string) + 1 for string in strings)

        if total > MAX_COMMAND_BYTES:
            raise InvalidRequest(
                f"command and environment have {total} bytes;"
                f" the most is {MAX_COMMAND_BYTES}"
            )
