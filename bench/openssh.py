"""The peer: an OpenSSH server of our own on loopback, cold and multiplexed."""

import getpass
import os
import shlex
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, Self

from bench.processes import (
    Program,
    end,
    family,
    output_of,
    resident,
    spawn,
    time_of,
    wait_for,
)
from bench.series import MeasurementError, Missing


COLD: Final = "cold"  # a connection for each command
MULTIPLEXED: Final = "multiplexed"  # one connection, which stands already
START: Final = 20.0  # seconds

# The separated process of sshd wants it, and Debian makes it when ssh.service starts.
PRIVILEGE_SEPARATION: Final = Path("/run/sshd")

# HOME: what an account's own .bashrc does is no cost of OpenSSH.
SERVER: Final = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {base}/host
AuthorizedKeysFile {base}/user.pub
PidFile none
LogLevel ERROR
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UsePAM no
UseDNS no
PrintMotd no
SetEnv HOME={base}
MaxStartups 1000
MaxSessions 1000
"""

CLIENT: Final = """\
Host {cold} {multiplexed}
  HostName 127.0.0.1
  Port {port}
  User {user}
  IdentityFile {base}/user
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile {base}/known
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  BatchMode yes
  LogLevel ERROR
Host {multiplexed}
  ControlPath {base}/control
"""


class OpenSsh:
    """One running sshd; it and what it started end with the `with` block."""

    def __init__(self, sshd: str) -> None:
        self._exits = ExitStack()
        self._master: subprocess.Popen[bytes] | None = None
        # Not below the run's own directory: a socket's path has to be short.
        base = Path(tempfile.mkdtemp(prefix="teleworker-bench-ssh-", dir="/tmp"))
        self._exits.callback(shutil.rmtree, base)
        self._base = base
        self._port = _free_port()
        self._write_settings()

        if os.geteuid() == 0 and not PRIVILEGE_SEPARATION.exists():
            PRIVILEGE_SEPARATION.mkdir(mode=0o755)
            self._exits.callback(_remove_if_empty, PRIVILEGE_SEPARATION)

        program = Program((sshd, "-D", "-e", "-f", f"{base}/server"))
        self._log = base / "log"
        self._sshd = spawn(program, log=self._log)
        self._exits.callback(end, self._sshd)

        try:
            wait_for(self._answers, what="answer of sshd", within=START)
            time_of(self.ssh("true"))
        except BaseException:
            self._exits.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    def ssh(
        self, *command: str, host: str = COLD, options: Sequence[str] = ()
    ) -> Program:
        """Return the call of `ssh` that runs *command*.

        The first one to the host `multiplexed` makes the connection that all
        others use, before it returns.
        """
        if host == MULTIPLEXED:
            self._connect_master()

        call = ("ssh", "-F", f"{self._base}/client", *options, host)
        return Program((*call, "--", shlex.join(command)))

    def resident(self) -> int:
        """Return the memory of sshd and its sessions in bytes."""
        return resident({self._sshd.pid} | family(self._sshd.pid))

    def cipher(self) -> str:
        """Return what the two sides agree on when nobody says anything."""
        log = self._base / "verbose"
        time_of(self.ssh("true", options=["-v", "-E", str(log)]))
        lines = [
            line.partition("cipher: ")[2].split()[0]
            for line in log.read_text().splitlines()
            if "server->client cipher: " in line
        ]
        return lines[0] if lines else "unknown"

    def _write_settings(self) -> None:
        base = self._base

        for name in ("host", "user"):
            key = ("-q", "-t", "ed25519", "-N", "", "-f", str(base / name))
            output_of(Program(("ssh-keygen", *key)))

        names = {"base": base, "port": self._port, "user": getpass.getuser()}
        hosts = {"cold": COLD, "multiplexed": MULTIPLEXED}
        (base / "server").write_text(SERVER.format_map(names))
        (base / "client").write_text(CLIENT.format_map(names | hosts))
        host = (base / "host.pub").read_text()
        (base / "known").write_text(f"[127.0.0.1]:{self._port} {host}")

    def _connect_master(self) -> None:
        if self._master is not None:
            return

        options = ("-M", "-N", "-o", "ControlPersist=no")
        call = ("ssh", "-F", f"{self._base}/client", *options, MULTIPLEXED)
        self._master = spawn(Program(call), log=self._base / "master")
        self._exits.callback(end, self._master)
        control = self._base / "control"
        wait_for(control.exists, what="multiplexed connection of ssh", within=START)

    def _answers(self) -> bool:
        if self._sshd.poll() is not None:
            why = self._log.read_text().strip()
            raise MeasurementError(f"sshd did not start: {why}")

        with suppress(OSError), socket.create_connection(("127.0.0.1", self._port)):
            return True

        return False


def open_ssh() -> OpenSsh | Missing:
    """Start sshd with keys and settings of its own, or say why that cannot be."""
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")

    if sshd is None:
        return Missing("missing: Debian's openssh-server is not installed")

    if shutil.which("ssh") is None:
        return Missing("missing: Debian's openssh-client is not installed")

    try:
        return OpenSsh(sshd)
    except MeasurementError as error:
        return Missing(f"missing: {error}")


def version() -> str:
    """Return what `ssh -V` says."""
    if shutil.which("ssh") is None:
        return "not installed"

    return output_of(Program(("sh", "-c", "ssh -V 2>&1")))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _remove_if_empty(directory: Path) -> None:
    with suppress(OSError):
        directory.rmdir()
