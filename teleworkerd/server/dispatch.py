"""From a request to its handler, and from what happens there to an answer."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from teleworkerd.protocol.errors import (
    Cancelled,
    ConnectionClosed,
    InternalError,
    LocalProtocolError,
    RequestError,
)
from teleworkerd.protocol.messages import ErrorAnswer, Message, Request
from teleworkerd.server.handlers import HANDLERS, Call, Handler, Service
from teleworkerd.server.session import Session, error_answer


log = logging.getLogger(__name__)


class Dispatcher:
    """Answers requests with the *service*; *handlers* by the class of request."""

    def __init__(
        self,
        service: Service,
        handlers: Mapping[type[Request], Handler] = HANDLERS,
    ) -> None:
        self._service = service
        self._handlers: Final = handlers

    async def __call__(self, session: Session, request: Request) -> None:
        """Do what *request* asks; every way out of a handler is an answer."""
        call = Call(session, request.id)
        answer: Message

        try:
            answer = await self._handlers[type(request)](self._service, call, request)
        except ConnectionClosed:
            return
        except asyncio.CancelledError:
            if session.is_lost:
                raise

            # The client cancelled the request, not somebody this task.
            answer = error_answer(request.id, Cancelled("cancelled by the client"))
        except RequestError as error:
            answer = error_answer(request.id, error)
        except Exception:
            log.exception("request %s of %s failed", request.type, session)
            answer = _internal(request)

        try:
            await self._send(session, request, answer)
        except ConnectionClosed:
            log.debug("%s did not wait for its answer", session)

    async def _send(self, session: Session, request: Request, answer: Message) -> None:
        try:
            await session.send(answer)
        except LocalProtocolError:
            log.exception(
                "the answer to %s of %s cannot be sent", request.type, session
            )
            await session.send(_internal(request))


def _internal(request: Request) -> ErrorAnswer:
    error = InternalError("the server failed; its log says why")
    return error_answer(request.id, error)
