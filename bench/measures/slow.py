"""What a reader that stops reading costs the job, and who else reads."""

import time
from functools import partial
from typing import Final

from bench.daemon import Daemon
from bench.gate import Gate
from bench.openssh import OpenSsh
from bench.plan import MIB
from bench.processes import Running, wait_until_quiet
from bench.section import Comparison, Section
from bench.series import Missing, Values, contest
from bench.setting import Setting


OURS: Final = "TeleWorker"
SSH: Final = "OpenSSH"

READS: Final = "the reader reads"
STOPPED: Final = "the reader is stopped"
OTHER: Final = "another reader, meanwhile"


def measure(setting: Setting) -> Section:
    """Measure the job with a reader that reads, and with one that does not."""
    size = setting.plan.slow
    results = contest(
        setting.plan.slow_rounds,
        {
            OURS: partial(_by_us, setting),
            SSH: setting.by_ssh(partial(_by_ssh, setting)),
        },
    )
    return Section(
        "A slow reader",
        "s",
        results,
        [
            Comparison(f"{OURS}, {STOPPED}", f"{OURS}, {READS}"),
            Comparison(f"{OURS}, {STOPPED}", f"{SSH}, {READS}"),
        ],
        [
            (
                f"How long a job takes to write {size // MIB} MiB of zeros while its"
                " reader reads, and while its reader (`twctl tail -f`, or `ssh`) is"
                " held by SIGSTOP. A second `twctl tail -f` reads the same job"
                " meanwhile; its time is until it has ended. OpenSSH has no second"
                " reader."
            ),
            (
                f"A job that has not ended after {setting.plan.blocked:g} s counts as"
                " blocked. Afterwards the reader goes on, and has to end well."
            ),
        ],
    )


def _by_us(setting: Setting) -> Values:
    with setting.daemon() as daemon:
        return _read(setting, daemon) | _hold(setting, daemon)


def _read(setting: Setting, daemon: Daemon) -> dict[str, float | Missing]:
    with setting.gate() as gate:
        job = daemon.start(*gate.behind(_command(setting)))

        with Running(daemon.twctl("tail", "-f", job)) as reader:
            _settle(gate)
            values = {READS: _time_job(gate, setting)}
            reader.finish()
            return values


def _hold(setting: Setting, daemon: Daemon) -> dict[str, float | Missing]:
    with setting.gate() as gate:
        job = daemon.start(*gate.behind(_command(setting)))
        tail = daemon.twctl("tail", "-f", job)

        with Running(tail) as held, Running(tail) as other:
            _settle(gate)

            with held.stopped():
                begin = time.perf_counter()
                values = {STOPPED: _time_job(gate, setting)}
                other.finish()
                values[OTHER] = time.perf_counter() - begin

            held.finish()
            return values


def _by_ssh(setting: Setting, ssh: OpenSsh) -> Values:
    values: dict[str, float | Missing] = {}

    with setting.gate() as gate, _session(ssh, gate, setting) as reader:
        _settle(gate)
        values[READS] = _time_job(gate, setting)
        reader.finish()

    with setting.gate() as gate, _session(ssh, gate, setting) as reader:
        _settle(gate)

        with reader.stopped():
            values[STOPPED] = _time_job(gate, setting)

        reader.finish()

    return values


def _session(ssh: OpenSsh, gate: Gate, setting: Setting) -> Running:
    return Running(ssh.ssh(*gate.behind(_command(setting))))


def _settle(gate: Gate) -> None:
    gate.await_arrival()
    wait_until_quiet()


def _command(setting: Setting) -> tuple[str, ...]:
    return ("head", "-c", str(setting.plan.slow), "/dev/zero")


def _time_job(gate: Gate, setting: Setting) -> float | Missing:
    begin = time.perf_counter()
    gate.open()

    if gate.is_done(within=setting.plan.blocked):
        return time.perf_counter() - begin

    return Missing(f"blocked: had not ended after {setting.plan.blocked:g} s")
