"""`teleworkerd --check`: looks at all that a start would need, starts nothing."""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from teleworkerd.certfiles import read_files
from teleworkerd.check_limits import describe_driver, describe_limits
from teleworkerd.config import Config, unknown_variables
from teleworkerd.daemon.accounts import check_accounts, doubts, find_server_account
from teleworkerd.daemon.facts import DaemonFacts, DaemonState, describe_end
from teleworkerd.daemon.listening import listen
from teleworkerd.daemon.running import RunningKeeper, find_keeper
from teleworkerd.keeper.descriptors import FEW, TOO_FEW, most_descriptors
from teleworkerd.keeper.isolation import describe_isolation
from teleworkerd.keeper.state_dir import check_owner
from teleworkerd.protocol.errors import TeleworkerError
from teleworkerd.protocol.types import Role
from teleworkerd.reserve import room_at
from teleworkerd.server.tls import server_context
from teleworkerd.server.trust import warnings
from teleworkerd.settings import ConfigError, parse_address, show_size


_CA_KEY: Final = "ca-key.pem"
_PATIENCE: Final = 5.0  # seconds that a server may take to follow another
_LOOK: Final = 0.1  # seconds
_BETWEEN: Final = (DaemonState.STARTING, DaemonState.RESTARTING)


def check(config: Config) -> int:
    """Print what was found; return 0 when nothing is wrong, else 1.

    Wrong is what would keep the daemon from its start, and one that runs without
    serving.
    """
    checks: list[tuple[str, Callable[[Config], str | None]]] = [
        ("listen", _check_listen),
        ("certificates", _check_certificates),
        ("state directory", _check_state_dir),
        ("cgroups", describe_driver),
        ("server runs as", _check_server),
        ("jobs run as", _check_account),
        ("access", _check_access),
        ("isolation", describe_isolation),
        ("audit log", _check_audit),
        ("open files", _check_open_files),
        ("metrics", _check_metrics),
        ("daemon", _check_daemon),
    ]
    failures = 0

    for name, look in checks:
        try:
            if (found := look(config)) is not None:
                _say(f"ok    {name}: {found}")
        except TeleworkerError as error:
            failures += 1
            _say(f"ERROR {name}: {error}")

    for limit, (found, remedy) in describe_limits().items():
        _say(f"{'WARN ' if remedy else 'ok   '} limit {limit}: {found}{remedy}")

    for doubt in _doubts(config):
        _say(f"WARN  {doubt}")

    return 1 if failures else 0


def _doubts(config: Config) -> Iterator[str]:
    """Yield what is possible, and unwise or of no use."""
    with suppress(TeleworkerError):
        check_accounts(config.jobs)
        yield from doubts(find_server_account(config.daemon), config.jobs)

    with suppress(TeleworkerError):
        files = read_files(config.certs)
        server_context(files)  # what keeps it from its start has been said
        yield from warnings(files, time.time())

    if os.path.exists(config.certs / _CA_KEY):  # noqa: PTH110  never raises
        yield (
            f"{config.certs / _CA_KEY}: who has this key is everybody; move it and .ca/"
            " to another machine"
        )

    if config.access.default is Role.ADMIN or "*" in config.access.admin:
        yield "[access]: everybody is an admin"

    yield from unknown_variables()


def _say(line: str) -> None:
    try:
        print(line, flush=True)
    except BrokenPipeError:
        # Who reads no more still wants the exit status.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class CheckFailed(TeleworkerError):
    """Something that a start needs is not there, or a daemon does not serve."""


def _check_listen(config: Config) -> str:
    # The address is its own while it runs.
    if not _is_running(config):
        address = parse_address(config.daemon.listen)
        listen(address, config.server.backlog).close()

    return config.daemon.listen


def _check_metrics(config: Config) -> str | None:
    where = config.metrics.listen

    if not where or _is_running(config):
        return where or None

    try:
        listen(
            parse_address(where), 1, remedy="choose another [metrics] listen"
        ).close()
    except ConfigError as error:
        # They are no reason not to start.
        return f"there would be none: {error}"

    return where


def _is_running(config: Config) -> bool:
    keeper = find_keeper(config.state_dir)

    if keeper is None:
        return False

    with keeper:
        return True


def _check_certificates(config: Config) -> str:
    server_context(read_files(config.certs))
    return str(config.certs)


def _check_state_dir(config: Config) -> str:
    path = config.state_dir
    existing = _nearest(path)

    if not existing.is_dir():
        raise CheckFailed(f"{existing} is not a directory")

    if not os.access(existing, os.W_OK | os.X_OK):
        raise CheckFailed(f"{existing} is not writable")

    if existing == path:
        check_owner(path)
        words = str(path)
    else:
        _check_making(path, existing)
        words = f"{path} (will be made)"

    return words + _describe_room(existing, config.output.min_free)


