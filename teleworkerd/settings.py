"""The sections of the configuration: every setting, its default and its bounds."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import PurePath
from typing import Annotated, Final, NamedTuple

from teleworkerd.protocol.errors import TeleworkerError
from teleworkerd.protocol.messages import MAX_ACCOUNTS, MAX_CHUNK
from teleworkerd.protocol.spec import MAX_MEMORY_MB, MAX_PIDS, MAX_TIMEOUT
from teleworkerd.protocol.types import AtMost, Between, Offset, OnFull, Role, Word


KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LOG_FORMATS: Final = ("text", "json")

Seconds = Annotated[float, Between(0, 86_400)]
Count = Annotated[int, Between(1, 1_000_000)]
Rate = Annotated[float, Between(0, 1_000_000)]  # a second
Megabytes = Annotated[int, Between(0, 1 << 40)]
Cpus = Annotated[float, Between(0, 1 << 20)]
Processes = Annotated[int, Between(0, 1 << 32)]
Lifetime = Annotated[float, Between(0, int(MAX_TIMEOUT))]  # seconds
Accounts = Annotated[tuple[Word, ...], AtMost(MAX_ACCOUNTS)]
Patterns = Annotated[tuple[Word, ...], AtMost(10_000)]

# What the daemon keeps in its state directory.
_STATE_FILES: Final = frozenset(
    {"address", "boot", "daemon", "jobs", "lock", "reserve", "trash"}
    | {"keeper.pid", "server.pid"}
)
_OWNER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_TEXT: Final = re.compile(r"[^\0\ud800-\udfff]*")  # what paths and the server take
_PATTERN: Final = re.compile(r"[A-Za-z0-9._@*?\[\]!-]{1,255}")


def show_size(count: int) -> str:
    """Return *count* bytes in the largest unit that needs no fraction."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if count and count % unit == 0:
            return f"{count // unit} {name}"

    return "1 byte" if count == 1 else f"{count} bytes"


class AtShutdown(StrEnum):
    """What becomes of running jobs when the daemon is told to end."""

    END = "end"
    LEAVE = "leave"


class Isolation(StrEnum):
    """How much a job sees of the machine and of other jobs."""

    NONE = "none"  # what its account may see
    PRIVATE = "private"  # its own mounts, IPC, host name and view of its cgroup


class ConfigError(TeleworkerError):
    """A setting is wrong; the message says which, where and why."""


