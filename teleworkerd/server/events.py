"""The request `events`: what has become of jobs, by numbers that only grow."""

import asyncio

from teleworkerd.protocol.errors import InvalidRequest, Unavailable
from teleworkerd.protocol.messages import EventsRequest, Message
from teleworkerd.protocol.responses import EventsEnd, EventsResponse
from teleworkerd.server.access import Access
from teleworkerd.server.session import Session
from teleworkerd.store import EventLog, StoreError


async def send_news(
    log: EventLog, access: Access, session: Session, request: EventsRequest
) -> Message:
    """Send what there is, and what comes, until the client wants no more."""
    owner = access.owner_to_list(session.caller, request.owner)
    upto = request.since

    if upto > log.newest:
        raise InvalidRequest(
            f"event {upto} has not come to pass: the newest is {log.newest}; give the"
            " number of one that was told by this server",
            {"newest": log.newest},
        )

    missed = upto > 0 and log.has_forgotten(upto)

    try:
        while True:
            growth = log.growth()
            page = await log.after(upto, owner)
            # Before it is sent: who cancels meanwhile has been told of it.
            upto = page.upto

            if page.news or missed:
                await session.send(
                    EventsResponse(request.id, page.news, page.upto, missed)
                )
                missed = False

            if upto < log.newest:
                continue

            if not request.follow:
                break

            await growth.wait()
    except StoreError as error:
        raise Unavailable(f"events cannot be read: {error}") from error
    except asyncio.CancelledError:
        if session.is_lost:
            raise

    return EventsEnd(request.id, upto)
