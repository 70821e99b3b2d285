"""The machine that the documents speak of, made of namespaces and thrown away.

It has the host's programs and a network, `/etc`, `/var/lib`, `/srv` and processes of
its own, so that what a document says can be done word for word.
"""

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

import pexpect

from tests.e2e.daemon import END, START, UUID, Place, clean_environment
from tests.e2e.groups import left_of
from tests.e2e.pki import ROOT
from tests.e2e.waiting import PATIENCE, wait_for


NAME: Final = "worker.example.org"
SPARE: Final = "spare.example.org"
CHECKOUT: Final = "/srv/teleworker"
WITHIN: Final = 30 * PATIENCE  # seconds for one command; most take some tenths
PROMPT: Final = re.compile(rb"\x1e(\d+)\x1f")
NAMESPACES: Final = [
    "unshare",
    "--mount",
    "--net",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
]

# What is in /srv/app, a project that takes a moment to build.
APP: Final = {
    "Makefile": """\
all:
\t@echo compiling; sleep 0.3; echo 'main.c:7: warning: unused variable' >&2
\t@sleep 0.3; echo linking; echo done
""",
    "migrate": "#!/bin/sh\necho 3 tables migrated\n",
}

# $1 is the directory that holds what is written.
SETUP: Final = f"""\
set -eu
mount -t tmpfs writes "$1/writes"
ip link set lo up
for tree in /etc /home /srv /var/lib; do
    mkdir -p "$1/writes/upper$tree" "$1/writes/work$tree"
    mount -t overlay overlay "$tree" \\
        -o "lowerdir=$tree,upperdir=$1/writes/upper$tree,workdir=$1/writes/work$tree"
done
echo "127.0.0.1 localhost {NAME} {SPARE}" >/etc/hosts
mkdir -p /etc/teleworker /var/lib/teleworker "$1/state"
mount --bind "$1/state" /var/lib/teleworker
mkdir -p /srv/app
cp -r "$1/app/." /srv/app
chown -R nobody: /srv/app
mkdir -p /srv/teleworker
mount --bind "$1/checkout" /srv/teleworker
mkdir -p /home/alice
mount --bind "$1/home" /home/alice
cd
exec env PS1=$'\\x1e$?\\x1f' PS2= bash --norc --noprofile --noediting -i
"""


