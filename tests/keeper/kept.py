"""A keeper in a process of its own, and a server's end to talk to it."""

import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from teleworkerd.config import Config
from teleworkerd.execution import ExitRecord, JobIdentity
from teleworkerd.jobdir import JobDirectory
from teleworkerd.keeper.messages import (
    FROM_KEEPER,
    JobExited,
    JobFailed,
    JobGone,
    JobLaunched,
    OutputGrown,
    OutputHeldUp,
    Welcome,
)
from teleworkerd.keeper.orders import Launch, RemoveJob
from teleworkerd.protocol.codec import decode, encode
from teleworkerd.protocol.fields import dump
from teleworkerd.protocol.framing import FrameDecoder
from teleworkerd.protocol.messages import Message
from teleworkerd.protocol.spec import JobSpec
from teleworkerd.protocol.status import LaunchFailure
from teleworkerd.protocol.types import Stream
from teleworkerd.settings import DaemonConfig, JobsConfig


M = TypeVar("M", bound=Message)

ROOT: Final = Path(__file__).resolve().parents[2]
SEND_BUFFER: Final = 16 << 10  # bytes that the keeper may be ahead of its server
DEADLINE: Final = 20.0  # seconds; what it bounds takes milliseconds on an idle host

# The keeper as it is, after a change of its surroundings that the test says.
CHANGED: Final = """
import sys
{change}
from teleworkerd.keeper.__main__ import main
sys.exit(main())
"""


def eventually(condition: Callable[[], object], *, what: str) -> None:
    """Return once *condition* holds; fail when it does not within the deadline."""
    end = time.monotonic() + DEADLINE

    while not condition():
        assert time.monotonic() < end, f"not within {DEADLINE} s: {what}"
        time.sleep(0.005)


def children_of(pid: int) -> set[int]:
    """Return the children of *pid*, zombies too."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return set(map(int, text.split()))


def is_alive(pid: int) -> bool:
    """Whether *pid* is a process that has not ended; a zombie has."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False

    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}


class Place:
    """Directories that other accounts may enter, as pytest's own are not."""

    def __init__(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="teleworker-keeper-"))
        self.base.chmod(0o755)
        self.state = self.base / "state"
        self.shared = self.base / "shared"
        self.shared.mkdir()
        self.shared.chmod(0o1777)

    def config(self, jobs: JobsConfig | None = None) -> Config:
        """Return a configuration that lives here."""
        daemon = DaemonConfig(state_dir=str(self.state), listen="127.0.0.1:0")
        return Config(daemon, jobs or JobsConfig())

    def script(self, text: bytes, *, name: str = "script", mode: int = 0o755) -> bytes:
        """Write a file; return its path as a command names it."""
        path = self.shared / name
        path.write_bytes(text)
        path.chmod(mode)
        return os.fsencode(path)

    def remove(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.base)


class KeptJob:
    """A job that was asked for, from where the server stands."""

    def __init__(self, keeper: "KeeperProcess", identity: JobIdentity) -> None:
        self.id = identity.id
        self.keeper = keeper
        self.directory = JobDirectory(keeper.config.jobs_dir / identity.id)

    def launched(self) -> JobLaunched:
        """Wait until the command runs."""
        return self.keeper.expect(JobLaunched, lambda message: message.job == self.id)

    def failed(self) -> LaunchFailure:
        """Wait until the keeper says that the command could not be started."""
        return self.keeper.expect_failure(self.id)

    def exited(self) -> ExitRecord:
        """Wait for the end."""
        response = self.keeper.expect(JobExited, lambda message: message.job == self.id)
        return response.record

    def held_up(self) -> str | None:
        """Wait until the keeper says that output is held up, or no more."""
        told = self.keeper.expect(OutputHeldUp, lambda held: held.job == self.id)
        return told.why

    def remove(self) -> str | None:
        """Ask for the removal; return why it is refused."""
        self.keeper.send(RemoveJob(self.id))
        return self.keeper.expect(JobGone, lambda gone: gone.job == self.id).error

    def output(self, stream: Stream = Stream.STDOUT) -> bytes:
        """Return what the spool holds now."""
        return self.directory.spool(stream).read_bytes()

    def wait_for_output(self, data: bytes) -> None:
        """Wait until the keeper has told of as much as *data*, and compare."""
        if self.output() != data:
            self.keeper.expect(
                OutputGrown,
                lambda grown: grown.job == self.id and grown.stdout >= len(data),
            )

        assert self.output() == data


