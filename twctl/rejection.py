"""What a server means that refuses us: not at all any more, or not now."""

from teleworkerd.protocol.errors import ConnectionClosed, RequestError


class ConnectionRejected(ConnectionClosed):
    """One side refused the other; trying again changes nothing."""


class AccessWithdrawn(ConnectionRejected):
    """The server had let us in, and has shown us out; its operator knows why."""


def asked_pause(error: BaseException) -> int | None:
    """Return for how many seconds the server wants no more of what *error* refused.

    None is where it does not say.
    """
    for one in (error, error.__cause__):
        if isinstance(one, RequestError):
            pause = one.details.get("retry_after")
            return pause if isinstance(pause, int) and pause >= 0 else None

    return None
