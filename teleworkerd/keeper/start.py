"""The start of a job: directory, spools, groups, account, process, in this order.

Whatever ends it in between, the job's directory says whether the command ran.
"""

import asyncio
import errno
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from teleworkerd.ceilings import defaults_of
from teleworkerd.cgroups.base import CgroupDriver, CgroupError, UnsupportedLimit
from teleworkerd.config import Config
from teleworkerd.execution import (
    FailureRecord,
    Launched,
    LaunchError,
    LaunchLost,
    LossRecord,
)
from teleworkerd.failpoints import failpoint
from teleworkerd.jobdir import JobDirectory
from teleworkerd.keeper.account import (
    Account,
    environment,
    find_account,
    own_account,
)
from teleworkerd.keeper.ending import end_tree, remove_groups
from teleworkerd.keeper.groups import SpareCgroup
from teleworkerd.keeper.isolation import namespaces_of
from teleworkerd.keeper.launch import LaunchPlan, launch
from teleworkerd.keeper.orders import Launch
from teleworkerd.keeper.privileges import privileges_of
from teleworkerd.keeper.quota import Quota, limit_of
from teleworkerd.keeper.spools import Spools, SpoolsWatcher
from teleworkerd.keeper.stdio import Stdio
from teleworkerd.protocol.codec import dump_record
from teleworkerd.protocol.spec import JobSpec
from teleworkerd.protocol.status import LaunchFailure
from teleworkerd.protocol.types import LaunchStage
from teleworkerd.reserve import Reserve
from teleworkerd.spare import LACKS, Spare, lack_of


log = logging.getLogger(__name__)

_UNEXPECTED: Final = LaunchFailure(
    LaunchStage.FORK, errno.EIO, "the keeper failed; the daemon's log says why"
)
_NO_MEMORY: Final = LaunchFailure(
    LaunchStage.FORK, errno.ENOMEM, f"{LACKS[errno.ENOMEM]}; try again later"
)
_LOST: Final = "it ran, but the keeper failed; the daemon's log says why"


@dataclass(frozen=True, slots=True)
class Means:
    """What each job is given a part of.

    `open_files` is the limit of descriptors that it gets, soft and hard; `spare` is
    for what must be done for it when the keeper has no others, `reserve` for what must
    be written when the disk is full.
    """

    driver: CgroupDriver
    quota: Quota
    open_files: tuple[int, int]
    spare: Spare
    reserve: Reserve


@dataclass(frozen=True, slots=True)
class Started:
    """What there is of a job whose command runs."""

    launched: Launched
    process: asyncio.subprocess.Process
    cgroup: SpareCgroup
    spools: Spools
    stdio: Stdio


class StartWatcher(SpoolsWatcher, Protocol):
    """Who hears of a job's output, and of its input."""

    def input_changed(self) -> None:
        """There is something new in `JobInput.facts`."""