class KeeperProcess:
    """`python -m teleworkerd.keeper`; *change* is Python that runs before it."""

    def __init__(self, config: Config, *, change: str = "", **options: Any) -> None:
        self.config = config
        self.log = b""
        self._is_closed = False
        self._decoder = FrameDecoder()
        self._backlog: list[Message] = []
        self._sock, theirs = socket.socketpair()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        program = ["-c", CHANGED.format(change=change)]

        with theirs:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    *(program if change else ["-m", "teleworkerd.keeper"]),
                    str(theirs.fileno()),
                    json.dumps(dump(config)),
                ],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
                cwd=ROOT,
                **options,
            )

        try:
            self.welcome = self.expect(Welcome)
        except BaseException:
            self.process.kill()
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The keeper's pid."""
        return self.process.pid

    def close(self, *, bug: bool = False) -> str:
        """End the keeper and so its jobs; return what it wrote to its log.

        There is no traceback in it, unless the test made a *bug* known.
        """
        if self._is_closed:
            return ""

        self._is_closed = True
        self._sock.close()

        try:
            _, log = self.process.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise

        self.log = log
        text: str = log.decode(errors="replace")
        assert ("Traceback" in text) is bug, text
        return text

    def send(self, message: Message) -> None:
        """Send *message* as a server would."""
        self.send_bytes(b"".join(encode(message)))

    def send_bytes(self, data: bytes) -> None:
        """Send *data* as a server would not."""
        self._sock.sendall(data)

    def launch(
        self, *command: str | bytes, owner: str = "alice", **spec: Any
    ) -> KeptJob:
        """Ask for *command*."""
        identity = JobIdentity(
            str(uuid.uuid4()), owner, str(uuid.uuid4()), time.time_ns()
        )
        self.send(Launch(identity, JobSpec(tuple(map(os.fsencode, command)), **spec)))
        return KeptJob(self, identity)

    def run(self, *command: str | bytes, **spec: Any) -> tuple[ExitRecord, bytes]:
        """Run *command* to its end; return how it ended and its stdout."""
        job = self.launch(*command, **spec)
        job.launched()
        return job.exited(), job.output()

    def expect(self, kind: type[M], fits: Callable[[M], bool] = lambda _: True) -> M:
        """Return the next message of *kind* that fits; keep the others for later."""
        end = time.monotonic() + DEADLINE

        while True:
            for position, message in enumerate(self._backlog):
                if isinstance(message, kind) and fits(message):
                    del self._backlog[position]
                    return message

            if not self.receive(end - time.monotonic()):
                raise AssertionError(f"no {kind.__name__}, only {self._backlog}")

    def expect_failure(self, job_id: str) -> LaunchFailure:
        """Wait until the keeper says that the job could not be started."""
        return self.expect(JobFailed, lambda failed: failed.job == job_id).failure

    def outcome(self, job: KeptJob) -> LaunchFailure | None:
        """Wait until *job* runs or cannot; return why it cannot."""
        found = self.expect(
            Message,
            lambda message: (
                isinstance(message, (JobLaunched, JobFailed)) and message.job == job.id
            ),
        )
        return found.failure if isinstance(found, JobFailed) else None

    def has_told(self, kind: type[Message], *, seconds: float) -> bool:
        """Whether a message of *kind* comes within so many seconds."""
        end = time.monotonic() + seconds

        while self.receive(end - time.monotonic()):
            continue

        return any(isinstance(message, kind) for message in self._backlog)

    def told(self, kind: type[M]) -> list[M]:
        """Return the messages of *kind* that have come and nobody expected."""
        return [message for message in self._backlog if isinstance(message, kind)]

    def receive(self, seconds: float) -> bool:
        """Take in what comes next; return false when there is nothing in time."""
        ready, _, _ = select.select([self._sock], [], [], max(seconds, 0))

        if not ready:
            return False

        data = self._sock.recv(1 << 16)

        if not data:
            return False

        self._decoder.feed(data)

        while (frame := self._decoder.next_frame()) is not None:
            self._backlog.append(decode(frame, FROM_KEEPER))

        return True

    def open_files(self) -> list[str]:
        """Return what the keeper's descriptors are."""
        found = []

        for entry in Path(f"/proc/{self.pid}/fd").iterdir():
            try:
                found.append(str(entry.readlink()))
            except OSError:
                continue

        return sorted(found)


def with_jobs(config: Config, **settings: Any) -> Config:
    """Return *config* with other settings in `[jobs]`."""
    return replace(config, jobs=replace(config.jobs, **settings))


def with_output(config: Config, **settings: Any) -> Config:
    """Return *config* with other settings in `[output]`."""
    return replace(config, output=replace(config.output, **settings))


def environment_of(data: bytes) -> Mapping[bytes, bytes]:
    """Return what `env -0` printed."""
    pairs = (line.partition(b"=") for line in data.split(b"\0") if line)
    return {name: value for name, _, value in pairs}
