"""What the daemon can be told, by flag, environment and file, and the defaults."""

import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, cast

from teleworkerd.protocol.errors import RemoteProtocolError, TeleworkerError
from teleworkerd.protocol.fields import reader
from teleworkerd.protocol.messages import MAX_CHUNK
from teleworkerd.protocol.types import AtMost, Between, Offset, OnFull


DEFAULT_FILE: Final = Path("/etc/teleworker/teleworkerd.toml")
ENVIRONMENT: Final = "TELEWORKERD_"

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LOG_FORMATS: Final = ("text", "json")

Seconds = Annotated[float, Between(0, 86_400)]
Accounts = Annotated[Mapping[str, str], AtMost(10_000)]


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
    """`[daemon]`: where the daemon lives."""

    listen: str = "127.0.0.1:7443"
    state_dir: str = "/var/lib/teleworker"
    certs: str = "/etc/teleworker/certs"
    log_level: str = "info"
    log_format: str = "text"

    def __post_init__(self) -> None:
        parse_address(self.listen)
        _check_choice("log_level", self.log_level, LOG_LEVELS)
        _check_choice("log_format", self.log_format, LOG_FORMATS)


@dataclass(frozen=True, slots=True)
class JobsConfig:
    """`[jobs]`: as whom jobs run and how they end.

    `user` is the Unix account of jobs when the daemon runs as root, `users` maps
    a certificate's CN to another one. `linger` is how long what a job left
    behind may go on after its main process, `drain_timeout` how long its pipes
    are read after that, `timeout_grace` and `shutdown_grace` the time between
    SIGTERM and SIGKILL. `at_shutdown` says what becomes of jobs that run when the
    daemon is told to end: they are ended, or go on, and so does their keeper.
    """

    user: str = "nobody"
    users: Accounts = field(default_factory=dict)
    linger: Seconds = 0.5
    drain_timeout: Seconds = 5.0
    timeout_grace: Seconds = 10.0
    shutdown_grace: Seconds = 10.0
    at_shutdown: AtShutdown = AtShutdown.END

    def account(self, owner: str) -> str:
        """Return the Unix account that runs the jobs of *owner*."""
        return self.users.get(owner, self.user)


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
class ServerConfig:
    """`[server]`: deadlines in seconds and counts of what clients may hold.

    A server that does nothing at all for `watchdog` seconds is replaced.
    """

    handshake_timeout: Seconds = 10.0
    hello_timeout: Seconds = 10.0
    ping_interval: Seconds = 15.0
    ping_timeout: Seconds = 45.0
    close_timeout: Seconds = 5.0
    watchdog: Annotated[float, Between(1, 3600)] = 30.0
    half_open: Annotated[int, Between(1, 65_536)] = 512
    connections: Annotated[int, Between(1, 65_536)] = 4096
    backlog: Annotated[int, Between(1, 65_536)] = 1024

    def __post_init__(self) -> None:
        for name in (
            "handshake_timeout",
            "hello_timeout",
            "ping_interval",
            "ping_timeout",
            "close_timeout",
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


@dataclass(frozen=True, slots=True)
class Config:
    """Everything, by the sections of the file."""

    daemon: DaemonConfig = field(default_factory=DaemonConfig)
    jobs: JobsConfig = field(default_factory=JobsConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    retention: RetentionConfig = field(default_factory=RetentionConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)

    @property
    def state_dir(self) -> Path:
        """The directory of everything that outlives the daemon."""
        return Path(self.daemon.state_dir)

    @property
    def jobs_dir(self) -> Path:
        """The directory that holds one directory for each job."""
        return self.state_dir / "jobs"

    @property
    def database(self) -> Path:
        """The file of `teleworkerd.store`."""
        return self.state_dir / "jobs.sqlite"

    @property
    def reserve(self) -> Path:
        """The file that the keeper gives up for what must be written."""
        return self.state_dir / "reserve"

    @property
    def certs(self) -> Path:
        """The directory of `ca.pem`, `server.pem` and `server-key.pem`."""
        return Path(self.daemon.certs)


def load(
    *,
    path: Path | None,
    flags: Mapping[str, str],
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """Return the configuration: *flags*, then *environ*, then the file at *path*.

    *flags* are settings of `[daemon]` by name. Without a *path* the one in
    `TELEWORKERD_CONFIG` or else the default file is read, if it is there.
    Raises `ConfigError`.
    """
    named = _named_file(path, environ)
    settings = _read_file(named or DEFAULT_FILE, required=named is not None)
    section = settings.setdefault("daemon", {})

    if isinstance(section, dict):
        for item in fields(DaemonConfig):
            variable = ENVIRONMENT + item.name.upper()

            if variable in environ:
                section[item.name] = environ[variable]

        section.update(flags)

    return parse(settings, source=str(named or DEFAULT_FILE))


def find_file(
    path: Path | None, environ: Mapping[str, str] = os.environ
) -> Path | None:
    """Return the file that `load` reads for *path*; None if it reads none."""
    named = _named_file(path, environ)
    return named or (DEFAULT_FILE if DEFAULT_FILE.exists() else None)


def parse(settings: Mapping[str, Any], *, source: str = "configuration") -> Config:
    """Return the configuration that *settings* spell; raises `ConfigError`."""
    _check_names(settings, Config, source)

    try:
        return cast("Config", reader(cast("object", Config))(dict(settings), source))
    except RemoteProtocolError as error:
        raise ConfigError(str(error)) from None


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


def _named_file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    named = environ.get("TELEWORKERD_CONFIG")
    return path or (Path(named) if named is not None else None)


def _read_file(path: Path, *, required: bool) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        if not required:
            return {}

        raise ConfigError(f"configuration file {path} does not exist") from None
    except OSError as error:
        raise ConfigError(
            f"configuration file {path} cannot be read: {error.strerror}"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration file {path} is not TOML: {error}") from error


def _check_names(settings: Mapping[str, Any], cls: type, where: str) -> None:
    known = {item.name: item.type for item in fields(cls)}

    for name, value in settings.items():
        if name not in known:
            raise ConfigError(
                f"{where}: there is no setting {name!r}; known are {', '.join(known)}"
            )

        kind = known[name]

        if isinstance(kind, type) and is_dataclass(kind) and isinstance(value, Mapping):
            _check_names(value, kind, f"{where}: [{name}]")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} {value!r} is none of {', '.join(choices)}")
