"""What a client is told of a job that could not be started."""

from teleworkerd.execution import LaunchError
from teleworkerd.protocol.errors import LaunchFailed, LimitRejected
from teleworkerd.protocol.types import LaunchStage
from teleworkerd.spare import LACKS


def refusal(job_id: str, error: LaunchError) -> LaunchFailed | LimitRejected:
    """Return *error* as the client of the job *job_id* gets it."""
    failure = error.failure

    if error.limit is not None:
        return LimitRejected(failure.message, {"job": job_id, "limit": error.limit})

    if failure.stage is LaunchStage.CGROUP and failure.errno not in LACKS:
        return LimitRejected(failure.message, {"job": job_id})

    return LaunchFailed(
        failure.message,
        {"job": job_id, "stage": failure.stage, "errno": failure.errno},
    )
