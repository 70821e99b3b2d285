"""Stand-ins for both who talk to the executor: the keeper, and a job."""

import asyncio

from teleworkerd.execution import ExitRecord, InputFacts, JobIdentity, Launched
from teleworkerd.keeper.channel import Channel
from teleworkerd.keeper.orders import FROM_SERVER
from teleworkerd.protocol.messages import Message
from teleworkerd.protocol.status import LaunchFailure
from teleworkerd.protocol.types import Gap, Stream
from tests.fakes import DEADLINE


def job(number: int = 1) -> JobIdentity:
    """Return an identity."""
    return JobIdentity(f"job{number}", "alice", f"request{number}", 1)


class Sink:
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def launched(self, launched: Launched) -> None:
        """Note it."""
        self.heard.append(launched)

    def launch_failed(self, failure: LaunchFailure, *, ended_at: int) -> None:
        """Note it."""
        self.heard.append((failure, ended_at))

    def stop_requested(self) -> None:
        """Note it."""
        self.heard.append("stop")

    def output_grown(self, stdout: int, stderr: int) -> None:
        """Note it."""
        self.heard.append((stdout, stderr))

    def output_dropped(self, stream: Stream, offset: int, stop: int) -> None:
        """Note it."""
        self.heard.append(Gap(stream, offset, stop))

    def output_held_up(self, why: str | None) -> None:
        """Note it."""
        self.heard.append(("held up", why))

    def unkillable(self, why: str | None) -> None:
        """Note it."""
        self.heard.append(("unkillable", why))

    def input_moved(self, facts: InputFacts) -> None:
        """Note it."""
        self.heard.append(facts)

    def exited(self, record: ExitRecord) -> None:
        """Note it."""
        self.heard.append(record)

    def vanished(self, message: str) -> None:
        """Note it."""
        self.heard.append(message)


class Peer:
    """The keeper's end: what has come, and the means to answer."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[Message | None] = asyncio.Queue()
        self.channel = Channel(
            FROM_SERVER,
            received=self.messages.put_nowait,
            closed=lambda: self.messages.put_nowait(None),
        )

    async def next(self) -> Message | None:
        """Return the next message; None at the end."""
        return await asyncio.wait_for(self.messages.get(), DEADLINE)

    def say(self, *messages: Message) -> None:
        """Send *messages*."""
        for message in messages:
            self.channel.send(message)
