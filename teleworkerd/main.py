"""The `teleworkerd` command: its flags, and what becomes of them."""

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from teleworkerd import __version__
from teleworkerd.config import LOG_FORMATS, LOG_LEVELS, Config, ConfigError, load
from teleworkerd.keeper import supervisor
from teleworkerd.log import set_up


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon, or check what it would run with; return the exit status."""
    arguments = vars(_parser().parse_args(argv))
    path, check = arguments.pop("config"), arguments.pop("check")
    flags = {name: value for name, value in arguments.items() if value is not None}

    read = partial(load, path=path, flags=flags)

    try:
        config = read()

        if check:
            return _check(config)

        os.umask(0o077)
        set_up(level=config.daemon.log_level, form=config.daemon.log_format)
        return supervisor.run(config, reload=read)
    except ConfigError as error:
        sys.stderr.write(f"teleworkerd: error: {error}\n")
        return 1


def _check(config: Config) -> int:
    # The keeper forks for every job: it stays small without TLS.
    from teleworkerd.check import check  # noqa: PLC0415

    return check(config)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="teleworkerd",
        description="Run Linux commands as jobs for clients with a certificate.",
        epilog="Each flag may also be given as TELEWORKERD_<NAME> in the environment"
        " or in the configuration file.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="TOML file (default: /etc/teleworker/teleworkerd.toml if it exists)",
    )
    parser.add_argument(
        "--listen", metavar="HOST:PORT", help="port 0 is a free one (127.0.0.1:7443)"
    )
    parser.add_argument(
        "--state-dir", metavar="DIR", help="jobs and output (/var/lib/teleworker)"
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
