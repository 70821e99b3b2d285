"""From a request to its handler, and from what happens there to a response."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from teleworkerd.counters import OK, Counters
from teleworkerd.protocol.errors import (
    Cancelled,
    ConnectionClosed,
    InternalError,
    LocalProtocolError,
    RequestError,
    Unavailable,
)
from teleworkerd.protocol.messages import Message, Request
from teleworkerd.protocol.responses import ErrorResponse
from teleworkerd.server.handlers import HANDLERS, Call, Handler, Service
from teleworkerd.server.session import Session, error_response
from teleworkerd.server.turns import Turns
from teleworkerd.spare import lack_of


log = logging.getLogger(__name__)


class Dispatcher:
    """Answers requests with the *service*; *handlers* by the class of request."""

    def __init__(
        self,
        service: Service,
        counters: Counters,
        handlers: Mapping[type[Request], Handler] = HANDLERS,
    ) -> None:
        self._service = service
        self._handlers: Final = handlers
        self._counters = counters
        self._turns = Turns()

    async def __call__(self, session: Session, request: Request) -> None:
        """Do what *request* asks; every way out of a handler is a response."""
        call = Call(session, request.id)
        response: Message

        try:
            await self._turns.wait(call.owner)
            response = await self._handlers[type(request)](self._service, call, request)
        except ConnectionClosed:
            return
        except asyncio.CancelledError:
            if session.is_lost:
                raise

            # The client cancelled the request, not somebody this task.
            response = error_response(request.id, Cancelled("cancelled by the client"))
        except RequestError as error:
            response = error_response(request.id, error)
        except (OSError, MemoryError) as error:
            response = _starved(session, request, error)
        except Exception:
            log.exception("request %s of %s failed", request.type, session)
            response = _internal(request)

        outcome = response.code if isinstance(response, ErrorResponse) else OK
        self._counters.requests[request.type, outcome] += 1

        try:
            await self._send(session, request, response)
        except ConnectionClosed:
            log.debug("%s did not wait for its response", session)

    async def _send(
        self, session: Session, request: Request, response: Message
    ) -> None:
        try:
            await session.send(response)
        except LocalProtocolError:
            log.exception(
                "the response to %s of %s cannot be sent", request.type, session
            )
            await session.send(_internal(request))


def _starved(
    session: Session, request: Request, error: OSError | MemoryError
) -> ErrorResponse:
    """Return the response for *error*, which may say that we lack something."""
    if (lack := lack_of(error)) is None:
        log.error("request %s of %s failed", request.type, session, exc_info=error)
        return _internal(request)

    log.warning("request %s of %s was refused: %s", request.type, session, lack)
    refusal = Unavailable(f"{lack}; try again later", {"retry_after": 1})
    return error_response(request.id, refusal)


def _internal(request: Request) -> ErrorResponse:
    error = InternalError("the server failed; its log says why")
    return error_response(request.id, error)
