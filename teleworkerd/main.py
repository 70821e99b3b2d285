"""The `teleworkerd` command: its flags, and what becomes of them."""

import argparse
import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from teleworkerd import __version__
from teleworkerd.config import Config, find_file, guess, load, unknown_variables
from teleworkerd.daemon import control, supervisor
from teleworkerd.log import set_up
from teleworkerd.protocol.errors import TeleworkerError
from teleworkerd.settings import LOG_FORMATS, LOG_LEVELS, ConfigError
from teleworkerd.spare import lack_of


log = logging.getLogger(__name__)

_WITH_VALUE: Final = (["--config"], ["--state-dir"])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon, or look at one, as *argv* says; return the exit status."""
    given = sys.argv[1:] if argv is None else argv

    if given[:1] == ["reload"]:
        return _reload(given[1:])

    if given[-1:] == ["reload"] and given[-2:-1] not in _WITH_VALUE:
        # As it is often typed: flags that both have come first.
        return _reload(given[:-1])

    arguments = _parse(given)
    path, check = arguments.pop("config"), arguments.pop("check")
    flags = {name: value for name, value in arguments.items() if value is not None}

    read = partial(load, path=path, flags=flags)

    try:
        config = read()

        if check:
            return _check(config)

        # What root writes of jobs, the group of the server may read.
        os.umask(0o027 if os.geteuid() == 0 else 0o077)
        faulthandler.register(signal.SIGQUIT)
        set_up(level=config.daemon.log_level, form=config.daemon.log_format)
        return _run(config, path, read)
    except ConfigError as error:
        sys.stderr.write(f"teleworkerd: error: {error}\n")
        return 1
    except (OSError, MemoryError) as error:
        if (lack := lack_of(error)) is None:
            raise

        sys.stderr.write(f"teleworkerd: error: {lack}\n")
        return 1


def _run(config: Config, path: Path | None, read: Callable[[], Config]) -> int:
    log.info(
        "teleworkerd %s, pid %d; configuration file: %s; state directory: %s",
        __version__,
        os.getpid(),
        find_file(path) or "none",
        config.state_dir,
    )

    for unknown in unknown_variables():
        log.warning("%s", unknown)

    status = supervisor.run(config, reload=read)

    if status == 0:
        log.info("ended")

    return status


def _reload(argv: Sequence[str]) -> int:
    arguments = vars(_reload_parser().parse_args(argv))
    path, restart = arguments.pop("config"), arguments.pop("restart_server")
    flags = {name: value for name, value in arguments.items() if value is not None}

    try:
        config = load(path=path, flags=flags)
        done = control.reload(config.state_dir, restart_server=restart)
    except TeleworkerError as error:
        sys.stderr.write(f"teleworkerd: error: {error}\n")
        return 1

    sys.stdout.write(f"{done}\n")
    return 0


def _check(config: Config) -> int:
    # The keeper forks for every job: it stays small without TLS.
    from teleworkerd.check import check  # noqa: PLC0415

    return check(config)


def _parse(given: Sequence[str]) -> dict[str, Any]:
    parser = _parser()
    arguments, rest = parser.parse_known_args(given)

    if rest:
        meant = guess(rest[0], ["reload"])
        parser.error(f"unrecognized arguments: {' '.join(rest)}{meant}")

    return vars(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="teleworkerd",
        usage="%(prog)s [--config FILE] [--state-dir DIR] [--listen HOST:PORT]"
        " [--certs DIR]\n"
        "                   [--log-level L] [--log-format text|json] [--check]"
        " [--version]\n"
        "       %(prog)s reload [--config FILE] [--state-dir DIR] [--restart-server]",
        description="Run Linux commands as jobs for clients with a certificate.",
        epilog="Each flag may also be given as TELEWORKERD_<NAME> in the environment"
        " or in the configuration file. 'teleworkerd reload' has one that runs read"
        " its configuration again; 'teleworkerd reload --help' has more.",
        allow_abbrev=False,
    )
    _add_place(parser)
    parser.add_argument(
        "--listen", metavar="HOST:PORT", help="port 0 is a free one (127.0.0.1:7443)"
    )
    parser.add_argument(
        "--certs",
        metavar="DIR",
        help="ca.pem, server.pem, server-key.pem (/etc/teleworker/certs)",
    )
    parser.add_argument("--log-level", choices=LOG_LEVELS, help="(info)")
    parser.add_argument("--log-format", choices=LOG_FORMATS, help="(text)")
    parser.add_argument(
        "--check", action="store_true", help="look at everything, start nothing"
    )
    parser.add_argument(
        "--version", action="version", version=f"teleworkerd {__version__}"
    )
    return parser


def _reload_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="teleworkerd reload",
        description="Have the daemon that runs read its configuration, certificates"
        " and crl.pem again. When something is wrong with them, nothing changes.",
        allow_abbrev=False,
    )
    _add_place(parser)
    parser.add_argument(
        "--restart-server",
        action="store_true",
        help="then start a new server process in the place of the old; jobs go on",
    )
    return parser


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="TOML file (default: /etc/teleworker/teleworkerd.toml if it exists)",
    )
    parser.add_argument(
        "--state-dir", metavar="DIR", help="jobs and output (/var/lib/teleworker)"
    )
