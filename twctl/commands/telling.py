"""Tells what becomes of jobs: as lines, as JSON, or as a list that is kept up."""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from teleworkerd.protocol.errors import ConnectionClosed, InvalidRequest
from teleworkerd.protocol.messages import EventsRequest, ListRequest
from teleworkerd.protocol.status import JobStatus
from twctl.client import Client
from twctl.commands.loop import run_loop, while_read
from twctl.daily import warn_daily
from twctl.exit_codes import ExitCode
from twctl.news import News
from twctl.pretty import list_text, news_text
from twctl.profile import Profile
from twctl.render import (
    OutputForm,
    news_object,
    print_json,
    print_line,
    print_notice,
    print_text,
    status_object,
)


_TOGETHER: Final = 0.2  # seconds: what comes meanwhile is one change of a list
_CLEAR: Final = "\x1b[H\x1b[2J"  # the way to an empty screen


def tell_news(
    profile: Profile,
    request: EventsRequest,
    form: OutputForm,
    *,
    from_now: bool,
    reconnect: bool,
) -> int:
    """Print what there is for *request*, and what comes; return the exit code."""
    client = _client(profile, reconnect=reconnect)
    return run_loop(while_read(_tell(client, request, form, from_now=from_now)))


def watch_list(
    profile: Profile, request: ListRequest, limit: int | None, form: OutputForm
) -> int:
    """Print the list of *request*, and again whenever it has changed, for ever."""
    client = _client(profile, reconnect=True)
    return run_loop(while_read(_watch(client, request, limit, form)))


def _client(profile: Profile, *, reconnect: bool) -> Client:
    retry_for = None if reconnect else 0
    return Client(profile, retry_for=retry_for, notice=print_notice, warn=warn_daily)


async def _tell(
    client: Client, request: EventsRequest, form: OutputForm, *, from_now: bool
) -> int:
    others = request.owner is not None

    async with client:
        if from_now:
            request = replace(request, since=(await client.info()).newest_event)

        async with aclosing(_with_advice(_news(client, request), request)) as pages:
            async for page in pages:
                if page.missed:
                    print_notice(
                        f"some of what came after {request.since} is not kept any more"
                    )

                for news in page.jobs:
                    if form is OutputForm.JSON:
                        print_json(news_object(news))
                    else:
                        print_line(news_text(news, with_owner=others))

                sys.stdout.flush()

    return ExitCode.OK


async def _with_advice(
    pages: AsyncGenerator[News, None], request: EventsRequest
) -> AsyncGenerator[News, None]:
    """Yield *pages*; who loses the connection for good is told how to go on."""
    upto = request.since

    async with aclosing(pages):
        try:
            async for page in pages:
                yield page
                upto = page.upto
        except ConnectionClosed as error:
            follow = " -f" if request.follow else ""
            raise type(error)(
                f"{error}; go on with 'twctl events{follow} --since-seq {upto}'"
            ) from error.__cause__


async def _watch(
    client: Client, request: ListRequest, limit: int | None, form: OutputForm
) -> int:
    changed = asyncio.Event()
    show = _shower(request, form)

    async with client:
        # Before the list: what changes meanwhile is shown by the next one.
        since = (await client.info()).newest_event
        events = EventsRequest(0, since, follow=True, owner=request.owner)
        listening = asyncio.create_task(_listen(client, events, changed))

        try:
            while True:
                show(
                    await client.list(
                        states=request.states,
                        name=request.name,
                        labels=request.labels,
                        limit=limit,
                        owner=request.owner,
                    )
                )
                waiting = asyncio.create_task(changed.wait())
                done, _ = await asyncio.wait(
                    {waiting, listening}, return_when=asyncio.FIRST_COMPLETED
                )
                waiting.cancel()

                if listening in done:
                    listening.result()
                    return ExitCode.OK

                await asyncio.sleep(_TOGETHER)
                changed.clear()
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


async def _listen(
    client: Client, request: EventsRequest, changed: asyncio.Event
) -> None:
    async with aclosing(_news(client, request)) as pages:
        async for _ in pages:
            changed.set()


async def _news(client: Client, request: EventsRequest) -> AsyncGenerator[News, None]:
    async with aclosing(
        client.events(since=request.since, follow=request.follow, owner=request.owner)
    ) as pages:
        try:
            async for page in pages:
                yield page
        except InvalidRequest as error:
            raise InvalidRequest(
                f"{error}; without --since-seq all that is kept is told", error.details
            ) from error


def _shower(
    request: ListRequest, form: OutputForm
) -> Callable[[list[JobStatus]], None]:
    is_live = sys.stdout.isatty() and form is OutputForm.TEXT
    is_first = True

    def show(jobs: list[JobStatus]) -> None:
        nonlocal is_first

        others = request.owner is not None

        if form is OutputForm.JSON:
            print_json([status_object(job) for job in jobs])
        elif is_live:
            from twctl.commands.table import print_list  # noqa: PLC0415 - brings rich

            sys.stdout.write(_CLEAR)
            print_list(jobs, now=time.time_ns(), with_owners=others, on_one_screen=True)
        else:
            if not is_first:
                print_line("")

            print_text(list_text(jobs, now=time.time_ns(), with_owners=others))

        is_first = False
        sys.stdout.flush()

    return show
