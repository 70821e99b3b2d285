"""How far a reader of output has come, so that another session can go on."""

from dataclasses import dataclass, replace

from teleworkerd.protocol.messages import InterleaveRequest, OutputRequest
from teleworkerd.protocol.responses import InterleaveResponse, OutputResponse
from teleworkerd.protocol.types import Chunk, Gap, Stream
from twctl.subscription import Opened, OutputQuery


@dataclass(slots=True, eq=False)
class Place:
    """One reader's place, equal to no other; `request` is for what has not come yet.

    *is_bounded* keeps it to the credit that the request begins with.
    """

    request: OutputQuery
    is_bounded: bool = False
    is_begun: bool = False
    is_at_end: bool = False

    @property
    def may_end(self) -> bool:
        """Whether the output may end although the job goes on."""
        return not self.request.follow or self.request.until is not None

    @property
    def has_command(self) -> bool:
        """Whether `command` goes on where this reader was."""
        return not self.is_bounded and self.request.since is None

    @property
    def command(self) -> str:
        """The command that goes on from here."""
        request = self.request
        follow = " -f" if request.follow else ""

        if isinstance(request, InterleaveRequest):
            return f"twctl tail{follow} --interleave {request.job}"

        err = " --err" if request.stream is Stream.STDERR else ""
        return f"twctl tail{follow} --from-offset {request.offset}{err} {request.job}"

    def fill(self, credit: int) -> None:
        """Ask with this credit, unless there is a bound to keep."""
        if not self.is_bounded:
            self.request = replace(self.request, credit=credit)

    def begin(self, opened: Opened) -> bool:
        """Note where it begins, in which job; return whether that is new."""
        match self.request, opened:
            case OutputRequest() as request, OutputResponse(_, job, offset):
                self.request = replace(request, job=job, offset=offset, since=None)
            case InterleaveRequest() as both, InterleaveResponse(_, job, out, err):
                self.request = replace(
                    both, job=job, stdout=out, stderr=err, since=None
                )
            case _:
                raise AssertionError(opened)  # a subscription lets none through

        is_new = not self.is_begun
        self.is_begun = True
        return is_new

    def advance(self, item: Chunk | Gap) -> None:
        """Note that *item* has come."""
        request = self.request

        if self.is_bounded and isinstance(item, Chunk):
            request = replace(request, credit=request.credit - len(item.data))

        if isinstance(request, OutputRequest):
            self.request = replace(request, offset=item.stop)
        elif item.stream is Stream.STDOUT:
            self.request = replace(request, stdout=item.stop)
        else:
            self.request = replace(request, stderr=item.stop)
