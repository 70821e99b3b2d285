"""One server after another: started, watched, and replaced."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from teleworkerd import __version__, handover
from teleworkerd.config import Config
from teleworkerd.daemon.backoff import Backoff
from teleworkerd.daemon.facts import DaemonState, describe_end, timestamp
from teleworkerd.daemon.listening import Listeners
from teleworkerd.daemon.notify import READY
from teleworkerd.daemon.report import Report
from teleworkerd.daemon.watchdog import Watchdog
from teleworkerd.keeper.descriptors import open_descriptors
from teleworkerd.keeper.keeper import Keeper
from teleworkerd.keeper.messages import Leave, Probe, Shutdown
from teleworkerd.keeper.orders import Alive
from teleworkerd.keeper.spawn import spawn
from teleworkerd.keeper.state_dir import StateDirectory


log = logging.getLogger(__name__)

GOODBYE: Final = 10.0  # seconds that a server has to leave, beyond any jobs' grace

_START: Final = 10  # times as long as one that serves it may be silent at first


class Wanted(Enum):
    """What is to become of the server."""

    SERVE = auto()
    REPLACE = auto()  # another is to follow, and to serve
    LEAVE = auto()  # none is to follow; jobs go on
    END = auto()  # nor do jobs


class Phase(Enum):
    """What there is of a server."""

    NONE = auto()
    MADE = auto()  # or about to be: nobody can talk to it yet
    STARTING = auto()
    SERVING = auto()
    LEAVING = auto()  # it was told to


_ORDERS: Final = {
    Wanted.REPLACE: Leave(),
    Wanted.LEAVE: Leave(),
    Wanted.END: Shutdown(),
}


@dataclass(frozen=True, slots=True)
class _End:
    """How a server ended, and for how many seconds it had been ready.

    Without a status none could be started, without seconds it never was ready.
    """

    status: int | None = None
    served: float | None = None

    def __str__(self) -> str:
        if self.status is None:
            return "no server could be started"

        return describe_end(self.status)


class Servers:
    """Keeps a server running on *listeners*, which is the one of *keeper*.

    `settled` is set while one serves, and while there is none.
    """

    def __init__(
        self,
        keeper: Keeper,
        directory: StateDirectory,
        listeners: Listeners,
        report: Report,
    ) -> None:
        self.settled = asyncio.Event()
        self._keeper = keeper
        self._directory = directory
        self._listeners = listeners
        self._report = report
        self._backoff = Backoff()
        self._wanted = Wanted.SERVE
        self._told = asyncio.Event()  # what is wanted: it ends a pause
        self._phase = Phase.NONE
        self._process: asyncio.subprocess.Process | None = None
        self._files: socket.socket | None = None  # by which it gets the certificates
        self._ready_at: float | None = None
        self._was_ready = False  # any, ever
        self._watchdog: Watchdog | None = None
        self._deadline: float | None = None  # by when it must be gone
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_serving(self) -> bool:
        """Whether there is a server that takes clients."""
        return self._phase is Phase.SERVING

    async def run(self) -> int:
        """Have a server while one is wanted; return 0, or 1 if none ever was ready."""
        while self._is_wanted():
            self._wanted = Wanted.SERVE
            end = await self._run_one()
            self._was_ready = self._was_ready or end.served is not None

            if self._wanted is Wanted.SERVE and not self._was_ready:
                return 1

            if self._is_wanted():
                await self._follow(end)

        return 0

    def want(self, wanted: Wanted, *, within: float) -> None:
        """Have it so; a server that is not to stay must be gone after so many seconds.

        Then it is ended by force.
        """
        self._wanted = wanted
        self._told.set()

        if self._phase is not Phase.NONE:
            self._give(within)

            # One that is only made is told as soon as it can be.
            if self._phase is not Phase.MADE:
                self._order()

    def give_files(self, config: Config) -> None:
        """Give the server the certificate files of *config*; it is told of them later.

        It may not open them itself.
        """
        if self._files is not None:
            handover.give(self._files, config.certs)

    def kill(self) -> None:
        """End the server by force, also one that is only about to be made."""
        if self._phase is Phase.MADE:
            self._give(0.0)

        self._kill()

    def answered(self, answer: Alive) -> None:
        """Note that the server has answered a probe."""
        if self._watchdog is not None:
            self._watchdog.answered(answer.number)

    def _is_wanted(self) -> bool:
        return self._wanted in (Wanted.SERVE, Wanted.REPLACE)

    async def _follow(self, end: _End) -> None:
        """Say how the server ended, and wait until it is time for another."""
        if self._wanted is Wanted.REPLACE and end.status == 0:
            log.info("the server has left; starting another")
            self._tell_restart("the server has left; starting another, jobs go on")
            return

        log.error("%s; starting another", end)

        if self._wanted is Wanted.SERVE:
            pause = self._backoff.pause(end.served)
            self._tell_restart(f"{end}; starting another in {pause:g} s, jobs go on")
            self._told.clear()

            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), pause)

        if self._is_wanted():
            self._tell_restart(f"{end}; starting another, jobs go on")

    def _tell_restart(self, text: str) -> None:
        self._report.tell(text, state=DaemonState.RESTARTING)

    async def _run_one(self) -> _End:
        self._enter(Phase.MADE)

        try:
            return await self._start_one()
        except OSError as error:
            log.error("no server can be started: %s", error)
        except Exception:
            # Whatever it is, it is not worth the jobs.
            log.exception("no server can be started")
        finally:
            self._deadline = None
            self._set_timer()
            self._enter(Phase.NONE)

        return _End()

    async def _start_one(self) -> _End:
        self._listeners.resume(self._keeper.config.server.backlog)
        ours, theirs = socket.socketpair()
        giving, taking = handover.pair()
        descriptors = (
            theirs.fileno(),
            taking.fileno(),
            *(sock.fileno() for sock in self._listeners.sockets),
        )

        with (
            theirs,
            taking,
            self._keeper.orphans.launching(),
            contextlib.ExitStack() as stack,
        ):
            stack.callback(ours.close)
            stack.callback(giving.close)
            process = await spawn(
                "teleworkerd.server",
                # The program may have been replaced since it was read for us.
                __version__,
                *map(str, descriptors),
                descriptors=descriptors,
                own_session=True,
                directory=self._keeper.config.state_dir,
            )
            self._keeper.orphans.keep(process.pid)
            stack.pop_all()

        try:
            return await self._attend(process, ours, giving)
        except Exception:
            # Nobody would tell it anything any more.
            _kill(process)
            await process.wait()
            raise
        finally:
            self._files = None
            giving.close()
            self._process = None
            self._keeper.orphans.forget(process.pid)
            self._directory.forget_server()
            self._report.note(server_pid=None, last_exit_status=process.returncode)

    async def _attend(
        self,
        process: asyncio.subprocess.Process,
        channel: socket.socket,
        files: socket.socket,
    ) -> _End:
        self._process = process
        self._files = files
        self._ready_at = None
        self._set_timer()
        self._directory.write_pid("server", process.pid)
        self._report.note(
            server_pid=process.pid,
            server_started_at=timestamp(),
            restarts=self._keeper.servers,
        )
        self.give_files(self._keeper.config)
        await self._keeper.connect(channel)
        self._connected()
        serving = asyncio.create_task(self._serve())
        watching = asyncio.create_task(self._watch())
        outliving = asyncio.create_task(self._end_without_channel())
        tasks = (serving, watching, outliving)

        for task in tasks:
            task.add_done_callback(self._done)

        try:
            status = await process.wait()
            # What it said last still counts.
            await self._keeper.disconnected.wait()
        finally:
            for task in tasks:
                task.cancel()

        return _End(status, self._served())

    def _connected(self) -> None:
        """Begin to watch the server, or tell it what was wanted meanwhile."""
        if self._wanted is Wanted.SERVE:
            self._enter(Phase.STARTING)
        else:
            self._order()

    async def _serve(self) -> None:
        """Say that the server is ready once it is."""
        await self._keeper.ready.wait()
        self._ready_at = time.monotonic()

        if self._phase is not Phase.STARTING:
            return

        addresses = ", ".join(self._listeners.addresses)
        self._directory.write_address(self._listeners.addresses[0])
        log.info("ready; listening on %s", addresses)
        text = f"serving on {addresses}"
        self._report.tell(text, READY, state=DaemonState.SERVING)
        self._enter(Phase.SERVING)

    async def _watch(self) -> None:
        limit = self._patience()
        watchdog = self._watchdog = Watchdog(limit, now=time.monotonic())

        while not watchdog.is_over:
            if number := watchdog.tick(time.monotonic()):
                self._keeper.ask(Probe(number, open_descriptors()))

            await asyncio.sleep(watchdog.interval)

            if limit != self._patience():
                limit = self._patience()
                watchdog.allow(limit)

        # One that leaves has a deadline of its own.
        if self._phase is not Phase.LEAVING:
            log.error("the server has answered nothing for %g s: replaced", limit)
            self._kill()

    async def _end_without_channel(self) -> None:
        """End a server that goes on after it has lost us, or was cut off."""
        await self._keeper.disconnected.wait()

        if self._deadline is None:
            self._give(GOODBYE)

    def _patience(self) -> float:
        """For how long it may be silent: at first it reads what there is of jobs."""
        limit = self._keeper.config.server.watchdog
        return limit if self._phase is Phase.SERVING else _START * limit

    def _served(self) -> float | None:
        if self._ready_at is not None:
            return time.monotonic() - self._ready_at

        return 0.0 if self._keeper.ready.is_set() else None

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the server is not attended to: replaced", exc_info=error)
            self._kill()

    def _enter(self, phase: Phase) -> None:
        self._phase = phase

        if phase in (Phase.NONE, Phase.SERVING):
            self.settled.set()
        else:
            self.settled.clear()

    def _order(self) -> None:
        """Pass on what is wanted."""
        self._enter(Phase.LEAVING)

        if not self._keeper.ask(_ORDERS[self._wanted]):
            self._kill()

    def _give(self, seconds: float) -> None:
        """Have the server ended by force after *seconds*."""
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._set_timer()

    def _set_timer(self) -> None:
        """Set it for the deadline, if there is one, and somebody whom it is for."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

        if self._deadline is not None and self._process is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(self._deadline, self._too_late)

    def _too_late(self) -> None:
        log.error("the server does not leave; it is ended by force")
        self._kill()

    def _kill(self) -> None:
        if self._process is not None:
            _kill(self._process)


def _kill(process: asyncio.subprocess.Process) -> None:
    # Not by its method, which may take the exit status from who waits for it.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