class Start:
    """Starts the job of *order* as *user*; *watcher* hears of its output and input.

    Without root it runs as who we are.
    """

    def __init__(
        self,
        order: Launch,
        *,
        user: str,
        config: Config,
        means: Means,
        watcher: StartWatcher,
    ) -> None:
        self._id = order.job.id
        self._order = order
        self._user = user
        self._config = config
        self._means = means
        self._watcher = watcher
        self._directory = JobDirectory(config.jobs_dir / self._id)
        self._is_ours = False
        self._has_run = False
        self._spools: Spools | None = None
        self._stdio: Stdio | None = None
        self._cgroup: SpareCgroup | None = None

    async def run(self) -> Started:
        """Do it; raises `LaunchError` or `LaunchLost`, and then only that is left."""
        try:
            return await self._run()
        except (LaunchError, LaunchLost) as error:
            await self._abandon(error)
            raise
        except Exception as error:
            if not isinstance(error, MemoryError):
                log.exception("job %s could not be started", self._id)

            failed = self._unexpected(error)
            await self._abandon(failed)
            raise failed from error

    async def _run(self) -> Started:
        self._make_directory()
        self._spools = spools = self._open_spools()
        self._stdio = stdio = self._open_stdio(spools)
        account = self._find_account()
        process, cgroup = await self._launch(account, stdio)
        self._has_run = True
        failpoint("forked")
        launched = Launched(
            pid=process.pid,
            started_at=time.time_ns(),
            user=account.name,
            applied=cgroup.applied,
            not_applied={str(name): why for name, why in cgroup.not_applied.items()},
        )

        try:
            self._write(partial(self._directory.write_launched, launched))
        except OSError as error:
            # It runs; only a keeper that dies will not have said since when.
            log.error("job %s: its launch is not recorded: %s", self._id, error)

        failpoint("launch-recorded")
        return Started(launched, process, cgroup, spools, stdio)

    def _unexpected(self, error: Exception) -> LaunchError | LaunchLost:
        if self._has_run:
            return LaunchLost(_LOST)

        return LaunchError(
            _NO_MEMORY if isinstance(error, MemoryError) else _UNEXPECTED
        )

    async def _abandon(self, error: LaunchError | LaunchLost) -> None:
        if self._stdio is not None:
            self._stdio.close()

        if self._spools is not None:
            self._spools.close()

        if self._cgroup is not None:
            # It runs, if all that was missing are the means to wait for it.
            await end_tree(self._cgroup, linger=0)
            await remove_groups(self._cgroup)

        if not self._is_ours:
            return

        failpoint("start-undone")
        self._means.quota.remove(self._id)

        try:
            self._write(partial(self._record, error))
        except OSError as unwritten:
            log.error("job %s: %s, and: %s", self._id, error, unwritten)

    def _record(self, error: LaunchError | LaunchLost) -> None:
        if isinstance(error, LaunchLost):
            self._directory.write_loss(LossRecord(str(error)))
        else:
            # If there is no room for more, that at least says that it never ran.
            self._directory.launch.unlink(missing_ok=True)
            error.failed_at = time.time_ns()
            record = FailureRecord(error.failure, error.failed_at)
            self._directory.write_failure(record)

    def _write(self, write: Callable[[], None]) -> None:
        """Do *write*, though descriptors or room are short; raises `OSError`."""
        with self._means.spare.lent():
            self._means.reserve.spend(write)

    def _make_directory(self) -> None:
        try:
            self._directory.create()
            self._is_ours = True
            failpoint("directory-made")
            self._directory.write_spec(dump_record(self._order))
            failpoint("spec-written")
        except OSError as error:
            raise _unkept(error) from error

    def _open_spools(self) -> Spools:
        spec, output = self._order.spec, self._config.output
        share = self._means.quota.add(
            self._id, self._order.job.owner, limit=limit_of(spec, output)
        )

        try:
            return Spools(
                self._directory,
                spec,
                config=output,
                share=share,
                reserve=self._means.reserve,
                spare=self._means.spare,
                watcher=self._watcher,
            )
        except OSError as error:
            raise _unkept(error) from error

    def _open_stdio(self, spools: Spools) -> Stdio:
        try:
            return Stdio(
                self._order.spec, spools, input_changed=self._watcher.input_changed
            )
        except OSError as error:
            raise _unmade(error) from error

    def _find_account(self) -> Account:
        if os.geteuid() != 0:
            return own_account()

        # Without a descriptor it would read as if there were no such account.
        with self._means.spare.lent():
            return find_account(self._user)

    async def _launch(
        self, account: Account, stdio: Stdio
    ) -> tuple[asyncio.subprocess.Process, SpareCgroup]:
        try:
            return await self._launch_once(account, stdio)
        except LaunchError as error:
            if error.failure.errno != errno.ENODEV or self._cgroup is None:
                raise

            # Another daemon that ended just then took the common group with it.
            await remove_groups(self._cgroup)
            return await self._launch_once(account, stdio)

    async def _launch_once(
        self, account: Account, stdio: Stdio
    ) -> tuple[asyncio.subprocess.Process, SpareCgroup]:
        spec = self._order.spec
        cgroup, procs = self._make_cgroup(spec)

        try:
            failpoint("groups-made")
            self._directory.begin_launch()
            failpoint("launch-begun")
            is_root = os.geteuid() == 0
            namespaces = namespaces_of(self._config, account.uid, groups=procs)
            plan = LaunchPlan(
                spec=spec,
                env=environment(account, self._order.job, spec),
                account=account,
                change_account=is_root,
                procs=procs,
                stdin=stdio.stdin,
                stdout=stdio.stdout,
                stderr=stdio.stderr,
                has_terminal=stdio.has_terminal,
                open_files=self._means.open_files,
                privileges=privileges_of(account.uid, namespaces, is_root=is_root),
                namespaces=namespaces,
            )
            return await launch(plan), cgroup
        except OSError as error:
            raise _unkept(error) from error
        finally:
            for fd in procs:
                os.close(fd)

    def _make_cgroup(self, spec: JobSpec) -> tuple[SpareCgroup, list[int]]:
        try:
            made = self._means.driver.create(
                self._id,
                spec.limits,
                defaults=defaults_of(spec.limits, self._config.limits),
                strict=spec.strict_limits,
            )
            self._cgroup = cgroup = SpareCgroup(self._id, made, self._means.spare)
            return cgroup, cgroup.open_procs()
        except CgroupError as error:
            limit = error.limit if isinstance(error, UnsupportedLimit) else None
            again = "; try again later" if error.errno in LACKS else ""
            failure = LaunchFailure(LaunchStage.CGROUP, error.errno, f"{error}{again}")
            raise LaunchError(failure, limit=limit) from error


def _unkept(error: OSError) -> LaunchError:
    return _failed(error, "the job's output cannot be kept")


def _unmade(error: OSError) -> LaunchError:
    return _failed(error, "the job's stdin or terminal cannot be made")


def _failed(error: OSError, what: str) -> LaunchError:
    number = error.errno or errno.EIO
    why = os.strerror(number)

    if (lack := lack_of(error)) is not None:
        why = f"{lack}; try again later"

    message = f"{what}: {why}"
    return LaunchError(LaunchFailure(LaunchStage.SPOOL, number, message))
