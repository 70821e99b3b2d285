"""What comes for a request over as many sessions as it takes."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from teleworkerd.protocol.errors import ConnectionClosed, TeleworkerError
from teleworkerd.protocol.messages import EventsRequest, TopRequest
from teleworkerd.protocol.status import JobStatus
from teleworkerd.protocol.types import Chunk, Gap
from twctl.link import Link
from twctl.news import News
from twctl.place import Place
from twctl.session import Session
from twctl.subscription import FIRST_WINDOW, WINDOW, Opened, OutputQuery


async def read_output(
    link: Link, request: OutputQuery
) -> AsyncGenerator[Opened | Chunk | Gap | JobStatus, None]:
    """Yield what *request* asks for, each byte once and in order.

    The first item says where that begins, the last is the job's status if the
    output is complete. Goes on from the next offset after a lost connection. A
    request that has credit is for no more bytes than that: who has them closes.
    """
    place = Place(request, is_bounded=request.credit > 0)
    place.fill(WINDOW)
    link.places.append(place)

    try:
        while not place.is_at_end:
            session = await link.present(place.request)

            try:
                async with aclosing(_read_on(link, session, place)) as items:
                    async for item in items:
                        yield item

                if not place.is_at_end:
                    raise ConnectionClosed("the server ended the output early")
            except TeleworkerError as error:
                if place.is_at_end:
                    raise

                await link.go_on(session, error, place.request)
                # What gets through a bad link is little: better that than nothing.
                place.fill(FIRST_WINDOW)
    finally:
        link.places.remove(place)


async def watch_use(
    link: Link, request: TopRequest
) -> AsyncGenerator[tuple[int, tuple[JobStatus, ...]], None]:
    """Yield samples, each when it comes; those of an outage are missed.

    Each is a time of the server's clock (ns) and the jobs.
    """
    while True:
        session = await link.present(request)

        try:
            samples, cancel = await session.watch(request)

            try:
                while (sample := await samples.next()) is not None:
                    link.answered()
                    yield sample
            finally:
                cancel()
        except TeleworkerError as error:
            await link.go_on(session, error, request)
        else:
            return


async def follow_news(link: Link, request: EventsRequest) -> AsyncGenerator[News, None]:
    """Yield what has become of jobs, each once and in order, over lost connections."""
    while True:
        session = await link.present(request)

        try:
            inbox, cancel = await session.hear(request)
            link.heard()

            try:
                while (news := await inbox.next()) is not None:
                    link.answered()
                    request = replace(request, since=news.upto)
                    yield news
            finally:
                cancel()
        except TeleworkerError as error:
            await link.go_on(session, error, request)
        else:
            if not inbox.is_cut:
                return


async def _read_on(
    link: Link, session: Session, place: Place
) -> AsyncGenerator[Opened | Chunk | Gap | JobStatus, None]:
    """Yield what comes on *session*, and note the place for another one."""
    subscription, cancel = await session.subscribe(
        place.request, refill=not place.is_bounded
    )
    link.heard()

    try:
        if place.begin(subscription.opened):
            yield subscription.opened

        async with aclosing(subscription.items()) as items:
            async for item in items:
                link.answered()
                place.advance(item)
                yield item
    finally:
        cancel()

    end = subscription.end

    if end is not None:
        place.is_at_end = end.complete or place.may_end

        if end.complete and end.status is not None:
            yield end.status
