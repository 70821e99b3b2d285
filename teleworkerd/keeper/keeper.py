"""The keeper: carries out what the server asks, and keeps all jobs."""

import asyncio
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from teleworkerd.cgroups.base import CgroupDriver
from teleworkerd.config import Config
from teleworkerd.execution import LaunchError, LaunchLost
from teleworkerd.failpoints import failpoint
from teleworkerd.keeper.channel import Channel
from teleworkerd.keeper.descriptors import SPARE, raise_limit
from teleworkerd.keeper.ended import EndedJobs
from teleworkerd.keeper.ending import (
    KILL_TIMEOUT,
    REMOVE_TIMEOUT,
)
from teleworkerd.keeper.job import FAILED, RunningJob
from teleworkerd.keeper.launch import PR_SET_CHILD_SUBREAPER, prctl
from teleworkerd.keeper.leftovers import Leftovers
from teleworkerd.keeper.messages import (
    FROM_SERVER,
    MAX_KEPT,
    Alive,
    JobExited,
    JobFailed,
    JobGone,
    JobLaunched,
    JobLost,
    JobSealed,
    KeptJobs,
    Launch,
    Ready,
    Reloaded,
    RemoveJob,
    SealJob,
    SignalJob,
    StopJob,
    Welcome,
)
from teleworkerd.keeper.quota import Quota
from teleworkerd.keeper.start import Means
from teleworkerd.protocol.messages import Message
from teleworkerd.protocol.types import Reason
from teleworkerd.reserve import Reserve
from teleworkerd.spare import Spare


log = logging.getLogger(__name__)

_REAP_EVERY: Final = 1.0  # seconds; orphans that outlive their job are rare
_FILL_EVERY: Final = 10.0  # seconds between two looks at the reserve


