"""The request `input`: what a client sends to the stdin of a job."""

import asyncio

from teleworkerd.jobs.job import Job
from teleworkerd.jobs.stdin import Seat
from teleworkerd.protocol.errors import InvalidRequest
from teleworkerd.protocol.messages import InputData, InputRequest, Message
from teleworkerd.protocol.responses import InputEnd, InputResponse, InputTaken
from teleworkerd.protocol.types import InputEndReason
from teleworkerd.server.session import Session


async def receive_input(job: Job, session: Session, request: InputRequest) -> Message:
    """Pass on what comes, and tell how far that is, until there can be no more."""
    stdin = job.stdin

    if not job.facts.takes_input:
        raise InvalidRequest(
            f"job {job.id} was started without stdin; start it with -i, or with -t"
            " for a terminal",
            {"job": job.id},
        )

    if stdin.ended is not None:
        return InputEnd(request.id, stdin.offset, stdin.ended)

    if request.resume and not stdin.belongs_to(request.sender):
        return InputEnd(request.id, stdin.offset, InputEndReason.TAKEN_OVER)

    with stdin.take(request.sender, by=session.caller) as seat:
        try:
            await _tell(job, session, request, seat)
        except asyncio.CancelledError:
            if session.is_lost:
                raise

            return await _cancelled(job, session, request, seat)

        return InputEnd(request.id, seat.offset, seat.ended or InputEndReason.ENDED)


async def _tell(job: Job, session: Session, request: InputRequest, seat: Seat) -> None:
    """Have the client send, and tell it what is taken, until it has to end."""
    if not await seat.taken():
        return

    def pass_on(data: InputData) -> None:
        seat.write(data.data, eof=data.eof)

    with session.receiving(request.id, pass_on):
        await session.send(InputResponse(request.id, job.id, seat.offset))

        while await seat.changed():
            await session.send(InputTaken(request.id, seat.offset))


async def _cancelled(
    job: Job, session: Session, request: InputRequest, seat: Seat
) -> Message:
    await job.stdin.give_up(seat, by=session.caller)
    reason = seat.ended

    if reason is InputEndReason.TAKEN_OVER:
        reason = InputEndReason.CANCELLED

    return InputEnd(request.id, seat.offset, reason or InputEndReason.CANCELLED)
