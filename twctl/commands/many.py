"""Asks the same of several jobs over one connection."""

from collections.abc import Callable
from dataclasses import dataclass

from teleworkerd.protocol.errors import RequestError
from teleworkerd.protocol.messages import Request
from teleworkerd.protocol.responses import DoneResponse
from twctl.blocking import RESPONSE_TIMEOUT, connect
from twctl.commands.choosing import Choice, find
from twctl.commands.options import Call
from twctl.daily import warn_daily
from twctl.exit_codes import ExitCode, of_error
from twctl.render import (
    SCHEMA,
    OutputForm,
    print_error,
    print_json,
    print_line,
    print_notice,
)


@dataclass(frozen=True, slots=True)
class Action:
    """What each job is asked for, by a request made of a number and the job.

    *done* says in one word what has become of a job then. With *live* it is for jobs
    that have not ended; after *timeout* seconds no response comes any more.
    """

    request: Callable[[int, str], Request]
    done: str
    live: bool = True
    timeout: float | None = RESPONSE_TIMEOUT


def tell_each(call: Call, choice: Choice, action: Action, form: OutputForm) -> int:
    """Ask the same of each job; return the exit code.

    One that is refused does not keep the others from being asked. The IDs of those that
    a filter has found are printed; as JSON, of all with which it went well.
    """
    code: int = ExitCode.OK
    told: list[str] = []
    ended: list[str] = []

    with connect(call.profile(), warn=warn_daily) as session:
        for number, job in enumerate(find(session, choice)):
            try:
                response = session.ask(
                    action.request(number, job), DoneResponse, timeout=action.timeout
                )
            except RequestError as error:
                print_error(error)
                code = max(code, of_error(error, is_run=False))
            else:
                (ended if response.already_ended else told).append(response.job)

                if form is OutputForm.TEXT and choice.filters is not None:
                    print_line(response.job)

                if response.already_ended:
                    print_notice(f"job {response.job} had already ended")

    if form is OutputForm.JSON:
        others = {"already_ended": ended} if action.live else {}
        print_json({"schema": SCHEMA, action.done: told, **others})

    return code
