"""One job, one reader: how fast its output arrives."""

import subprocess
import sys
import time
from functools import partial
from typing import Final

from bench.openssh import COLD, MULTIPLEXED, OpenSsh
from bench.plan import MIB
from bench.processes import Program, Running, output_of, time_of
from bench.section import Comparison, Section
from bench.series import Missing, Values, contest
from bench.setting import Setting


OURS: Final = "TeleWorker"
SSH: Final = "OpenSSH, multiplexed"
SSH_COLD: Final = "OpenSSH"
SSH_FASTER: Final = "OpenSSH, aes128-gcm"
TLS: Final = "limit: Python ssl"
PIPE: Final = "limit: pipe"


def measure_zeros(setting: Setting) -> Section:
    """Measure a job that writes as fast as it can."""
    size = setting.plan.stream
    command = ("head", "-c", str(size), "/dev/zero")
    return _measure(setting, f"One stream: {size // MIB} MiB of zeros", command, size)


def measure_lines(setting: Setting) -> Section:
    """Measure a job that writes lines."""
    last = setting.plan.lines
    size = sequence_size(last)
    title = f"One stream: `seq 1 {last}`, {size // MIB} MiB"
    return _measure(setting, title, ("seq", "1", str(last)), size)


def sequence_size(last: int) -> int:
    """Return how many bytes `seq 1 LAST` writes."""
    digits = range(1, len(str(last)) + 1)
    shortest = (int("1" + "0" * (count - 1)) for count in digits)
    return last + sum(last - first + 1 for first in shortest)


def _measure(
    setting: Setting, title: str, command: tuple[str, ...], size: int
) -> Section:
    ssh = setting.ssh
    faster = ("-c", "aes128-gcm@openssh.com")
    contestants = {
        OURS: partial(_by_us, setting, command, size),
        SSH: setting.by_ssh(partial(_by_ssh, command, size, MULTIPLEXED, ())),
        SSH_COLD: setting.by_ssh(partial(_by_ssh, command, size, COLD, ())),
        SSH_FASTER: setting.by_ssh(partial(_by_ssh, command, size, COLD, faster)),
        TLS: partial(_by_tls, setting, size),
        PIPE: partial(_by_pipe, command, size),
    }
    cipher = "unknown" if isinstance(ssh, Missing) else ssh.cipher()
    return Section(
        title,
        "MiB/s",
        contest(setting.plan.rounds, contestants),
        [
            Comparison(OURS, SSH, at_least=2),
            Comparison(OURS, SSH_COLD),
            Comparison(OURS, SSH_FASTER),
            Comparison(OURS, TLS, at_least=0.6),
            Comparison(OURS, PIPE),
        ],
        [
            (
                f"`twctl run -f -- {' '.join(command)} > /dev/null` beside the same by"
                " `ssh`. The time is that of the whole call, with the start of the"
                " program and, but for multiplexed ssh, of the connection."
            ),
            (
                f"OpenSSH encrypts by its default, {cipher}; the line aes128-gcm shows"
                " what it could do. The limits move as many bytes: blocking sockets of"
                " Python's `ssl` in two processes, handshake included; and the command"
                " into a pipe whose reader throws everything away."
            ),
        ],
    )


def _by_us(setting: Setting, command: tuple[str, ...], size: int) -> Values:
    with setting.daemon() as daemon:
        return _rate(size, time_of(daemon.twctl("run", "-f", "--", *command)))


def _by_ssh(
    command: tuple[str, ...],
    size: int,
    host: str,
    options: tuple[str, ...],
    ssh: OpenSsh,
) -> Values:
    return _rate(size, time_of(ssh.ssh(*command, host=host, options=options)))


def _by_tls(setting: Setting, size: int) -> Values:
    call = (sys.executable, "-m", "bench.limits.tls")
    directory = str(setting.certificates.directory)
    return _rate(size, float(output_of(Program((*call, directory, str(size))))))


def _by_pipe(command: tuple[str, ...], size: int) -> Values:
    begin = time.perf_counter()

    with Running(Program(command), stdout=subprocess.PIPE) as running:
        buffer = bytearray(MIB)

        with open(running.fd, "rb", buffering=0, closefd=False) as pipe:
            while pipe.readinto(buffer):
                pass

        running.finish()
        return _rate(size, time.perf_counter() - begin)


def _rate(size: int, seconds: float) -> Values:
    return {"": size / MIB / seconds}
