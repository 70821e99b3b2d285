"""What the server may have done: judged here, by the keeper's own configuration.

The server parses what the network sends. Should it be taken over by that, it still
cannot have a job run as an account that the configuration does not grant.
"""

import errno
import os
import re
from collections.abc import Collection
from typing import Final

from teleworkerd.ceilings import CeilingReached, Ceilings
from teleworkerd.config import Config
from teleworkerd.execution import LaunchError
from teleworkerd.jobdir import is_job_name
from teleworkerd.keeper.account import own_account
from teleworkerd.keeper.orders import Launch, Noted, StopJob
from teleworkerd.protocol.errors import RemoteProtocolError
from teleworkerd.protocol.messages import Message
from teleworkerd.protocol.status import LaunchFailure
from teleworkerd.protocol.types import LaunchStage, Reason


_OWNER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_EVENTS: Final = ("access", "refuse", "run")
_REASONS: Final = (Reason.KILLED, Reason.SHUTDOWN)


def check(message: Message, running: Collection[str]) -> None:
    """Raise `RemoteProtocolError` for what no server in its right mind sends.

    *running* are the ids of the jobs that there are.
    """
    match message:
        case Launch(job) if not is_job_name(job.id):
            raise RemoteProtocolError(f"launch: {job.id!r:.80} is no job's ID")
        case Launch(job) if job.id in running:
            raise RemoteProtocolError(f"launch: there is a job {job.id}")
        case Launch(job) if not _OWNER.fullmatch(job.owner):
            raise RemoteProtocolError(f"launch: {job.owner!r:.80} is nobody's name")
        case Noted(event=event) if event not in _EVENTS:
            raise RemoteProtocolError(
                f"noted: {event!r:.80} is not the server's to say"
            )
        case StopJob(reason=reason) if reason not in _REASONS:
            raise RemoteProtocolError(f"stop: {reason} is not for the server to say")
        case _:
            pass


def check_count(owner: str, running: int, config: Config) -> None:
    """Raise `LaunchError` when *owner* has as many jobs *running* as one may have."""
    most = config.clients.running_jobs

    if running >= most:
        raise LaunchError(
            LaunchFailure(
                LaunchStage.FORK,
                errno.EAGAIN,
                f"{owner} has {running} jobs that run, and may have {most}",
            )
        )


def check_ceilings(order: Launch, ceilings: Ceilings) -> None:
    """Raise `LaunchError` when *order* asks for more than there is to have."""
    spec = order.spec

    try:
        ceilings.check(order.job.owner, spec.limits, spec.timeout)
    except CeilingReached as error:
        number = errno.EAGAIN if error.passes else errno.EPERM
        failure = LaunchFailure(LaunchStage.CGROUP, number, str(error))
        raise LaunchError(failure, limit=error.limit) from error


def account_for(order: Launch, config: Config) -> str:
    """Return the Unix account that the job of *order* is to run as.

    Without root it is our own, whatever is configured. Raises `LaunchError` for one
    that is not granted to the owner.
    """
    granted = config.jobs.accounts(order.job.owner)

    if os.geteuid() != 0:
        granted = (own_account().name,)

    wanted = order.spec.user

    if wanted is None:
        return granted[0]

    if wanted not in granted:
        raise LaunchError(
            LaunchFailure(
                LaunchStage.USER,
                errno.EPERM,
                f"account {wanted} is not granted to {order.job.owner}; granted:"
                f" {', '.join(granted)}",
            )
        )

    return wanted
