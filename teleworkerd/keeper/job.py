"""One job in the keeper's hands, from its directory to its exit record."""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from teleworkerd.cgroups.base import (
    CgroupDriver,
    CgroupError,
    JobCgroup,
    UnsupportedLimit,
)
from teleworkerd.config import Config
from teleworkerd.execution import ExitRecord, Launched, LaunchError
from teleworkerd.jobdir import JobDirectory
from teleworkerd.keeper.account import (
    Account,
    environment,
    find_account,
    own_account,
)
from teleworkerd.keeper.ending import end_tree, remove_groups
from teleworkerd.keeper.exits import End, exit_record, write_exit
from teleworkerd.keeper.launch import LaunchPlan, launch
from teleworkerd.keeper.main_process import MainProcess
from teleworkerd.keeper.messages import KeptJob, Launch
from teleworkerd.keeper.quota import Quota, Shortage, limit_of
from teleworkerd.keeper.spools import Spools
from teleworkerd.protocol.codec import dump_record
from teleworkerd.protocol.messages import Message
from teleworkerd.protocol.types import (
    LaunchFailure,
    LaunchStage,
    Limits,
    Reason,
    Usage,
)


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Means:
    """What each job is given a part of.

    `open_files` is the limit of descriptors that it gets, soft and hard.
    """

    driver: CgroupDriver
    quota: Quota
    open_files: tuple[int, int]


class JobWatcher(Protocol):
    """Who hears of a job what cannot wait for its end."""

    def job_changed(self, job: "RunningJob") -> None:
        """There is something in its `news`."""

    def forget_child(self, pid: int) -> None:
        """Its main process is reaped: the kernel may give *pid* to another."""


