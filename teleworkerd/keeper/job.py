"""One job in the keeper's hands, from its directory to its exit record."""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Final, Protocol

from teleworkerd.ceilings import timeout_of
from teleworkerd.config import Config
from teleworkerd.execution import ExitRecord, InputFacts, Launched, LossRecord
from teleworkerd.failpoints import failpoint
from teleworkerd.jobdir import JobDirectory
from teleworkerd.keeper.ending import (
    KILL_TIMEOUT,
    RETRY,
    end_tree,
    remove_groups,
    tree_ended,
    who_hangs,
)
from teleworkerd.keeper.exits import End, exit_record, write_exit
from teleworkerd.keeper.main_process import MainProcess
from teleworkerd.keeper.messages import InputMoved, KeptJob, TreeUnkillable
from teleworkerd.keeper.orders import Launch
from teleworkerd.keeper.quota import Bound, Shortage
from teleworkerd.keeper.spools import Spools
from teleworkerd.keeper.start import Means, Start, Started
from teleworkerd.keeper.stdio import InputOrder
from teleworkerd.protocol.messages import Message
from teleworkerd.protocol.status import Usage
from teleworkerd.protocol.types import Reason


log = logging.getLogger(__name__)

FAILED: Final = "the keeper failed while it ran; the daemon's log says why"

_STOPPING: Final = frozenset({Reason.KILLED, Reason.SHUTDOWN})


class JobWatcher(Protocol):
    """Who hears of a job what cannot wait for its end."""

    def job_changed(self, job: "RunningJob") -> None:
        """There is something in its `news`."""

    def forget_child(self, pid: int) -> None:
        """Its main process is reaped: the kernel may give *pid* to another."""