class Keeper:
    """Launches jobs, moves their output, ends their trees, reports to the server.

    One server at a time is connected; while there is none, jobs go on, and the
    next one is told about them. `ready` and `disconnected` are set when the server
    is that. `answered`, if somebody sets it, is called with its answers to `ask`;
    `servers` is how many there have been.
    """

    def __init__(self, config: Config, driver: CgroupDriver) -> None:
        self.ready = asyncio.Event()
        self.disconnected = asyncio.Event()
        self.answered: Callable[[Alive | Reloaded], None] = lambda _: None
        self._config = config
        self._driver = driver
        self._quota = Quota(config.output)
        # The limit before anything is opened under it.
        self._means = Means(
            driver,
            self._quota,
            raise_limit(),
            Spare(SPARE),
            Reserve(config.reserve),
        )
        self._jobs: dict[str, RunningJob] = {}
        self._ended = EndedJobs(config, self._means, kept=self._jobs)
        self._changed: set[RunningJob] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._launching = 0
        self._settled = asyncio.Event()  # no launch is under way
        self._settled.set()
        self._channel: Channel | None = None
        self._children: set[int] = set()
        self.started_at = time.time_ns()
        self._was_rebooted = False
        self._has_served = False
        self.servers = 0

    @property
    def config(self) -> Config:
        """What is used for what begins now."""
        return self._config

    @property
    def job_count(self) -> int:
        """How many jobs have not ended."""
        return len(self._jobs)

    def adopt_orphans(self) -> None:
        """Become the parent of what jobs leave behind, and reap it."""
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        self._reap_again()

    @contextmanager
    def launching(self) -> Iterator[None]:
        """Reap nothing meanwhile: a new child's pid is not known yet."""
        self._launching += 1
        self._settled.clear()

        try:
            yield
        finally:
            self._launch_settled()

    def keep_child(self, pid: int) -> None:
        """Note that *pid* is a process that somebody here waits for."""
        self._children.add(pid)

    def forget_child(self, pid: int) -> None:
        """Note that *pid* has been waited for."""
        self._children.discard(pid)
        self._reap_orphans()

    def job_changed(self, job: RunningJob) -> None:
        """Tell the server what is new of the output of *job*."""
        self._changed.add(job)
        self._tell_news()

    async def clear_leftovers(self) -> None:
        """Take over what an earlier keeper left.

        What still runs is ended, its groups are removed, what became of it is
        written down, and what is kept of output is counted. What was to be removed
        is, in the background.
        """
        leftovers = Leftovers(self._config, self._means)
        await leftovers.clear()
        self._was_rebooted = leftovers.was_rebooted
        self._ended.open()
        self._fill_again()

    async def connect(self, sock: socket.socket) -> Channel:
        """Serve the server at the other end of *sock*.

        Waits until the one before is gone, and what it asked for has begun.
        """
        if self._channel is not None:
            await self.disconnected.wait()

        # Or the new one would hear of jobs that it was not told of.
        await self._settled.wait()
        self.ready.clear()
        self.disconnected.clear()
        channel = Channel(
            FROM_SERVER,
            received=self._received,
            closed=self._disconnected,
            writable=self._tell_news,
        )
        await channel.open(sock)
        self._changed.clear()
        self._channel = channel
        jobs = [kept for job in self._jobs.values() if (kept := job.introduce())]

        while len(jobs) > MAX_KEPT:
            channel.send(KeptJobs(tuple(jobs[:MAX_KEPT])))
            del jobs[:MAX_KEPT]

        channel.send(
            Welcome(
                keeper_started_at=self.started_at,
                restarts=self.servers,
                config=self._config,
                cgroups=self._driver.name,
                limits={
                    name: reason or "yes"
                    for name, reason in self._driver.supports.items()
                },
                jobs=tuple(jobs),
                was_rebooted=self._was_rebooted,
                has_served=self._has_served,
            )
        )
        self.servers += 1
        return channel

    def configure(self, config: Config) -> None:
        """Use *config* for what begins from now on, the next server too."""
        self._config = config
        self._quota.configure(config.output)

    def ask(self, message: Message) -> bool:
        """Ask the server, by a message of its own; false when there is none."""
        self._tell(message)
        return self._channel is not None

    async def jobs_over(self) -> None:
        """Wait until no job is left."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def end_jobs(self, *, grace: float) -> None:
        """End what still runs: SIGTERM, then SIGKILL after *grace* seconds."""
        for job in self._jobs.values():
            job.stop(grace=grace, reason=Reason.SHUTDOWN)

    async def close(self, *, grace: float = 0) -> None:
        """End what still runs, and take down the groups."""
        self.end_jobs(grace=grace)

        if self._tasks:
            limit = KILL_TIMEOUT + self._config.jobs.drain_timeout + REMOVE_TIMEOUT
            _, late = await asyncio.wait(self._tasks, timeout=grace + limit)

            # A full disk has no room for their exit records: they will be lost.
            for task in late:
                task.cancel()

            await asyncio.gather(*late, return_exceptions=True)

        await self._ended.close()

        if self._channel is not None:
            self._channel.close()

        self._driver.close()
        self._means.spare.close()

    def _received(self, message: Message) -> None:
        match message:
            case Launch():
                self._launch(message)
            case SignalJob(job_id, number, tree):
                if job := self._jobs.get(job_id):
                    job.signal(number, tree=tree)
            case StopJob(job_id, reason, grace):
                if job := self._jobs.get(job_id):
                    job.stop(grace=grace, reason=reason)
            case SealJob(job_id):
                self._tell(JobSealed(job_id, self._ended.seal(message)))
            case RemoveJob(job_id):
                self._tell(JobGone(job_id, self._ended.remove(job_id)))
            case Ready():
                self._has_served = True
                self.ready.set()
            case Alive() | Reloaded():
                self.answered(message)
            case _:
                raise AssertionError(message)

    def _launch(self, order: Launch) -> None:
        job = RunningJob(
            order,
            config=self._config,
            means=self._means,
            watcher=self,
        )
        self._jobs[job.id] = job
        self._launching += 1
        self._settled.clear()
        task = asyncio.create_task(self._keep(job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep(self, job: RunningJob) -> None:
        try:
            await self._run(job)
        except Exception:
            log.exception("job %s: the keeper failed", job.id)
            await self._give_up(job)
        finally:
            self._jobs.pop(job.id, None)
            self._changed.discard(job)

    async def _run(self, job: RunningJob) -> None:
        try:
            launched = await job.start()
            self._children.add(launched.pid)
        except LaunchError as error:
            at = error.failed_at or time.time_ns()
            self._tell(JobFailed(job.id, error.failure, at, error.limit))
            return
        except LaunchLost as error:
            self._tell(JobLost(job.id, str(error)))
            return
        finally:
            self._launch_settled()

        self._tell(JobLaunched(job.id, launched))
        failpoint("launch-told")
        record = await job.finish()

        for message in job.news():
            self._tell(message)

        # Whoever hears of the end may have it removed.
        del self._jobs[job.id]
        self._tell(JobExited(job.id, record))
        failpoint("exit-told")

    async def _give_up(self, job: RunningJob) -> None:
        """End what is left of *job* after a failure of ours, and say so."""
        try:
            record = await job.lose()
        except Exception:
            log.exception("job %s: what is left of it stays", job.id)
            record = None

        if record is None:
            self._tell(JobLost(job.id, FAILED))
        else:
            self._tell(JobExited(job.id, record))

    def _launch_settled(self) -> None:
        self._launching -= 1

        if not self._launching:
            self._settled.set()
            self._reap_orphans()

    def _tell(self, message: Message) -> None:
        if self._channel is not None:
            self._channel.send(message)

    def _tell_news(self) -> None:
        # A slow server is told later, of all that is new at once.
        if self._channel is None or self._channel.is_congested:
            return

        jobs, self._changed = self._changed, set()

        for job in jobs:
            for message in job.news():
                self._channel.send(message)

    def _disconnected(self) -> None:
        self._channel = None
        self.disconnected.set()

    def _fill_again(self) -> None:
        asyncio.get_running_loop().call_later(_FILL_EVERY, self._fill_again)
        self._means.reserve.fill()

    def _reap_again(self) -> None:
        # Not by SIGCHLD: a burst of it fills the loop's wakeup socket, where a
        # SIGTERM would then be lost.
        asyncio.get_running_loop().call_later(_REAP_EVERY, self._reap_again)
        self._reap_orphans()

    def _reap_orphans(self) -> None:
        # While a launch is under way the next child may be the job itself.
        while not self._launching:
            try:
                child = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return

            if child is None or child.si_pid in self._children:
                return

            os.waitpid(child.si_pid, os.WNOHANG)


def use_pidfds() -> None:
    """Let asyncio wait for children by pidfd: no thread each, no signal races."""
    # Later versions do so by themselves, and deprecate the call.
    if sys.version_info < (3, 12):
        policy = asyncio.get_event_loop_policy()
        policy.set_child_watcher(asyncio.PidfdChildWatcher())