class Worker:
    """A shell at a terminal on that machine, and the daemon that it starts."""

    def __init__(self) -> None:
        """Begin a session in a home directory."""
        self.place = Place()
        base = self.place.base
        (base / "app").mkdir()

        for name, content in APP.items():
            (base / "app" / name).write_text(content)
            (base / "app" / name).chmod(0o755)

        (base / "checkout" / "certs").mkdir(parents=True)
        shutil.copy(ROOT / "gen_certs.sh", base / "checkout")
        (base / "home").mkdir()
        (base / "writes").mkdir()
        environment: Any = clean_environment() | {
            "HOME": "/home/alice",
            "PATH": f"{Path(sys.executable).parent}:{os.defpath}:/usr/sbin:/sbin",
            "LC_ALL": "C.UTF-8",
            "TERM": "xterm",
            "NO_COLOR": "1",
        }
        environment.pop("XDG_CONFIG_HOME", None)
        self.shell: pexpect.spawn[bytes] = pexpect.spawn(
            NAMESPACES[0],
            [*NAMESPACES[1:], "bash", "-c", SETUP, "setup", str(base)],
            env=environment,
            timeout=WITHIN,
            dimensions=(40, 100),
            echo=False,
        )
        self.shell.delaybeforesend = None
        self._seen = b""  # of what a command has printed so far

        try:
            self.shell.expect(PROMPT)
        except BaseException:
            self.shell.close(force=True)
            self.place.remove()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the daemon in good order, and all else; remove everything."""
        jobs = {
            path.name
            for path in (self.place.base / "state").rglob("*")
            if UUID.fullmatch(path.name)
        }

        try:
            if kind is None:
                self.stop_daemon()
                assert left_of(jobs) == []
        finally:
            self.shell.close(force=True)

            for directory in left_of(jobs):
                with contextlib.suppress(OSError):
                    directory.rmdir()

            self.place.remove()

    def serve_alice(self) -> None:
        """Start a daemon, and give alice contexts of it by two names."""
        certs = "/etc/teleworker/certs"
        hosts = f"--host {NAME} --host {SPARE}"
        self.must(f"{CHECKOUT}/gen_certs.sh --dir {certs} {hosts} alice")
        self.start_daemon("teleworkerd --listen 0.0.0.0:7443")
        self.must("mkdir -p ~/.config/twctl && cd ~/.config/twctl")
        self.must(f"cp {certs}/{{ca,alice,alice-key}}.pem .")
        files = "--ca ca.pem --cert alice.pem --key alice-key.pem"
        self.must(f"twctl context set work --host {NAME}:7443 {files}")
        self.must(f"twctl context set spare --host {SPARE}:7443 {files}")
        self.must("cd")

    def start_daemon(self, command: str) -> None:
        """Start it, and wait until it serves."""
        self.do(f"({command} 2>>{self.place.base}/log &)")
        address = self.place.base / "state" / "address"
        wait_for(address.exists, what="address file", within=START)

    def log(self) -> str:
        """Return what the daemon has logged so far."""
        return (self.place.base / "log").read_text()

    def stop_daemon(self) -> None:
        """End it, if it runs, and wait for that."""
        pid = self.place.base / "state" / "keeper.pid"

        if pid.exists():
            self.do(f"kill {pid.read_text().strip()}")
            wait_for(lambda: not pid.exists(), what="end of the daemon", within=END)

    def do(self, command: str) -> tuple[str, int]:
        """Type *command*; return what it printed, and its exit code."""
        self.type(command)
        return self.prompt()

    def must(self, command: str) -> None:
        """Type *command*, which must succeed."""
        printed, code = self.do(command)
        assert code == 0, f"{command}: {printed}"

    def type(self, command: str) -> None:
        """Type *command*."""
        for line in command.splitlines():
            self.shell.sendline(line)

    def prompt(self) -> tuple[str, int]:
        """Wait for the prompt; return what was printed before it, and the exit code."""
        self.shell.expect(PROMPT)
        assert isinstance(self.shell.match, re.Match)
        printed = self._seen + (self.shell.before or b"")
        self._seen = b""
        lines = re.sub(r"\r+\n", "\n", printed.decode())
        return lines, int(self.shell.match[1])

    def interrupt(self, pattern: str) -> None:
        """Press Ctrl-C once *pattern* has been printed."""
        self.shell.expect(pattern.replace(r"\n", r"\r\n").encode())
        self.shell.sendintr()

    def prepare(self, command: str) -> None:
        """Have root ready to do *command* on the worker."""
        now = self.place.base / "now"
        now.unlink(missing_ok=True)
        self.do(f"((until [ -e {now} ]; do sleep 0.02; done; {command}) &)")

    def go(self, prompt: str) -> None:
        """Have root do it, once *prompt* is there."""
        self._await(prompt)
        (self.place.base / "now").touch()

    def press(self, prompt: str, keys: str) -> None:
        """Press *keys* once *prompt* is there."""
        self._await(prompt)
        self.shell.send(keys.encode())

    def script(self, text: str) -> tuple[str, int]:
        """Run *text* as a script; return what it printed, and its exit code."""
        out = self.place.base / "out"
        _, code = self.do(f"{self._script(text)} >{out} 2>&1")
        return out.read_text(), code

    @contextlib.contextmanager
    def running(self, text: str) -> Iterator[Path]:
        """Have *text* run as a script meanwhile; yields where what it prints is."""
        out = self.place.base / "out"
        out.touch()
        pid = self.place.base / "pid"
        self.must(f"(setsid {self._script(text)} >>{out} 2>/dev/null & echo $! >{pid})")
        yield out
        self.must(f"kill -- -{pid.read_text()}")

    def _script(self, text: str) -> str:
        file = self.place.base / "script"
        file.write_text(text)
        return f"bash -euo pipefail {file} </dev/null"

    def _await(self, text: str) -> None:
        self.shell.expect_exact(text.encode())
        self._seen += (self.shell.before or b"") + text.encode()
