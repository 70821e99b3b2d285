"""The keeper: carries out what the server asks, and keeps all jobs."""

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from typing import Final

from teleworkerd import __version__
from teleworkerd.cgroups.base import CgroupDriver
from teleworkerd.config import Config
from teleworkerd.execution import LaunchError, LaunchLost
from teleworkerd.failpoints import failpoint
from teleworkerd.keeper import policy
from teleworkerd.keeper.admission import Admission
from teleworkerd.keeper.audit import AuditLog
from teleworkerd.keeper.channel import Channel
from teleworkerd.keeper.descriptors import SPARE, raise_limit
from teleworkerd.keeper.ended import EndedJobs
from teleworkerd.keeper.ending import (
    KILL_TIMEOUT,
    REMOVE_TIMEOUT,
)
from teleworkerd.keeper.job import FAILED, RunningJob
from teleworkerd.keeper.leftovers import Leftovers
from teleworkerd.keeper.measuring import Measuring
from teleworkerd.keeper.messages import (
    MAX_KEPT,
    JobExited,
    JobFailed,
    JobGone,
    JobLaunched,
    JobLost,
    JobSealed,
    KeptJobs,
    Welcome,
)
from teleworkerd.keeper.orders import (
    FROM_SERVER,
    Alive,
    Launch,
    MeasureJobs,
    Noted,
    Ready,
    Reloaded,
    RemoveJob,
    ResizeTerminal,
    SealJob,
    SignalJob,
    StopJob,
    TakeInput,
    WriteInput,
)
from teleworkerd.keeper.orphans import Orphans
from teleworkerd.keeper.quota import Quota
from teleworkerd.keeper.start import Means
from teleworkerd.keeper.stdio import InputOrder
from teleworkerd.privilege_drop import ServerAccount
from teleworkerd.protocol.messages import Message
from teleworkerd.protocol.types import Reason
from teleworkerd.reserve import Reserve
from teleworkerd.spare import Spare


log = logging.getLogger(__name__)

_FILL_EVERY: Final = 10.0  # seconds between two looks at the reserve


class Keeper:
    """Launches jobs, moves their output, ends their trees, reports to the server.

    One server at a time is connected; while there is none, jobs go on, and the
    next one is told about them. `ready` and `disconnected` are set when the server
    is that. `answered`, if somebody sets it, is called with its answers to `ask`;
    `servers` is how many there have been. *account* is whom they have to become.
    `audit` is for what is done otherwise than by their orders, `orphans` for children
    that are no jobs.
    """

    def __init__(
        self,
        config: Config,
        driver: CgroupDriver,
        account: ServerAccount | None = None,
    ) -> None:
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
        self.audit = AuditLog(config.audit_file, self._means.spare)
        self._admission = Admission(config, self.audit)
        self._account = account
        self._jobs: dict[str, RunningJob] = {}
        self._measuring = Measuring(self._jobs, self._tell)
        self._orders: set[SignalJob | StopJob] = set()  # not carried out yet
        self._ended = EndedJobs(config, self._means, kept=self._jobs)
        self._changed: set[RunningJob] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.orphans = Orphans()
        self._channel: Channel | None = None
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

    def forget_child(self, pid: int) -> None:
        """Note that *pid* has been waited for."""
        self.orphans.forget(pid)

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
        self.audit.write("daemon", message=f"began, version {__version__}")
        leftovers = Leftovers(self._config, self._means, self.audit)
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
        await self.orphans.settled.wait()
        self.ready.clear()
        self.disconnected.clear()
        channel = Channel(
            FROM_SERVER,
            received=self._received,
            closed=self._disconnected,
            writable=self._tell_news,
            # One that asks and does not listen shall not fill our memory.
            only_while_read=True,
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
                account=self._account,
            )
        )
        self.servers += 1
        return channel

    def configure(self, config: Config) -> None:
        """Use *config* for what begins from now on, the next server too."""
        self._config = config
        self._quota.configure(config.output)
        self._admission.configure(config)
        self.audit.use(config.audit_file)

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

        self._measuring.close()
        await self._ended.close()

        if self._channel is not None:
            self._channel.close()

        self._driver.close()
        self.audit.write("daemon", message="ended")
        self.audit.close()
        self._means.spare.close()

    def _received(self, message: Message) -> None:
        policy.check(message, self._jobs)

        match message:
            case Launch():
                self._launch(message)
            case SignalJob() | StopJob():
                self._order(message)
            case TakeInput() | WriteInput() | ResizeTerminal():
                self._pass_input(message)
            case SealJob(job_id):
                self._tell(JobSealed(job_id, self._ended.seal(message)))
            case RemoveJob(job_id):
                self.audit.removed(message)
                self._tell(JobGone(job_id, self._ended.remove(job_id)))
            case MeasureJobs():
                self._measuring.ask(message)
            case Noted():
                self.audit.noted(message)
            case Ready():
                self._has_served = True
                self.ready.set()
            case Alive() | Reloaded():
                self.answered(message)
            case _:
                raise AssertionError(message)

    def _order(self, order: SignalJob | StopJob) -> None:
        """Carry out *order* soon, and once if it comes again until then.

        To signal a tree takes as long as that is large.
        """
        if order not in self._orders and order.job in self._jobs:
            self._orders.add(order)
            asyncio.get_running_loop().call_soon(self._carry_out, order)

    def _carry_out(self, order: SignalJob | StopJob) -> None:
        self._orders.discard(order)

        if (job := self._jobs.get(order.job)) is not None:
            self._pass_on(order, job)

    def _pass_on(self, order: SignalJob | StopJob, job: RunningJob) -> None:
        match order:
            case SignalJob(number=number, tree=tree):
                self.audit.signaled(order, job.owner)
                job.signal(number, tree=tree)
            case StopJob(reason=reason, grace=grace):
                self.audit.stopped(order, job.owner)
                job.stop(grace=grace, reason=reason)

    def _pass_input(self, order: InputOrder) -> None:
        if (job := self._jobs.get(order.job)) is not None:
            if isinstance(order, TakeInput) and order.sender != job.sender:
                self.audit.took_input(order, job.owner)

            job.pass_input(order)

    def _launch(self, order: Launch) -> None:
        try:
            user = self._admission.admit(order)
        except LaunchError as error:
            self.audit.refused(order, error.failure)
            self._tell(JobFailed(order.job.id, error.failure, time.time_ns()))
            return

        job = RunningJob(
            order,
            user=user,
            config=self._config,
            means=self._means,
            watcher=self,
        )
        self._jobs[job.id] = job
        self.orphans.begin()
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
            self._admission.leave(job.order)
            self._changed.discard(job)

    async def _run(self, job: RunningJob) -> None:
        try:
            launched = await job.start()
            self.orphans.keep(launched.pid)
        except LaunchError as error:
            self.audit.refused(job.order, error.failure)
            at = error.failed_at or time.time_ns()
            self._tell(JobFailed(job.id, error.failure, at, error.limit))
            return
        except LaunchLost as error:
            self.audit.lost(job.id, job.owner, str(error))
            self._tell(JobLost(job.id, str(error)))
            return
        finally:
            self.orphans.end()

        self._tell(JobLaunched(job.id, launched))
        failpoint("launch-told")
        record = await job.finish()

        for message in job.news():
            self._tell(message)

        self.audit.ended(job.id, job.owner, record)
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
            self.audit.lost(job.id, job.owner, FAILED)
            self._tell(JobLost(job.id, FAILED))
        else:
            self.audit.ended(job.id, job.owner, record)
            self._tell(JobExited(job.id, record))

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
