"""Waits for several jobs at once."""

import asyncio
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from teleworkerd.protocol.errors import TeleworkerError
from teleworkerd.protocol.messages import MAX_REQUESTS
from teleworkerd.protocol.status import JobStatus
from twctl.client import Client
from twctl.commands.choosing import Choice
from twctl.commands.loop import run_loop
from twctl.commands.meanwhile import INTERVAL, PATIENCE, meanwhile
from twctl.daily import warn_daily
from twctl.exit_codes import ExitCode, job_code, of_error
from twctl.job import RemoteJob
from twctl.profile import Profile
from twctl.render import (
    OutputForm,
    is_screen,
    print_error,
    print_json,
    print_line,
    print_notice,
    status_object,
)


Outcome = JobStatus | TeleworkerError | None

_ROOM: Final = MAX_REQUESTS  # waits that are open at once on a connection


@dataclass(frozen=True, slots=True)
class Wait:
    """For which jobs to wait, how many seconds, and whether until any has ended."""

    jobs: Choice
    timeout: float | None = None
    is_for_any: bool = False


def wait_for_jobs(
    profile: Profile, wait: Wait, form: OutputForm, *, reconnect: bool
) -> int:
    """Wait, print a code for each job that ended, and return the highest.

    After the time-out the code is 124, whatever had ended by then. Of any, the ID is
    printed too, and the code is that of the first that ended.
    """
    retry_for = None if reconnect else 0

    client = Client(profile, retry_for=retry_for, notice=print_notice, warn=warn_daily)
    # An outage is told of once.
    outcomes = run_loop(
        _wait(wait, client, lambda: Client(profile, retry_for=retry_for))
    )

    if not outcomes:
        print_notice("no job fits")

    # Who names a job twice has its code twice.
    named = [] if wait.is_for_any else wait.jobs.refs
    ends = [outcomes[ref] for ref in named or outcomes]

    if form is OutputForm.JSON:
        print_json(
            [status_object(status) for status in ends if isinstance(status, JobStatus)]
        )

    codes = [
        _report(outcome, form, with_id=wait.is_for_any)
        for outcome in ends
        if outcome is not None
    ]
    going_on = [ref for ref, outcome in outcomes.items() if outcome is None]

    if going_on and not (wait.is_for_any and codes):
        print_error(f"not ended within {wait.timeout:g} s: {' '.join(going_on)}")
        return ExitCode.TIMED_OUT

    return max(codes, default=ExitCode.OK)


async def _wait(
    wait: Wait, client: Client, another: Callable[[], Client]
) -> dict[str, Outcome]:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(client)
        found = await _find(client, wait.jobs)
        known: dict[str, Outcome] = {
            ref: status
            for ref, status in found.items()
            if status is not None and status.state.is_final
        }

        if wait.is_for_any and known:
            return _first(known)

        refs = [ref for ref in found if ref not in known]

        if wait.timeout == 0:
            ends = {ref: await _look(client.job(ref)) for ref in refs}
        else:
            jobs = {ref: client.job(ref) for ref in refs[:_ROOM]}

            # What waits for its turn to be asked could not be seen to end.
            for start in range(_ROOM, len(refs), _ROOM):
                other = await stack.enter_async_context(another())
                jobs |= {ref: other.job(ref) for ref in refs[start : start + _ROOM]}

            ends = await _ends(jobs, wait)

    ends |= known
    outcomes = {ref: ends[ref] for ref in found}
    return (_first(outcomes) or outcomes) if wait.is_for_any else outcomes


async def _ends(jobs: Mapping[str, RemoteJob], wait: Wait) -> dict[str, Outcome]:
    """Wait for *jobs*, as *wait* says; return what has become of each by then."""
    tasks = {ref: asyncio.create_task(job.wait()) for ref, job in jobs.items()}
    when = asyncio.FIRST_COMPLETED if wait.is_for_any else asyncio.ALL_COMPLETED

    try:
        if tasks:
            async with meanwhile(_show(tasks.values())):
                await asyncio.wait(
                    tasks.values(), timeout=wait.timeout, return_when=when
                )

        return {ref: _outcome(task) for ref, task in tasks.items()}
    finally:
        for task in tasks.values():
            task.cancel()

        await asyncio.gather(*tasks.values(), return_exceptions=True)


async def _show(tasks: Collection[asyncio.Task[JobStatus]]) -> None:
    """Show on stderr that some of *tasks* go on, once that is long."""
    if not is_screen(sys.stderr):
        return

    await asyncio.sleep(PATIENCE)

    from twctl.commands.progress import Spinner  # noqa: PLC0415 - it brings rich

    with Spinner() as spinner:
        while True:
            count = sum(not task.done() for task in tasks)
            jobs = "the job" if len(tasks) == 1 else f"{count} of {len(tasks)} jobs"
            spinner.show(f"waiting for {jobs}")
            await asyncio.sleep(INTERVAL)


def _first(outcomes: Mapping[str, Outcome]) -> dict[str, Outcome]:
    """Return, of those that have ended, the one that ended first."""
    done = {ref: end for ref, end in outcomes.items() if end is not None}
    return dict(sorted(done.items(), key=_ended_at)[:1])


async def _find(client: Client, choice: Choice) -> dict[str, JobStatus | None]:
    """Return the jobs, with what is known of them."""
    if choice.filters is None:
        return dict.fromkeys(choice.refs)

    if (request := choice.request) is None:
        return {}

    found = await client.list(
        states=request.states, name=request.name, labels=request.labels
    )
    return {job.id: job for job in found}


async def _look(job: RemoteJob) -> Outcome:
    """Return how *job* has ended, if it has."""
    try:
        return await job.wait(timeout=0)
    except TimeoutError:
        return None
    except TeleworkerError as error:
        return error


def _ended_at(item: tuple[str, Outcome]) -> int:
    _, outcome = item
    at = outcome.ended_at if isinstance(outcome, JobStatus) else None
    return at or 0


def _outcome(task: asyncio.Task[JobStatus]) -> Outcome:
    if not task.done():
        return None

    error = task.exception()

    if error is None:
        return task.result()

    if isinstance(error, TeleworkerError):
        return error

    raise error


def _report(
    outcome: JobStatus | TeleworkerError, form: OutputForm, *, with_id: bool
) -> int:
    if isinstance(outcome, TeleworkerError):
        print_error(outcome)
        return of_error(outcome, is_run=False)

    code = job_code(outcome)

    if form is OutputForm.TEXT:
        print_line(f"{outcome.id} {code}" if with_id else str(code))

    return code
