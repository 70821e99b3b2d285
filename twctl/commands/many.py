"""Asks the same of several jobs over one connection."""

from collections.abc import Callable

from teleworkerd.protocol.errors import RequestError
from teleworkerd.protocol.messages import Request
from teleworkerd.protocol.responses import DoneResponse
from twctl.blocking import RESPONSE_TIMEOUT, BlockingSession
from twctl.commands.choosing import Choice, find
from twctl.commands.options import Call
from twctl.daily import warn_daily
from twctl.exit_codes import ExitCode, of_error
from twctl.render import print_error, print_line, print_notice


def tell_each(
    call: Call,
    choice: Choice,
    request: Callable[[int, str], Request],
    *,
    timeout: float | None = RESPONSE_TIMEOUT,
    done: list[str] | None = None,
) -> int:
    """Send each job the *request* that is made from a number and the job.

    The IDs of those that a filter has found are printed. One that is refused does not
    keep the others from being told. The IDs of those that were told are added to
    *done*, and then not printed. Returns the exit code.
    """
    code: int = ExitCode.OK

    with BlockingSession(call.profile(), warn=warn_daily) as session:
        for number, job in enumerate(find(session, choice)):
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
                elif choice.filters is not None:
                    print_line(response.job)

                if response.already_ended:
                    print_notice(f"job {response.job} had already ended")

    return code
