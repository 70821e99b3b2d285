"""Which jobs are started: judged by what runs already, and written down before."""

import errno
from collections import Counter
from typing import Final

from teleworkerd.ceilings import Ceilings
from teleworkerd.config import Config
from teleworkerd.execution import LaunchError
from teleworkerd.keeper import policy
from teleworkerd.keeper.audit import AuditLog
from teleworkerd.keeper.orders import Launch
from teleworkerd.protocol.status import LaunchFailure
from teleworkerd.protocol.types import LaunchStage


_UNAUDITED: Final = LaunchFailure(
    LaunchStage.SPOOL,
    errno.EIO,
    "the audit log cannot be written, and nothing may be started without it",
)


class Admission:
    """Counts the jobs that run, by *config*, and has *audit* note each start."""

    def __init__(self, config: Config, audit: AuditLog) -> None:
        self._config = config
        self._audit = audit
        self._running: Counter[str] = Counter()  # jobs, by their owners
        self._ceilings = Ceilings(config.limits)

    def configure(self, config: Config) -> None:
        """Judge by *config* from now on."""
        self._config = config
        self._ceilings.configure(config.limits)

    def admit(self, order: Launch) -> str:
        """Let the job of *order* in, and return as whom it is to run.

        Raises `LaunchError` if it is not to.
        """
        job = order.job
        policy.check_count(job.owner, self._running[job.owner], self._config)
        policy.check_ceilings(order, self._ceilings)
        user = policy.account_for(order, self._config)
        self._audit.started(order, user)

        if self._audit.is_failing and self._config.audit.fail_closed:
            raise LaunchError(_UNAUDITED)

        self._running[job.owner] += 1
        self._ceilings.hold(job.id, job.owner, order.spec.limits)
        return user

    def leave(self, order: Launch) -> None:
        """Note that the job, which was let in, is no more."""
        self._running -= Counter((order.job.owner,))  # which drops who has none left
        self._ceilings.release(order.job.id)