class RunningJob:
    """A job between its launch and its burial; *watcher* hears how it goes on.

    It runs as the Unix account *user*, where there is a choice.

    Call `start` once, then `finish` once. `signal` and `stop` may come at any
    time, before the start too: they then wait for it. Once its tree
    has ended, or it is given up, they do nothing.
    """

    def __init__(
        self,
        order: Launch,
        *,
        user: str,
        config: Config,
        means: Means,
        watcher: JobWatcher,
    ) -> None:
        self.id = order.job.id
        self.owner = order.job.owner
        self.order = order
        self._timeout = timeout_of(order.spec.timeout, config.limits)
        self._config = config
        self._watcher = watcher
        self._directory = JobDirectory(config.jobs_dir / order.job.id)
        self._spare = means.spare
        self._reserve = means.reserve
        self._start = Start(order, user=user, config=config, means=means, watcher=self)
        self._stack = contextlib.ExitStack()
        self._started: Started | None = None
        self._main: MainProcess | None = None
        self._ended_by: Reason | None = None
        self._is_stopped = False  # or about to be, by somebody
        self._killed = False
        self._is_buried = False
        self._waits_for_all = order.spec.wait_all  # also for what main leaves running
        self._told_input: InputFacts | None = None
        self._unkillable: str | None = None  # the processes that are
        self._told_unkillable: str | None = None
        self._postponed: list[Callable[[], None]] = []
        self._timers: list[asyncio.TimerHandle] = []

    @property
    def pid(self) -> int | None:
        """The main process, until it has been reaped."""
        if self._started is None or self._started.process.returncode is not None:
            return None

        return self._started.process.pid

    @property
    def sender(self) -> str:
        """Who sends to its stdin; empty if nobody has yet."""
        return "" if self._input is None else self._input.sender

    @property
    def _input(self) -> InputFacts | None:
        """Who sends to it and how far that is; None if nobody can."""
        return None if self._started is None else self._started.stdio.input_facts

    def introduce(self) -> KeptJob | None:
        """Return what a new server is told, and begin its news.

        None before the launch.
        """
        if self._started is None:
            return None

        spools = self._started.spools
        spools.forget_news()
        self._told_unkillable = self._unkillable
        self._told_input = self._input
        return KeptJob(
            self.id,
            self._started.launched,
            *spools.ends,
            held_up=spools.why_held_up,
            stopping=self._is_stopped,
            unkillable=self._unkillable,
            input=self._input,
        )

    def news(self) -> Iterator[Message]:
        """Yield what has changed since it was told last."""
        if self._told_unkillable != self._unkillable:
            self._told_unkillable = self._unkillable
            yield TreeUnkillable(self.id, self._unkillable)

        if (facts := self._input) is not None and facts != self._told_input:
            self._told_input = facts
            yield InputMoved(self.id, facts)

        if self._started is not None:
            yield from self._started.spools.news()

    def measure(self) -> Usage | None:
        """Return what it uses now; None before its launch and after its end."""
        if self._started is None or self._is_buried:
            return None

        return self._usage(self._started)

    async def start(self) -> Launched:
        """Launch the command.

        Raises `LaunchError`, and then it never ran, or `LaunchLost`. Its directory
        says so, and that is all that is left.
        """
        self._started = started = await self._start.run()
        self._stack.callback(started.spools.close)
        self._stack.callback(started.stdio.close)
        self._main = MainProcess(self.id, started.process.pid)
        self._stack.callback(self._main.close)
        started.stdio.launched()

        if self._timeout is not None:
            self._later(self._timeout, self._time_out)

        return started.launched

    async def finish(self) -> ExitRecord:
        """Wait for the end of the job, clear up, and write its exit record."""
        for postponed in self._postponed:
            postponed()

        if self._started is None:
            raise AssertionError("finish before start")

        process, cgroup = self._started.process, self._started.cgroup
        spools = self._started.spools

        with self._stack:
            code = await process.wait()
            ended_at = time.time_ns()
            failpoint("main-exited")
            self._watcher.forget_child(process.pid)

            if self._waits_for_all:
                await tree_ended(cgroup, unless=lambda: self._killed)
                self._waits_for_all = False
                ended_at = time.time_ns()

            self._started.stdio.end_input()
            self._cancel_timers()
            self._stack.callback(self._cancel_timers)
            await end_tree(
                cgroup,
                linger=0 if self._killed else self._config.jobs.linger,
                tell=self._tell_unkillable,
            )
            failpoint("tree-ended")
            self._started.stdio.tree_ended()
            is_drained = await self._drain(spools)
            is_settled = await spools.settle()
            failpoint("drained")
            end = End(
                code,
                ended_at,
                cause=self._ended_by,
                truncated=not (is_drained and is_settled),
                stopped=self._is_stopped,
                usage=self._usage(self._started),
            )
            record = exit_record(self._started.launched, spools, end)

        self._is_buried = True
        await remove_groups(cgroup)
        failpoint("groups-removed")
        await write_exit(self._directory, record, self._spare, self._reserve)
        failpoint("exit-written")
        return record

    async def lose(self) -> ExitRecord | None:
        """Give the job up, after an error of ours; return its end if that is written.

        Else nobody will know it, and its directory says so.
        """
        self._stack.close()
        self._cancel_timers()
        self._is_buried = True

        if self._started is not None:
            await end_tree(self._started.cgroup, linger=0)
            await remove_groups(self._started.cgroup)
            self._watcher.forget_child(self._started.process.pid)

        if (record := self._directory.read_exit()) is None:
            loss = partial(self._directory.write_loss, LossRecord(FAILED))
            self._reserve.spend(loss)

        return record

    def signal(self, number: int, *, tree: bool) -> None:
        """Send a signal; SIGKILL means the tree and ends the job as killed."""
        if self._started is None:
            self._postponed.append(lambda: self.signal(number, tree=tree))
        elif self._is_buried:
            return
        elif number == signal.SIGKILL:
            self._is_stopped = True
            self._end_by(Reason.KILLED)
            self._kill()
        elif tree:
            self._started.cgroup.signal(number)
        elif self._main is not None:
            self._main.signal(number)

    def stop(self, *, grace: float | None, reason: Reason) -> None:
        """SIGTERM to every process, then SIGKILL after *grace* seconds."""
        if self._started is None:
            self._postponed.append(lambda: self.stop(grace=grace, reason=reason))
            return

        if self._is_buried:
            return

        if self.pid is None and not self._waits_for_all:
            # All that it may still wait for is room for its last output.
            self._started.spools.give_up(*Bound)

        self._is_stopped = self._is_stopped or reason in _STOPPING
        self._end_by(reason)
        self._started.cgroup.signal(signal.SIGTERM)
        # A stopped job could not act on the signal before.
        self._started.cgroup.signal(signal.SIGCONT)

        if grace is not None:
            self._later(grace, self._kill)

    def pass_input(self, order: InputOrder) -> None:
        """Have *order* carried out; raises `RemoteProtocolError` for too much."""
        if self._started is None:
            self._postponed.append(lambda: self.pass_input(order))
        else:
            self._started.stdio.carry_out(order)

    def input_changed(self) -> None:
        """Pass on that there is news; called by the input."""
        self._watcher.job_changed(self)

    def output_changed(self) -> None:
        """Pass on that there is news; called by the spools."""
        self._watcher.job_changed(self)

    def output_exceeded(self, shortage: Shortage) -> None:
        """End the job, as it is to be when there is no room; called by the spools."""
        log.warning("job %s is to be killed: %s", self.id, shortage.why)

        # What has no room came before any end of the main process that is known.
        if self._ended_by is None:
            self._ended_by = Reason.OUTPUT

        self._kill()

    async def _drain(self, spools: Spools) -> bool:
        """Wait for the end of the pipes; return false if it could not be waited for."""
        jobs = self._config.jobs
        spools.give_up(Bound.JOB)

        if self._ended_by is None:
            # Retention looks for what can go every so often, and may make room.
            patience = jobs.drain_timeout + self._config.retention.interval
            self._later(patience, lambda: spools.give_up(Bound.SHARED))
        else:
            spools.give_up(*Bound)

        while True:
            try:
                async with asyncio.timeout(jobs.drain_timeout):
                    await spools.ended()
            except TimeoutError:
                if spools.has_waited():
                    continue  # what is in the pipe waits for room, or did just now

                log.warning("job %s: something outside still holds its output", self.id)
                return False
            else:
                return True

    def _usage(self, started: Started) -> Usage:
        usage = started.cgroup.usage()

        used = None if self._main is None else self._main.used

        if used is None:
            return usage

        # What nobody counts for the tree is known of the main process at least.
        cpu, peak = usage.cpu_seconds, usage.memory_peak_bytes
        return replace(
            usage,
            cpu_seconds=used.cpu_seconds if cpu is None else cpu,
            memory_peak_bytes=used.max_rss if peak is None else peak,
        )

    def _tell_unkillable(self, why: str | None) -> None:
        if why != self._unkillable:
            self._unkillable = why
            self._watcher.job_changed(self)

    def _time_out(self) -> None:
        self.stop(grace=self._config.jobs.timeout_grace, reason=Reason.TIMEOUT)

    def _end_by(self, reason: Reason) -> None:
        # Who comes first has ended it; one that has ended by itself did so.
        is_over = self.pid is None and not self._waits_for_all

        if self._ended_by is None and not is_over:
            self._ended_by = reason

    def _kill(self) -> None:
        if not self._killed:
            self._killed = True
            self._later(KILL_TIMEOUT, self._kill_again)

        if self._started is not None:
            self._started.spools.give_up(*Bound)
            self._started.cgroup.kill()

        # Where trees are only guessed at, the main process is certain.
        if self._main is not None:
            self._main.signal(signal.SIGKILL)

    def _kill_again(self) -> None:
        """Try once more, and say so, while not even the main process has ended."""
        self._kill()

        if self._started is not None:
            self._tell_unkillable(who_hangs(self._started.cgroup))

        self._later(RETRY, self._kill_again)

    def _cancel_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self._timers = [timer for timer in self._timers if timer.when() > loop.time()]
        self._timers.append(loop.call_later(seconds, action))
