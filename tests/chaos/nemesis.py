"""Does what the plan has, to a daemon and to the way to it, and heals everything."""

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.chaos.clock import WallClock
from tests.chaos.history import NEMESIS, Done, History, Refused, Strike
from tests.chaos.place import SmallDisk
from tests.chaos.plan import Fault, Kind
from tests.e2e.daemon import START, Daemon
from tests.e2e.proxy import Fault as Bad
from tests.e2e.proxy import Proxy
from tests.e2e.waiting import wait_for


REST: Final = 6 << 20  # bytes that a full disk may have left: jobs start with the most
LATE: Final = 10.0  # seconds after its time that a fault is left out
AT_ONCE: Final = 0.25  # how many kills do not wait until the server serves
SHORTEST: Final = 0.05  # seconds that a connection lasts on a bad link


class Nemesis:
    """One who breaks things; all is well again when `run` has returned."""

    def __init__(
        self, daemon: Daemon, proxy: Proxy, clock: WallClock, history: History
    ) -> None:
        self._daemon = daemon
        self._proxy = proxy
        self._clock = clock
        self._history = history
        assert isinstance(daemon.place, SmallDisk)
        self._disk = daemon.place

    async def run(self, plan: Sequence[Sequence[Fault]]) -> None:
        """Do all of *plan*, each hand on its own."""
        loop = asyncio.get_running_loop()
        begin = loop.time()

        try:
            async with asyncio.TaskGroup() as hands:
                for faults in plan:
                    hands.create_task(self._follow(faults, begin))
        finally:
            self._heal()

    def restart(self) -> None:
        """Kill the server, and wait until another serves."""
        old = self._server()
        self._signal_server(signal.SIGKILL)
        wait_for(
            lambda: self._server() not in {None, old}, what="new server", within=START
        )
        self.see_server()

    def see_server(self) -> None:
        """Wait until the daemon's directory says which server there is."""
        file = self._disk.state / "server.pid"
        # Between two servers there is no such file.
        wait_for(
            lambda: file.exists() and file.read_text() == f"{self._server()}\n",
            what="pid of the server in its file",
            within=START,
        )

    async def _follow(self, faults: Sequence[Fault], begin: float) -> None:
        loop = asyncio.get_running_loop()

        for fault in faults:
            await asyncio.sleep(max(0, begin + fault.at - loop.time()))
            began = self._history.now
            is_late = loop.time() - begin - fault.at > LATE
            why_not = "it was too late" if is_late else self._why_not(fault.kind)

            if why_not is None:
                await self._strike(fault)

            self._history.note(
                began,
                NEMESIS,
                NEMESIS,
                Strike(fault),
                Done() if why_not is None else Refused("left_out", why_not),
            )

    def _why_not(self, kind: Kind) -> str | None:
        if kind is Kind.STEP_CLOCK and not self._clock.is_there:
            return "libfaketime is not installed"

        if kind is Kind.FILL_DISK and not self._disk.is_mounted:
            return "no disk could be mounted"

        return None

    async def _strike(self, fault: Fault) -> None:
        match fault.kind:
            case Kind.KILL_SERVER:
                await self._kill(fault)
            case Kind.STOP_SERVER:
                await self._stop(self._server(), fault.seconds)
            case Kind.STOP_KEEPER:
                await self._stop(self._daemon.process.pid, fault.seconds)
            case Kind.RELOAD:
                self._daemon.process.send_signal(signal.SIGHUP)
            case Kind.LOSE_DATABASE:
                self._lose_database(fault.amount)
            case Kind.STEP_CLOCK:
                self._clock.step(fault.amount)
                self._clock.tidy()
            case Kind.FILL_DISK:
                await self._fill(fault)
            case _:
                await self._spoil(fault)

    async def _spoil(self, fault: Fault) -> None:
        """Do something to the way between the clients and the daemon."""
        match fault.kind:
            case Kind.REFUSE:
                await asyncio.to_thread(self._proxy.refuse)
                await asyncio.to_thread(self._proxy.reset)
                await asyncio.sleep(fault.seconds)
                await asyncio.to_thread(self._proxy.listen)
            case Kind.SWALLOW:
                await asyncio.to_thread(self._proxy.stall)
                await asyncio.sleep(fault.seconds)
                await asyncio.to_thread(self._proxy.reset)
            case Kind.BAD_LINK:
                self._proxy.usual = Bad(after=SHORTEST + fault.amount)
                await asyncio.to_thread(self._proxy.reset)
                await asyncio.sleep(fault.seconds)
                self._proxy.usual = Bad()
            case _:
                await asyncio.to_thread(self._proxy.reset)

    async def _fill(self, fault: Fault) -> None:
        try:
            await asyncio.to_thread(self._disk.fill, int(REST * fault.amount**2))
            await asyncio.sleep(fault.seconds)
        finally:
            self._disk.empty()

    async def _kill(self, fault: Fault) -> None:
        """Kill the server, mostly once it has served for a while.

        On a busy machine it would never come to that otherwise: the keeper waits
        longer and longer for one that dies before it is ready.
        """
        if fault.amount > AT_ONCE:
            with suppress(AssertionError):  # there is none for long, then
                await asyncio.to_thread(
                    wait_for, self._serves, what="server that serves", within=LATE
                )

            await asyncio.sleep(fault.seconds)

        self._signal_server(signal.SIGKILL)

    def _serves(self) -> bool:
        log = self._daemon.log()
        return log.rfind("ready; listening") > log.rfind("; starting another")

    def _lose_database(self, amount: float) -> None:
        """Kill the server, and damage the database before there is another."""
        keeper = self._daemon.process
        keeper.send_signal(signal.SIGSTOP)

        try:
            if self._server() is not None:
                self._signal_server(signal.SIGKILL)
                self._disk.lose_database(amount)
        finally:
            keeper.send_signal(signal.SIGCONT)

    async def _stop(self, pid: int | None, seconds: float) -> None:
        if pid is None:
            return

        fd = os.pidfd_open(pid)

        try:
            _send(fd, signal.SIGSTOP)
            await asyncio.sleep(seconds)
        finally:
            _send(fd, signal.SIGCONT)
            os.close(fd)

    def _signal_server(self, number: signal.Signals) -> None:
        if (pid := self._server()) is not None:
            fd = os.pidfd_open(pid)
            _send(fd, number)
            os.close(fd)

    def _server(self) -> int | None:
        """Return the pid of the server, while there is one.

        What the keeper has in its directory is old when the disk was full.
        """
        keeper = self._daemon.process.pid
        children = Path(f"/proc/{keeper}/task/{keeper}/children").read_text()

        for pid in map(int, children.split()):
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue

            if b"teleworkerd.server" in line.split(b"\0"):
                return pid

        return None

    def _heal(self) -> None:
        self._disk.empty()
        self._clock.step(0.5)
        self._proxy.usual = Bad()
        self._proxy.refuse()
        self._proxy.listen()


def _send(fd: int, number: signal.Signals) -> None:
    try:
        signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        return
