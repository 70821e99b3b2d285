"""The configuration as a whole: put together from flags, environment and file."""

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Final, cast

from teleworkerd.failpoints import VARIABLE
from teleworkerd.protocol.errors import RemoteProtocolError
from teleworkerd.protocol.fields import dump, reader
from teleworkerd.protocol.framing import MAX_FRAME
from teleworkerd.protocol.shape import MAX_VALUES
from teleworkerd.protocol.types import Role
from teleworkerd.settings import (
    AccessConfig,
    AuditConfig,
    ClientsConfig,
    ConfigError,
    DaemonConfig,
    JobsConfig,
    LimitsConfig,
    MetricsConfig,
    OutputConfig,
    RetentionConfig,
    ServerConfig,
)
from teleworkerd.trusted import check_trusted


DEFAULT_FILE: Final = Path("/etc/teleworker/teleworkerd.toml")
ENVIRONMENT: Final = "TELEWORKERD_"

_FILE_VARIABLE: Final = "TELEWORKERD_CONFIG"


@dataclass(frozen=True, slots=True)
class Config:
    """Everything, by the sections of the file."""

    daemon: DaemonConfig = field(default_factory=DaemonConfig)
    jobs: JobsConfig = field(default_factory=JobsConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    retention: RetentionConfig = field(default_factory=RetentionConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    clients: ClientsConfig = field(default_factory=ClientsConfig)
    access: AccessConfig = field(default_factory=AccessConfig)
    audit: AuditConfig = field(default_factory=AuditConfig)
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
    def audit_file(self) -> Path:
        """The file of the audit log."""
        return self.state_dir / self.audit.file

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


def unknown_variables(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return a sentence for each variable that looks like a setting, and is none."""
    names = (item.name.upper() for item in fields(DaemonConfig))
    known = [_FILE_VARIABLE, VARIABLE, *(ENVIRONMENT + name for name in names)]
    return [
        f"{name} in the environment means nothing{guess(name, known)}"
        for name in environ
        if name.startswith(ENVIRONMENT) and name not in known
    ]


def guess(word: str, known: Sequence[str]) -> str:
    """Return, as the rest of a sentence, which of *known* may have been meant."""
    import difflib  # noqa: PLC0415 - the keeper is to stay small

    guesses = difflib.get_close_matches(word, known, n=1, cutoff=0.8)
    return f"; did you mean {guesses[0]}?" if guesses else ""


def parse(settings: Mapping[str, Any], *, source: str = "configuration") -> Config:
    """Return the configuration that *settings* spell; raises `ConfigError`."""
    _check_names(settings, Config, source)

    try:
        read = reader(cast("object", Config))
        config = cast("Config", read(_listed(settings), ""))
    except RemoteProtocolError as error:
        raise ConfigError(f"{source}: {str(error).removeprefix('.')}") from None

    _check_size(config, source)
    return config


def _check_size(config: Config, source: str) -> None:
    """Raise `ConfigError` unless the keeper can tell the server all of *config*."""
    access = config.access
    names = sum(1 + len(granted) for granted in config.jobs.users.values())
    names += sum(len(access.patterns(role)) for role in Role)

    # The other half of a frame is for what is told with it.
    if names > MAX_VALUES // 2 or len(json.dumps(dump(config))) > MAX_FRAME // 2:
        raise ConfigError(
            f"{source}: {names} names, accounts and patterns are too many, or too long;"
            f" the most is {MAX_VALUES // 2} in {MAX_FRAME // 2} bytes"
        )


def _named_file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    named = environ.get(_FILE_VARIABLE)
    return path or (Path(named) if named else None)


def _read_file(path: Path, *, required: bool) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            check_trusted(path, os.fstat(file.fileno()))
            return tomllib.load(file)
    except FileNotFoundError:
        if not required:
            return {}

        raise ConfigError(f"configuration file {path} does not exist") from None
    except OSError as error:
        raise ConfigError(
            f"configuration file {path} cannot be read: {error.strerror}"
        ) from error
    except (ValueError, RecursionError) as error:  # too deep, or numbers too long
        raise ConfigError(f"configuration file {path} is not TOML: {error}") from error


def _listed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return *settings* with a list of accounts where a name stands for one."""
    jobs = settings.get("jobs")

    if not isinstance(jobs, Mapping) or not isinstance(jobs.get("users"), Mapping):
        return dict(settings)

    users = {
        name: [granted] if isinstance(granted, str) else granted
        for name, granted in jobs["users"].items()
    }
    return {**settings, "jobs": {**jobs, "users": users}}


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
