"""How long calls of `twctl` that ask once take until there is a prompt again."""

import sys
from functools import partial
from typing import Final

from bench.openssh import COLD, MULTIPLEXED, OpenSsh
from bench.processes import Program, time_of
from bench.section import Comparison, Section
from bench.series import Values, contest
from bench.setting import Setting


OURS: Final = "`twctl run -- true`"
STATUS: Final = "`twctl status JOB`"
SSH: Final = "`ssh HOST true`, multiplexed"
SSH_COLD: Final = "`ssh HOST true`"
IMPORT: Final = "limit: the import"

IMPORTS: Final = Program((sys.executable, "-c", "import typer, ssl, msgpack"))


def measure(setting: Setting) -> Section:
    """Measure the whole call, as a shell would see it."""
    with setting.daemon() as daemon:
        time_of(daemon.twctl("run", "--name", "known", "--", "true"))
        results = contest(
            setting.plan.start_rounds,
            {
                OURS: partial(_time, daemon.twctl("run", "--", "true")),
                STATUS: partial(_time, daemon.twctl("status", "known")),
                SSH: setting.by_ssh(partial(_by_ssh, MULTIPLEXED)),
                SSH_COLD: setting.by_ssh(partial(_by_ssh, COLD)),
                IMPORT: partial(_time, IMPORTS),
            },
        )

    return Section(
        "A detached start",
        "ms",
        results,
        [
            Comparison(OURS, IMPORT, at_most=1.5),
            Comparison(STATUS, IMPORT, at_most=1.5),
            Comparison(OURS, SSH),
            Comparison(OURS, SSH_COLD),
        ],
        [
            (
                "The whole call of `python -m twctl run -- true`, which connects,"
                " starts the job, prints its ID and ends, and of `python -m twctl"
                " status JOB`. The limit is `python -c 'import typer, ssl, msgpack'`:"
                " what they have to load before they can begin."
            ),
        ],
    )


def _time(program: Program) -> Values:
    return {"": time_of(program) * 1000}


def _by_ssh(host: str, ssh: OpenSsh) -> Values:
    return _time(ssh.ssh("true", host=host))
