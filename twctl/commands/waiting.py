"""Waits for several jobs at once over one connection."""

import asyncio
from collections.abc import Sequence

from teleworkerd.protocol.errors import TeleworkerError
from teleworkerd.protocol.types import JobStatus
from twctl.client import Client
from twctl.commands.loop import run_loop
from twctl.exit_codes import ExitCode, job_code, of_error
from twctl.profile import Profile
from twctl.render import (
    OutputForm,
    print_error,
    print_json,
    print_line,
    print_notice,
    print_warning,
    status_object,
)


Outcome = JobStatus | TeleworkerError | None


def wait_for_all(
    profile: Profile,
    refs: Sequence[str],
    timeout: float | None,
    form: OutputForm,
    *,
    reconnect: bool,
) -> int:
    """Wait, print a code for each job that ended, and return the highest.

    After *timeout* seconds the code is 124, whatever had ended by then.
    """
    retry_for = None if reconnect else 0
    client = Client(
        profile, retry_for=retry_for, notice=print_notice, warn=print_warning
    )
    outcomes = run_loop(_wait(client, refs, timeout))
    ended = [outcome for outcome in outcomes if isinstance(outcome, JobStatus)]

    if form is OutputForm.JSON:
        print_json([status_object(status) for status in ended])

    codes = [_report(outcome, form) for outcome in outcomes if outcome is not None]

    if None in outcomes:
        going_on = [ref for ref, end in zip(refs, outcomes, strict=True) if end is None]
        print_error(f"not ended within {timeout:g} s: {' '.join(going_on)}")
        return ExitCode.TIMED_OUT

    return max(codes)


async def _wait(
    client: Client,
    refs: Sequence[str],
    timeout: float | None,  # noqa: ASYNC109 - what has ended by then is wanted
) -> list[Outcome]:
    async with client:
        tasks = [asyncio.create_task(client.job(ref).wait()) for ref in refs]

        try:
            await asyncio.wait(tasks, timeout=timeout)
            return [_outcome(task) for task in tasks]
        finally:
            for task in tasks:
                task.cancel()

            await asyncio.gather(*tasks, return_exceptions=True)


def _outcome(task: asyncio.Task[JobStatus]) -> Outcome:
    if not task.done():
        return None

    error = task.exception()

    if error is None:
        return task.result()

    if isinstance(error, TeleworkerError):
        return error

    raise error


def _report(outcome: JobStatus | TeleworkerError, form: OutputForm) -> int:
    if isinstance(outcome, TeleworkerError):
        print_error(outcome)
        return of_error(outcome, is_run=False)

    code = job_code(outcome)

    if form is OutputForm.TEXT:
        print_line(str(code))

    return code
