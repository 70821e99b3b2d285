"""One job in the keeper's hands, from its directory to its exit record."""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol

from teleworkerd.cgroups.base import (
    CgroupDriver,
    CgroupError,
    JobCgroup,
    UnsupportedLimit,
)
from teleworkerd.config import Config
from teleworkerd.execution import ExitRecord, Launched, LaunchError
from teleworkerd.jobdir import JobDirectory, open_new
from teleworkerd.keeper.account import (
    Account,
    environment,
    find_account,
    own_account,
)
from teleworkerd.keeper.ending import end_tree, remove_groups
from teleworkerd.keeper.launch import LaunchPlan, launch
from teleworkerd.keeper.main_process import MainProcess
from teleworkerd.keeper.messages import KeptJob, Launch
from teleworkerd.keeper.spool import Spool, SpoolIndex
from teleworkerd.protocol.codec import dump_record
from teleworkerd.protocol.types import (
    LaunchFailure,
    LaunchStage,
    Limits,
    Reason,
    Stream,
    Usage,
)


log = logging.getLogger(__name__)

_EXIT_RETRY: Final = 1.0  # seconds
_TIMEOUT_CODE: Final = 124  # what timeout(1) reports


class JobWatcher(Protocol):
    """Who hears of a job what cannot wait for its end."""

    def job_grown(self, job: "RunningJob") -> None:
        """Its spools have grown."""

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
        driver: CgroupDriver,
        open_files: tuple[int, int],
        watcher: JobWatcher,
    ) -> None:
        self.id = order.job.id
        self._order = order
        self._config = config
        self._driver = driver
        self._open_files = open_files
        self._watcher = watcher
        self._directory = JobDirectory(config.jobs_dir / order.job.id)
        self._stack = contextlib.ExitStack()
        self._is_ours = False
        self._spools: dict[Stream, Spool] = {}
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

    @property
    def kept(self) -> KeptJob | None:
        """What a new server is told; None before the launch."""
        if self._launched is None:
            return None

        return KeptJob(self.id, self._launched, *self.sizes)

    @property
    def sizes(self) -> tuple[int, int]:
        """How many bytes there are of stdout and stderr."""
        return self._spools[Stream.STDOUT].size, self._spools[Stream.STDERR].size

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

        for spool in self._spools.values():
            spool.launched()

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
            record = self._exit_record(
                self._launched, code, ended_at, truncated=truncated
            )

        await remove_groups(self._cgroup)
        await self._write_exit(record)
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

        self._end_by(reason)
        self._cgroup.signal(signal.SIGTERM)
        # A stopped job could not act on the signal before.
        self._cgroup.signal(signal.SIGCONT)

        if grace is not None:
            self._later(grace, self._kill)

    def _open_spools(self) -> None:
        try:
            self._directory.create()
            self._is_ours = True
            self._write_spec()
            index = SpoolIndex(self._directory)
            self._stack.callback(index.close)

            for stream in Stream:
                spool = Spool(
                    self._directory,
                    stream,
                    index=index,
                    pipe=self._config.output.pipe,
                    grown=lambda: self._watcher.job_grown(self),
                )
                self._spools[stream] = spool
                self._stack.callback(spool.close)
        except OSError as error:
            self._stack.close()
            number = error.errno or errno.EIO
            raise LaunchError(
                LaunchFailure(
                    LaunchStage.SPOOL,
                    number,
                    f"the job's output cannot be kept: {os.strerror(number)}",
                )
            ) from error

    def _write_spec(self) -> None:
        fd = open_new(self._directory.spec)

        with os.fdopen(fd, "wb") as file:
            file.write(dump_record(self._order))

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
        plan = LaunchPlan(
            spec=spec,
            env=environment(account, self._order.job, spec),
            account=account,
            change_account=os.geteuid() == 0,
            procs=procs,
            stdout=self._spools[Stream.STDOUT].write_end,
            stderr=self._spools[Stream.STDERR].write_end,
            open_files=self._open_files,
        )

        try:
            return await launch(plan), self._cgroup.applied
        finally:
            for fd in procs:
                os.close(fd)

    def _make_cgroup(self, limits: Limits) -> tuple[JobCgroup, list[int]]:
        try:
            cgroup = self._driver.create(self.id, limits)
            self._cgroup = cgroup
            return cgroup, cgroup.open_procs()
        except CgroupError as error:
            limit = error.limit if isinstance(error, UnsupportedLimit) else None
            failure = LaunchFailure(LaunchStage.CGROUP, error.errno, str(error))
            raise LaunchError(failure, limit=limit) from error

    async def _drain(self) -> bool:
        spools = self._spools.values()

        while True:
            try:
                async with asyncio.timeout(self._config.jobs.drain_timeout):
                    for spool in spools:
                        await spool.ended.wait()
            except TimeoutError:
                if any(spool.is_held_up for spool in spools):
                    continue  # what is in the pipe waits for room on the disk

                log.warning("job %s: something outside still holds its output", self.id)
                return False
            else:
                return True

    def _exit_record(
        self, launched: Launched, code: int, ended_at: int, *, truncated: bool
    ) -> ExitRecord:
        number = -code if code < 0 else None
        usage = self._usage()
        exit_code = code if number is None else 128 + number

        if self._ended_by is Reason.TIMEOUT:
            exit_code = _TIMEOUT_CODE

        stdout, stderr = self.sizes
        return ExitRecord(
            launched=launched,
            ended_at=ended_at,
            reason=self._reason(number, usage),
            exit_code=exit_code,
            signal=number,
            stdout=stdout,
            stderr=stderr,
            truncated=truncated,
            usage=usage,
        )

    async def _write_exit(self, record: ExitRecord) -> None:
        is_told = False

        while True:
            try:
                self._directory.write_exit(record)
            except OSError as error:
                if not is_told:
                    log.error("job %s: its exit record must wait: %s", self.id, error)

                is_told = True
                await asyncio.sleep(_EXIT_RETRY)
            else:
                return

    def _reason(self, number: int | None, usage: Usage) -> Reason:
        if self._ended_by is not None:
            return self._ended_by

        if number == signal.SIGKILL and usage.oom_kills:
            return Reason.OOM

        return Reason.EXITED if number is None else Reason.SIGNALED

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
