"""The keeper: carries out what the server asks, and keeps all jobs."""

import asyncio
import errno
import logging
import os
import resource
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from teleworkerd.cgroups.base import CgroupDriver, CgroupError, JobCgroup
from teleworkerd.config import Config
from teleworkerd.execution import LaunchError
from teleworkerd.jobdir import JobDirectory, is_job_name
from teleworkerd.keeper.channel import Channel
from teleworkerd.keeper.ending import (
    KILL_TIMEOUT,
    REMOVE_TIMEOUT,
    end_tree,
    remove_groups,
)
from teleworkerd.keeper.exits import seal
from teleworkerd.keeper.job import Means, RunningJob
from teleworkerd.keeper.launch import PR_SET_CHILD_SUBREAPER, prctl
from teleworkerd.keeper.leftovers import count_leftovers
from teleworkerd.keeper.messages import (
    FROM_SERVER,
    MAX_KEPT,
    JobExited,
    JobFailed,
    JobGone,
    JobLaunched,
    KeptJobs,
    Launch,
    Ready,
    Reload,
    RemoveJob,
    SealJob,
    Shutdown,
    SignalJob,
    StopJob,
    Welcome,
)
from teleworkerd.keeper.quota import Quota
from teleworkerd.keeper.removal import Trash
from teleworkerd.protocol.messages import Message
from teleworkerd.protocol.types import LaunchFailure, LaunchStage, Reason


log = logging.getLogger(__name__)

_UNEXPECTED: Final = LaunchFailure(
    LaunchStage.FORK, errno.EIO, "the keeper failed; the daemon's log says why"
)
_REAP_EVERY: Final = 1.0  # seconds; orphans that outlive their job are rare
_OPEN_FILES: Final = 1 << 20  # what the keeper wants for itself, if it may


class Keeper:
    """Launches jobs, moves their output, ends their trees, reports to the server.

    One server at a time is connected; while there is none, jobs go on, and the
    next one is told about them. `ready` and `disconnected` are set when the server
    is that.
    """

    def __init__(self, config: Config, driver: CgroupDriver) -> None:
        self.ready = asyncio.Event()
        self.disconnected = asyncio.Event()
        self._config = config
        self._driver = driver
        self._quota = Quota(config.output)
        self._means = Means(driver, self._quota, _raise_open_files())
        self._trash = Trash(config.state_dir)
        self._jobs: dict[str, RunningJob] = {}
        self._changed: set[RunningJob] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._launching = 0
        self._settled = asyncio.Event()  # no launch is under way
        self._settled.set()
        self._channel: Channel | None = None
        self._children: set[int] = set()
        self._started_at = time.time_ns()
        self._servers = 0

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

        What still runs is ended, its groups are removed, and what is kept of output
        is counted. What was to be removed is, in the background.
        """
        for path in sorted(self._config.jobs_dir.iterdir()):
            if JobDirectory(path).exit.exists():
                continue

            try:
                cgroup = self._driver.leftover(path.name)
            except CgroupError:
                continue  # no job's: lost+found, and the like

            if cgroup is not None:
                log.warning("job %s outlived its keeper: ended", path.name)
                await _bury(cgroup)

        await count_leftovers(self._config.jobs_dir, self._quota)
        self._trash.open()

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
                keeper_started_at=self._started_at,
                restarts=self._servers,
                config=self._config,
                cgroups=self._driver.name,
                limits={
                    name: reason or "yes"
                    for name, reason in self._driver.supports.items()
                },
                jobs=tuple(jobs),
            )
        )
        self._servers += 1
        return channel

    def configure(self, config: Config) -> None:
        """Use *config* for what begins from now on, and have the server do so."""
        self._config = config
        self._quota.configure(config.output)
        self._tell(Reload(config))

    def ask_shutdown(self) -> bool:
        """Ask the server to end all jobs and itself; false when there is none."""
        if self._channel is None:
            return False

        self._channel.send(Shutdown())
        return True

    async def close(self) -> None:
        """End what still runs, and take down the groups."""
        for job in self._jobs.values():
            job.stop(grace=0, reason=Reason.SHUTDOWN)

        if self._tasks:
            limit = KILL_TIMEOUT + self._config.jobs.drain_timeout + REMOVE_TIMEOUT
            _, late = await asyncio.wait(self._tasks, timeout=limit)

            # A full disk has no room for their exit records: they will be lost.
            for task in late:
                task.cancel()

            await asyncio.gather(*late, return_exceptions=True)

        await self._trash.close()

        if self._channel is not None:
            self._channel.close()

        self._driver.close()

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
                if is_job_name(job_id):
                    seal(JobDirectory(self._config.jobs_dir / job_id), message)
            case RemoveJob(job_id):
                self._tell(JobGone(job_id, self._remove(job_id)))
            case Ready():
                self.ready.set()
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
            launched = await job.start()
            self._children.add(launched.pid)
        except LaunchError as error:
            del self._jobs[job.id]
            self._tell(JobFailed(job.id, error.failure, error.limit))
            return
        except Exception:
            log.exception("job %s could not be started", job.id)
            del self._jobs[job.id]
            self._tell(JobFailed(job.id, _UNEXPECTED))
            return
        finally:
            self._launch_settled()

        self._tell(JobLaunched(job.id, launched))
        record = await job.finish()
        del self._jobs[job.id]
        self._changed.discard(job)

        for message in job.news():
            self._tell(message)

        self._tell(JobExited(job.id, record))

    def _remove(self, job_id: str) -> str | None:
        """Remove the directory of a job; return why it cannot be."""
        if not is_job_name(job_id):
            return f"{job_id!r:.80} is no job's ID"

        if job_id in self._jobs:
            return f"job {job_id} has not ended"

        try:
            self._trash.take(self._config.jobs_dir / job_id)
        except OSError as error:
            log.error("job %s cannot be removed: %s", job_id, error)
            return f"job {job_id} cannot be removed: {error.strerror}"

        self._quota.remove(job_id)
        return None

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

    def _reap_again(self) -> None:
        # Not by SIGCHLD: a burst of it fills the loop's wakeup socket, where a
        # SIGTERM would then be lost.
        self._reap_orphans()
        asyncio.get_running_loop().call_later(_REAP_EVERY, self._reap_again)

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


async def _bury(cgroup: JobCgroup) -> None:
    await end_tree(cgroup, linger=0)
    await remove_groups(cgroup)


def use_pidfds() -> None:
    """Let asyncio wait for children by pidfd: no thread each, no signal races."""
    # Later versions do so by themselves, and deprecate the call.
    if sys.version_info < (3, 12):
        policy = asyncio.get_event_loop_policy()
        policy.set_child_watcher(asyncio.PidfdChildWatcher())


def _raise_open_files() -> tuple[int, int]:
    """Raise our limit of descriptors; return the old one, which jobs get."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard if hard != resource.RLIM_INFINITY else _OPEN_FILES

    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))

    return soft, hard