def _check_making(path: Path, existing: Path) -> None:
    """Raise `CheckFailed` when no directory can be made in *existing* for *path*."""
    try:
        Path(tempfile.mkdtemp(prefix=".teleworkerd-check-", dir=existing)).rmdir()
    except OSError as error:
        raise CheckFailed(
            f"{path} cannot be made in {existing}: {error.strerror}"
        ) from error


def _describe_room(path: Path, min_free: int) -> str:
    """Return what is to be added when too little is free on the disk of *path*."""
    try:
        room = room_at(path, min_free)
    except OSError as error:
        return f"; nobody knows what is free there: {error.strerror}"

    if room.free >= room.floor:
        return ""

    return (
        f"; {show_size(room.free)} are free on its disk, and no job is started with"
        f" less than {show_size(room.floor)}"
    )


def _nearest(path: Path) -> Path:
    """Return *path*, or the lowest directory above it that is there."""
    try:
        return next(each for each in (path, *path.absolute().parents) if each.exists())
    except OSError as error:
        raise CheckFailed(f"{path} cannot be looked at: {error.strerror}") from error


def _check_open_files(_config: Config) -> str:
    most = most_descriptors()
    return str(most) if most >= FEW else TOO_FEW.format(most)


def _check_account(config: Config) -> str:
    if os.geteuid() != 0:
        return "the daemon's own account (not root)"

    check_accounts(config.jobs)
    named = (
        f"{name} as {' or '.join(granted)}"
        for name, granted in config.jobs.users.items()
    )
    return "; ".join((config.jobs.user, *named))


def _check_access(config: Config) -> str:
    lists = (
        f"{role}: {' '.join(patterns)}"
        for role in Role
        if (patterns := config.access.patterns(role))
    )
    return "; ".join((*lists, f"all others: {config.access.default}"))


def _check_server(config: Config) -> str:
    account = find_server_account(config.daemon)

    if account is None:
        return "the daemon's own account (not root)"

    return account.name


def _check_audit(config: Config) -> str:
    path = config.audit_file

    if _nearest(path) != path:
        if path.parent != config.state_dir and not os.access(path.parent, os.W_OK):
            raise CheckFailed(f"{path} cannot be made in {path.parent}")

        return f"{path} (will be made)"

    try:
        # As the keeper does: not to wait for who reads it, should it be a pipe.
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK))
    except OSError as error:
        raise CheckFailed(f"{path} cannot be written: {error.strerror}") from error

    return str(path)


def _check_daemon(config: Config) -> str | None:
    """Return how the daemon is that runs on the directory; None if none does."""
    state_dir = config.state_dir
    keeper = find_keeper(state_dir)

    if keeper is None:
        return None

    with keeper:
        facts = _settled_facts(keeper, state_dir)

        if facts is None or facts.keeper_pid != keeper.pid:
            return f"keeper {keeper.pid} runs; {state_dir / 'daemon'} does not say more"

    found = "; ".join(
        (
            f"keeper {facts.keeper_pid} runs since {facts.keeper_started_at}",
            _describe_server(facts),
            facts.status,
        )
    )

    if not _is_settled(facts):
        raise CheckFailed(f"{found}; it does not serve, and its log says why")

    return found


def _settled_facts(keeper: RunningKeeper, state_dir: Path) -> DaemonFacts | None:
    """Return how the daemon is, once it is not between two servers, or stays so."""
    deadline = time.monotonic() + _PATIENCE
    facts = DaemonFacts.read(state_dir)

    while facts is not None and not _is_settled(facts) and not keeper.has_ended:
        if time.monotonic() >= deadline:
            break

        time.sleep(_LOOK)
        facts = DaemonFacts.read(state_dir)

    return facts


def _is_settled(facts: DaemonFacts) -> bool:
    """Whether it serves, or does not as it was told to end."""
    if facts.state is DaemonState.SERVING:
        return facts.server_pid is not None

    return facts.state not in _BETWEEN


def _describe_server(facts: DaemonFacts) -> str:
    if facts.server_pid is None:
        server = "no server runs"
    else:
        server = f"server {facts.server_pid} since {facts.server_started_at}"

    return f"{server}, {_describe_restarts(facts.restarts)}{_describe_last(facts)}"


def _describe_restarts(count: int) -> str:
    if count == 0:
        return "never restarted"

    return "restarted once" if count == 1 else f"restarted {count} times"


def _describe_last(facts: DaemonFacts) -> str:
    if facts.last_exit_status is None:
        return ""

    end = describe_end(facts.last_exit_status)
    # Between two servers the status begins with it.
    return "" if facts.status.startswith(end) else f"; last, {end}"
