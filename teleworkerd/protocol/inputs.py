"""How far a client has sent to a job's stdin, and how far the job has taken it."""

from dataclasses import dataclass

from teleworkerd.protocol.messages import MAX_INPUT, InputData
from teleworkerd.protocol.responses import InputEnd, InputTaken
from teleworkerd.protocol.types import MAX_OFFSET


@dataclass(slots=True)
class InputWindow:
    """The bytes that are on their way to a job, by their offsets.

    Those up to `taken` are known to have arrived, those up to `sent` were sent.
    The methods return what is wrong with a message, or None and take it into account.
    """

    is_open: bool = False
    sent: int = 0
    taken: int = 0
    has_ended: bool = False

    @property
    def room(self) -> int:
        """How many bytes may be sent now."""
        return 0 if self.has_ended else self.taken + MAX_INPUT - self.sent

    def open(self, offset: int) -> str | None:
        """Begin at *offset*."""
        if self.is_open:
            return "after it was opened"

        self.is_open = True
        self.sent = self.taken = offset
        return None

    def send(self, data: InputData) -> str | None:
        """Send *data*."""
        stop = data.offset + len(data.data)

        if not self.is_open:
            return "before it was opened"

        if self.has_ended:
            return "after its end"

        if data.offset != self.sent:
            return f"at offset {data.offset}, not {self.sent}"

        if len(data.data) > self.room:
            return f"of {len(data.data)} bytes, with room for {self.room}"

        if stop > MAX_OFFSET:
            return f"up to offset {stop}; the most is {MAX_OFFSET}"

        self.sent = stop
        self.has_ended = data.eof
        return None

    def take(self, message: InputTaken | InputEnd) -> str | None:
        """Have the job take what is before the offset of *message*."""
        if not self.is_open:
            # It may end without having been opened.
            return None if isinstance(message, InputEnd) else "before it was opened"

        if not self.taken <= message.offset <= self.sent:
            return f"at offset {message.offset}, not {self.taken} to {self.sent}"

        self.taken = message.offset
        return None
