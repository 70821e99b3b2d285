"""Asks the same of several jobs over one connection."""

from collections.abc import Callable, Sequence

from teleworkerd.protocol.errors import RequestError
from teleworkerd.protocol.messages import Request
from teleworkerd.protocol.responses import DoneResponse
from twctl.blocking import RESPONSE_TIMEOUT, BlockingSession
from twctl.commands.options import Call, job_ref
from twctl.exit_codes import ExitCode, of_error
from twctl.render import print_error, print_notice, print_warning


def tell_each(
    call: Call,
    jobs: Sequence[str],
    request: Callable[[int, str], Request],
    *,
    timeout: float | None = RESPONSE_TIMEOUT,
    done: list[str] | None = None,
) -> int:
    """Send each job the *request* that is made from a number and the job.

    One that is refused does not keep the others from being told. The IDs of those
    that were told are added to *done*. Returns the exit code.
    """
    jobs = [job_ref(job) for job in jobs]
    code: int = ExitCode.OK

    with BlockingSession(call.profile(), warn=print_warning) as session:
        for number, job in enumerate(jobs):
            try:
                response = session.ask(
                    request(number, job), DoneResponse, timeout=timeout
                )
            except RequestError as error:
                print_error(error)
                code = max(code, of_error(error, is_run=False))
            else:
                if done is not None:
                    done.append(response.job)

                if response.already_ended:
                    print_notice(f"job {response.job} had already ended")

    return code
