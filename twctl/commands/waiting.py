"""Waits for several jobs at once, over as many connections as that takes."""

import asyncio
import sys
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

from teleworkerd.protocol.errors import TeleworkerError
from teleworkerd.protocol.status import JobStatus
from twctl.client import Client
from twctl.commands.choosing import Choice
from twctl.commands.loop import run_loop
from twctl.commands.meanwhile import INTERVAL, PATIENCE, meanwhile
from twctl.daily import warn_daily
from twctl.exit_codes import ExitCode, job_code, of_error
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
Outcomes = list[tuple[str, Outcome]]

_AT_ONCE: Final = 200  # waits on a connection, which holds 256 requests


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
    outcomes = run_loop(
        _wait(wait, client, lambda: Client(profile, retry_for=retry_for))
    )

    if not outcomes:
        print_notice("no job fits")

    if form is OutputForm.JSON:
        ended = [end for _, end in outcomes if isinstance(end, JobStatus)]
        print_json([status_object(status) for status in ended])

    codes = [
        _report(outcome, form, with_id=wait.is_for_any)
        for _, outcome in outcomes
        if outcome is not None
    ]
    going_on = dict.fromkeys(ref for ref, outcome in outcomes if outcome is None)

    if going_on:
        print_error(f"not ended within {wait.timeout:g} s: {' '.join(going_on)}")
        return ExitCode.TIMED_OUT

    return max(codes, default=ExitCode.OK)


async def _wait(wait: Wait, client: Client, another: Callable[[], Client]) -> Outcomes:
    """Return what has become of each job, in order; of any, only of the first.

    Until any has ended it may be of all that none has.
    """
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(client)
        found = await _find(client, wait.jobs)
        ends: dict[str, Outcome] = {
            ref: status
            for ref, status in found.items()
            if status is not None and status.state.is_final
        }

        if wait.is_for_any and ends:
            return _first(ends.items())

        refs = [ref for ref in found if ref not in ends]
        # A wait that had to queue would not see its job end.
        clients = [client] + [
            await stack.enter_async_context(another()) for _ in refs[_AT_ONCE::_AT_ONCE]
        ]
        waits = {
            ref: clients[number // _AT_ONCE].job(ref).wait(wait.timeout)
            for number, ref in enumerate(refs)
        }
        ends |= await _gather(waits, is_for_any=wait.is_for_any and wait.timeout != 0)

    outcomes = [(ref, ends[ref]) for ref in wait.jobs.refs or found]
    return (_first(outcomes) or outcomes) if wait.is_for_any else outcomes


async def _gather(
    waits: Mapping[str, Coroutine[Any, Any, JobStatus]], *, is_for_any: bool
) -> dict[str, Outcome]:
    """Return what has come of each of *waits*, when all or any of them are done."""
    tasks = {ref: asyncio.create_task(wait) for ref, wait in waits.items()}
    when = asyncio.FIRST_COMPLETED if is_for_any else asyncio.ALL_COMPLETED

    try:
        if tasks:
            async with meanwhile(_show(tasks.values())):
                await asyncio.wait(tasks.values(), return_when=when)

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


def _first(outcomes: Iterable[tuple[str, Outcome]]) -> Outcomes:
    """Return, of those that have ended, the one that ended first."""
    return sorted((each for each in outcomes if each[1] is not None), key=_ended_at)[:1]


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

    if isinstance(error, TimeoutError):
        return None

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