class RunningJob:
    """A job between its launch and its burial; *watcher* hears how it goes on.

    Call `start` once, then `finish` once. `signal` and `stop` may come at any
    time, before the start too: they then wait for it.
    """

    def __init__(
        self,
        order: Launch,
        *,
        config: Config,
        means: Means,
        watcher: JobWatcher,
    ) -> None:
        self.id = order.job.id
        self._order = order
        self._config = config
        self._means = means
        self._watcher = watcher
        self._directory = JobDirectory(config.jobs_dir / order.job.id)
        self._stack = contextlib.ExitStack()
        self._is_ours = False
        self._spools: Spools
        self._cgroup: JobCgroup | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._main: MainProcess | None = None
        self._launched: Launched | None = None
        self._ended_by: Reason | None = None
        self._killed = False
        self._postponed: list[Callable[[], None]] = []
        self._timers: list[asyncio.TimerHandle] = []

    @property
    def pid(self) -> int | None:
        """The main process, until it has been reaped."""
        process = self._process
        return process.pid if process and process.returncode is None else None

    def introduce(self) -> KeptJob | None:
        """Return what a new server is told, and begin its news.

        None before the launch.
        """
        if self._launched is None:
            return None

        self._spools.forget_news()
        return KeptJob(
            self.id, self._launched, *self._spools.ends, self._spools.why_held_up
        )

    def news(self) -> Iterator[Message]:
        """Yield what has changed in its output since it was told last."""
        return self._spools.news()

    async def start(self) -> Launched:
        """Launch the command; raises `LaunchError`, and then nothing is left."""
        try:
            self._open_spools()
            account = self._find_account()
            self._process, applied = await self._launch(account)
        except LaunchError:
            self._stack.close()

            if self._is_ours:
                self._directory.remove()
                self._means.quota.remove(self.id)

            if self._cgroup is not None:
                # It runs, if all that was missing are the means to wait for it.
                await end_tree(self._cgroup, linger=0)
                await remove_groups(self._cgroup)

            raise

        self._main = MainProcess(self._process.pid)
        self._stack.callback(self._main.close)
        self._launched = Launched(
            pid=self._process.pid,
            started_at=time.time_ns(),
            user=account.name,
            applied=applied,
        )

        self._spools.launched()

        if self._order.spec.timeout is not None:
            self._later(self._order.spec.timeout, self._time_out)

        return self._launched

    async def finish(self) -> ExitRecord:
        """Wait for the end of the job, clear up, and write its exit record."""
        for postponed in self._postponed:
            postponed()

        if not (self._process and self._cgroup and self._launched):
            raise AssertionError("finish before start")

        with self._stack:
            code = await self._process.wait()
            ended_at = time.time_ns()
            self._watcher.forget_child(self._process.pid)
            self._cancel_timers()
            self._stack.callback(self._cancel_timers)
            await end_tree(
                self._cgroup,
                linger=0 if self._killed else self._config.jobs.linger,
            )
            truncated = not await self._drain()
            await self._spools.settle()
            end = End(code, ended_at, self._ended_by, truncated, self._usage())
            record = exit_record(self._launched, self._spools, end)

        await remove_groups(self._cgroup)
        await write_exit(self._directory, record)
        return record

    def signal(self, number: int, *, tree: bool) -> None:
        """Send a signal; SIGKILL means the tree and ends the job as killed."""
        if self._process is None:
            self._postponed.append(lambda: self.signal(number, tree=tree))
        elif number == signal.SIGKILL:
            self._end_by(Reason.KILLED)
            self._kill()
        elif tree and self._cgroup is not None:
            self._cgroup.signal(number)
        elif self._main is not None:
            self._main.signal(number)

    def stop(self, *, grace: float | None, reason: Reason) -> None:
        """SIGTERM to every process, then SIGKILL after *grace* seconds."""
        if self._process is None or self._cgroup is None:
            self._postponed.append(lambda: self.stop(grace=grace, reason=reason))
            return

        if self.pid is None:
            # All that it may still wait for is room for its last output.
            self._spools.give_up()

        self._end_by(reason)
        self._cgroup.signal(signal.SIGTERM)
        # A stopped job could not act on the signal before.
        self._cgroup.signal(signal.SIGCONT)

        if grace is not None:
            self._later(grace, self._kill)

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

    def _open_spools(self) -> None:
        spec, output = self._order.spec, self._config.output
        limit = limit_of(spec, output)

        try:
            self._directory.create()
            self._is_ours = True
            self._directory.write_spec(dump_record(self._order))
            share = self._means.quota.add(self.id, self._order.job.owner, limit=limit)
            self._spools = Spools(
                self._directory, spec, config=output, share=share, watcher=self
            )
            self._stack.callback(self._spools.close)
        except OSError as error:
            number = error.errno or errno.EIO
            raise LaunchError(
                LaunchFailure(
                    LaunchStage.SPOOL,
                    number,
                    f"the job's output cannot be kept: {os.strerror(number)}",
                )
            ) from error

    def _find_account(self) -> Account:
        if os.geteuid() != 0:
            return own_account()

        return find_account(self._config.jobs.account(self._order.job.owner))

    async def _launch(
        self, account: Account
    ) -> tuple[asyncio.subprocess.Process, Limits]:
        try:
            return await self._launch_once(account)
        except LaunchError as error:
            if error.failure.errno != errno.ENODEV or self._cgroup is None:
                raise

            # Another daemon that ended just then took the common group with it.
            await remove_groups(self._cgroup)
            return await self._launch_once(account)

    async def _launch_once(
        self, account: Account
    ) -> tuple[asyncio.subprocess.Process, Limits]:
        spec = self._order.spec
        self._cgroup, procs = self._make_cgroup(spec.limits)
        stdout, stderr = self._spools.write_ends
        plan = LaunchPlan(
            spec=spec,
            env=environment(account, self._order.job, spec),
            account=account,
            change_account=os.geteuid() == 0,
            procs=procs,
            stdout=stdout,
            stderr=stderr,
            open_files=self._means.open_files,
        )

        try:
            return await launch(plan), self._cgroup.applied
        finally:
            for fd in procs:
                os.close(fd)

    def _make_cgroup(self, limits: Limits) -> tuple[JobCgroup, list[int]]:
        try:
            cgroup = self._means.driver.create(self.id, limits)
            self._cgroup = cgroup
            return cgroup, cgroup.open_procs()
        except CgroupError as error:
            limit = error.limit if isinstance(error, UnsupportedLimit) else None
            failure = LaunchFailure(LaunchStage.CGROUP, error.errno, str(error))
            raise LaunchError(failure, limit=limit) from error

    async def _drain(self) -> bool:
        """Wait for the end of the pipes; return false if it could not be waited for."""
        jobs = self._config.jobs
        self._spools.over()

        if self._ended_by is None:
            # Retention looks for what can go every so often, and may make room.
            patience = jobs.drain_timeout + self._config.retention.interval
            self._later(patience, self._spools.give_up)
        else:
            self._spools.give_up()

        while True:
            try:
                async with asyncio.timeout(jobs.drain_timeout):
                    await self._spools.ended()
            except TimeoutError:
                if self._spools.why_held_up is not None:
                    continue  # what is in the pipe waits for room

                log.warning("job %s: something outside still holds its output", self.id)
                return False
            else:
                return True

    def _usage(self) -> Usage:
        usage = Usage() if self._cgroup is None else self._cgroup.usage()

        if usage.cpu_seconds is None and self._main is not None:
            usage = replace(usage, cpu_seconds=self._main.cpu_seconds)

        return usage

    def _time_out(self) -> None:
        self.stop(grace=self._config.jobs.timeout_grace, reason=Reason.TIMEOUT)

    def _end_by(self, reason: Reason) -> None:
        # Who comes first has ended it; one that has ended by itself did so.
        if self._ended_by is None and self.pid is not None:
            self._ended_by = reason

    def _kill(self) -> None:
        self._killed = True
        self._spools.give_up()

        if self._cgroup is not None:
            self._cgroup.kill()

        # Where trees are only guessed at, the main process is certain.
        if self._main is not None:
            self._main.signal(signal.SIGKILL)

    def _cancel_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self._timers.append(loop.call_later(seconds, action))
