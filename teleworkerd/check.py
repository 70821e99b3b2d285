"""`teleworkerd --check`: looks at all that a start would need, starts nothing."""

import os
import pwd
from collections.abc import Callable
from pathlib import Path

from teleworkerd.cgroups.detect import detect
from teleworkerd.config import Config
from teleworkerd.protocol.errors import TeleworkerError
from teleworkerd.server.tls import server_context


def check(config: Config) -> int:
    """Print what was found; return 0 when the daemon would start, else 1."""
    checks: list[tuple[str, Callable[[Config], str]]] = [
        ("listen", lambda config: config.daemon.listen),
        ("certificates", _check_certificates),
        ("state directory", _check_state_dir),
        ("cgroups", _check_cgroups),
        ("jobs run as", _check_account),
    ]
    failures = 0

    for name, look in checks:
        try:
            print(f"ok    {name}: {look(config)}")
        except TeleworkerError as error:
            failures += 1
            print(f"ERROR {name}: {error}")

    return 1 if failures else 0


class CheckFailed(TeleworkerError):
    """Something that a start needs is not there."""


def _check_certificates(config: Config) -> str:
    server_context(config.certs)
    return str(config.certs)


def _check_state_dir(config: Config) -> str:
    path = config.state_dir
    existing = _nearest(path)

    if not existing.is_dir():
        raise CheckFailed(f"{existing} is not a directory")

    if not os.access(existing, os.W_OK | os.X_OK):
        raise CheckFailed(f"{existing} is not writable")

    return str(path) if existing == path else f"{path} (will be made)"


def _nearest(path: Path) -> Path:
    """Return *path*, or the lowest directory above it that is there."""
    try:
        return next(each for each in (path, *path.absolute().parents) if each.exists())
    except OSError as error:
        raise CheckFailed(f"{path} cannot be looked at: {error.strerror}") from error


def _check_cgroups(_config: Config) -> str:
    driver = detect()
    found = [f"{limit}: {reason or 'yes'}" for limit, reason in driver.supports.items()]
    # No limits are no reason not to start: jobs without one run all the same.
    return f"{driver.name}; trees by {driver.tracking}; {'; '.join(found)}"


def _check_account(config: Config) -> str:
    if os.geteuid() != 0:
        return "the daemon's own account (not root)"

    for name in {config.jobs.user, *config.jobs.users.values()}:
        try:
            pwd.getpwnam(name)
        except KeyError:
            raise CheckFailed(f"there is no Unix account {name!r}") from None

    return f"{config.jobs.user}, {len(config.jobs.users)} others by name"