class Address(NamedTuple):
    """Where to listen."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    """`[daemon]`: where the daemon lives, and as whom.

    `user` is the Unix account of the server process when the daemon is started as
    root. Empty is `teleworker` if there is such an account, else an id that no
    account has.
    """

    user: str = ""
    listen: str = "127.0.0.1:7443"
    state_dir: str = "/var/lib/teleworker"
    certs: str = "/etc/teleworker/certs"
    log_level: str = "info"
    log_format: str = "text"

    def __post_init__(self) -> None:
        for item in fields(self):
            _check_text(item.name, getattr(self, item.name))

        for name in ("state_dir", "certs"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty; name a directory")

        parse_address(self.listen)
        _check_choice("log_level", self.log_level, LOG_LEVELS)
        _check_choice("log_format", self.log_format, LOG_FORMATS)


@dataclass(frozen=True, slots=True)
class JobsConfig:
    """`[jobs]`: as whom jobs run and how they end.

    `user` is the Unix account of jobs when the daemon runs as root, `users` maps
    a certificate's CN to others: to the first, and to those that it may choose.
    With `isolation` a job has namespaces of its own, and with `private_pids` and
    `private_network` it neither sees other processes nor has a network; `tmp_size` is
    what its /tmp holds then. `linger` is how long what a job left
    behind may go on after its main process, `drain_timeout` how long its pipes
    are read after that, `timeout_grace` and `shutdown_grace` the time between
    SIGTERM and SIGKILL. `at_shutdown` says what becomes of jobs that run when the
    daemon is told to end: they are ended, or go on, and so does their keeper.
    """

    user: str = "nobody"
    users: Annotated[Mapping[Word, Accounts], AtMost(10_000)] = field(
        default_factory=dict
    )
    isolation: Isolation = Isolation.NONE
    private_pids: bool = False
    private_network: bool = False
    tmp_size: Annotated[int, Between(64 * KIB, 1 << 50)] = GIB
    linger: Seconds = 0.5
    drain_timeout: Seconds = 5.0
    timeout_grace: Seconds = 10.0
    shutdown_grace: Seconds = 10.0
    at_shutdown: AtShutdown = AtShutdown.END

    def __post_init__(self) -> None:
        for name, accounts in self.users.items():
            if not accounts:
                raise ConfigError(f"users: {name!r} has no account; name one at least")

            if not _OWNER.fullmatch(name):
                raise ConfigError(
                    f"users: {name!r:.80} is no name that a certificate can have;"
                    " patterns are not possible here"
                )

        if self.isolation is Isolation.NONE and (
            self.private_pids or self.private_network
        ):
            raise ConfigError(
                'private_pids and private_network need isolation = "private"'
            )

    def accounts(self, owner: str) -> tuple[str, ...]:
        """Return the Unix accounts granted to *owner*; the first is the default."""
        return self.users.get(owner, (self.user,))


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """`[limits]`: of jobs that name none, and the most that may be asked for.

    `mem` (megabytes), `cpus`, `pids` and `timeout` (seconds) are what a job gets that
    names none. With a prefix they are ceilings: `job_` of each job, `owner_` of all
    that run of one owner together, `total_` of all that run. 0 means none.
    """

    mem: Annotated[int, Between(0, MAX_MEMORY_MB)] = 0
    cpus: Cpus = 0.0
    pids: Annotated[int, Between(0, MAX_PIDS)] = 4096
    timeout: Lifetime = 0.0
    job_mem: Megabytes = 0
    owner_mem: Megabytes = 0
    total_mem: Megabytes = 0
    job_cpus: Cpus = 0.0
    owner_cpus: Cpus = 0.0
    total_cpus: Cpus = 0.0
    job_pids: Processes = 0
    owner_pids: Processes = 0
    total_pids: Processes = 0
    job_timeout: Lifetime = 0.0


@dataclass(frozen=True, slots=True)
class OutputConfig:
    """`[output]`: the memory that output may take, in bytes where not said.

    `window` is kept of each followed stream, `queue_chunks` chunks of `chunk`
    bytes wait for each reader, `send_buffer` bytes for each connection, in this
    process and in the kernel each; `pipe` is the kernel's between job and keeper.

    At most `job_limit` bytes are kept of one job that names no limit of its own,
    `owner_limit` of all that one owner has, `total_limit` of everything; 0 means
    no limit. `on_full` is what happens then to a job that does not say. No job is
    started with less than `min_free` bytes free on the disk, or a twentieth of it
    where that is less. What jobs write is brought to the disk every `sync_interval`
    seconds, and before a job is called ended; 0 leaves that to the kernel.
    """

    window: Annotated[int, Between(0, 64 * MIB)] = MIB
    chunk: Annotated[int, Between(KIB, MAX_CHUNK)] = MAX_CHUNK
    queue_chunks: Annotated[int, Between(1, 1024)] = 4
    send_buffer: Annotated[int, Between(16 * KIB, 16 * MIB)] = 256 * KIB
    pipe: Annotated[int, Between(4 * KIB, 16 * MIB)] = MIB
    job_limit: Offset = 16 * GIB
    owner_limit: Offset = 64 * GIB
    total_limit: Offset = 256 * GIB
    on_full: OnFull = OnFull.BLOCK
    min_free: Offset = GIB
    sync_interval: Annotated[float, Between(0, 3600)] = 5.0


@dataclass(frozen=True, slots=True)
class RetentionConfig:
    """`[retention]`: how long jobs that have ended are kept; 0 means for ever.

    An owner's jobs go, oldest first, once they are older than `age` seconds,
    more than `count`, or have more than `bytes` of output together. `interval`
    is the time between two looks, in seconds. A job that is being read stays.
    """

    age: Annotated[float, Between(0, 100 * 366 * 86_400)] = 30 * 86_400.0
    count: Annotated[int, Between(0, 1_000_000)] = 10_000
    bytes: Offset = 32 * GIB
    interval: Annotated[float, Between(1, 86_400)] = 60.0


@dataclass(frozen=True, slots=True)
class AccessConfig:
    """`[access]`: the roles of certificates, by patterns of their CN.

    A pattern is as in the shell (`ci-*`). The first role whose list fits counts, in
    the order deny, admin, operator, viewer, user; who fits none has the `default`.
    """

    deny: Patterns = ()
    admin: Patterns = ()
    operator: Patterns = ()
    viewer: Patterns = ()
    user: Patterns = ()
    default: Role = Role.USER

    def __post_init__(self) -> None:
        for role in Role:
            for pattern in self.patterns(role):
                if not _PATTERN.fullmatch(pattern):
                    raise ConfigError(
                        f"{role}: {pattern!r:.80} is no pattern of names; use"
                        " A-Z a-z 0-9 . _ @ - and * ? [ ]"
                    )

    def patterns(self, role: Role) -> tuple[str, ...]:
        """Return the patterns of who has *role*."""
        patterns: tuple[str, ...] = getattr(self, role.value)
        return patterns

    def role(self, name: str) -> Role:
        """Return the role of whose certificate has the CN *name*."""
        for role in (Role.DENY, Role.ADMIN, Role.OPERATOR, Role.VIEWER, Role.USER):
            if any(fnmatchcase(name, pattern) for pattern in self.patterns(role)):
                return role

        return self.default


@dataclass(frozen=True, slots=True)
class ClientsConfig:
    """`[clients]`: what the bearers of one CN may have at most, all together.

    `kept_commands` is in bytes, of the commands of `kept_jobs`, which the server holds
    in memory. `start_rate` is how many jobs a second they may start over a longer time,
    0 as many as they like, `start_burst` how many at once.
    """

    connections: Count = 1024
    running_jobs: Count = 2000
    kept_jobs: Count = 20_000
    kept_commands: Annotated[int, Between(MIB, 1024 * GIB)] = 64 * MIB
    followers: Count = 4096
    start_rate: Rate = 500.0
    start_burst: Count = 1000


@dataclass(frozen=True, slots=True)
class AuditConfig:
    """`[audit]`: where is written who did what, and what if that fails.

    `file` is seen from the state directory. With `fail_closed` no job is started
    while nothing can be written there.
    """

    file: str = "audit.jsonl"
    fail_closed: bool = False

    def __post_init__(self) -> None:
        _check_text("audit file", self.file)

        if not self.file:
            raise ConfigError("audit file is empty; /dev/null is a file too")

        first = PurePath(self.file).parts[0]

        if first in _STATE_FILES or first.startswith("jobs.sqlite"):
            raise ConfigError(
                f"audit file {self.file} is a file of the daemon's own; choose another"
            )


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """`[server]`: deadlines in seconds and counts of what clients may hold.

    A handshake that is under way gives way to others when there are `half_open`, or
    `half_open_per_source` of its address. Of all `connections` some are `reserved`
    for admins. A frame must be complete within `frame_timeout`; who asks nothing for
    `idle_timeout` is sent away (0: never). Who sends more than `message_rate` a second
    over a longer time, `message_burst` at once, is not read meanwhile. A server that
    does nothing at all for `watchdog` seconds is replaced.
    """

    handshake_timeout: Seconds = 10.0
    hello_timeout: Seconds = 10.0
    ping_interval: Seconds = 15.0
    ping_timeout: Seconds = 45.0
    close_timeout: Seconds = 5.0
    watchdog: Annotated[float, Between(1, 3600)] = 30.0
    frame_timeout: Seconds = 20.0
    idle_timeout: Seconds = 3600.0
    half_open: Annotated[int, Between(1, 65_536)] = 512
    half_open_per_source: Annotated[int, Between(1, 65_536)] = 128
    connections: Annotated[int, Between(1, 65_536)] = 4096
    reserved: Annotated[int, Between(0, 65_536)] = 16
    message_rate: Annotated[float, Between(1, 1_000_000)] = 5000.0
    message_burst: Count = 20_000
    backlog: Annotated[int, Between(1, 65_536)] = 1024

    def __post_init__(self) -> None:
        for name in (
            "handshake_timeout",
            "hello_timeout",
            "ping_interval",
            "ping_timeout",
            "close_timeout",
            "frame_timeout",
        ):
            if getattr(self, name) == 0:
                raise ConfigError(f"{name} must be more than 0 s")


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """`[metrics]`: where Prometheus may ask; empty is nowhere.

    There is no TLS and no login: only an address of this machine is taken.
    """

    listen: str = ""

    def __post_init__(self) -> None:
        if self.listen and not _is_loopback(parse_address(self.listen).host):
            raise ConfigError(
                f"metrics listen address {self.listen} is not of this machine alone;"
                " use 127.0.0.1:PORT or [::1]:PORT"
            )


def parse_address(text: str) -> Address:
    """Return HOST:PORT, an IPv6 host in brackets; raises `ConfigError`."""
    match = re.fullmatch(
        r"(?:\[(?P<v6>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|(?P<host>[^:\[\]\s]+))"
        r":(?P<port>[0-9]{1,5})",
        text,
    )

    if match is None or int(match["port"]) > 65_535:
        raise ConfigError(
            f"listen address {text!r} is not HOST:PORT, as in 127.0.0.1:7443"
        )

    return Address(match["v6"] or match["host"], int(match["port"]))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_text(name: str, value: str) -> None:
    if not _TEXT.fullmatch(value):
        raise ConfigError(f"{name} {value!r} has a NUL in it, or is not UTF-8")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} {value!r} is none of {', '.join(choices)}")
