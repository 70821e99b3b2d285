"""The client of TeleWorker: the library behind `twctl`, and `twctl` itself.

::

    async with twctl.connect("host:7443", ca=…, cert=…, key=…) as client:
        job = await client.run(["make", "-j8"], mem=2048)

        async for chunk in job.output():
            sys.stdout.buffer.write(chunk.data)

        status = await job.wait()
"""

import importlib
from typing import TYPE_CHECKING, Final


if TYPE_CHECKING:
    from teleworkerd.protocol.errors import (
        AmbiguousJob,
        Cancelled,
        ConnectionClosed,
        InternalError,
        InvalidRequest,
        JobNotFound,
        LaunchFailed,
        LimitRejected,
        NameTaken,
        OffsetOutOfRange,
        PermissionDenied,
        ProtocolError,
        ProtocolViolation,
        RequestConflict,
        RequestError,
        TeleworkerError,
        Unavailable,
        UnsupportedVersion,
    )
    from teleworkerd.protocol.messages import InfoResponse
    from teleworkerd.protocol.types import (
        JobState,
        JobStatus,
        LaunchFailure,
        Limits,
        Reason,
        Stream,
        StreamStatus,
        Usage,
    )
    from twctl.client import Client, RemoteJob, connect
    from twctl.profile import Profile, ProfileError
    from twctl.subscription import Chunk
    from twctl.tls import ConnectionRejected


__all__ = [
    "AmbiguousJob",
    "Cancelled",
    "Chunk",
    "Client",
    "ConnectionClosed",
    "ConnectionRejected",
    "InfoResponse",
    "InternalError",
    "InvalidRequest",
    "JobNotFound",
    "JobState",
    "JobStatus",
    "LaunchFailed",
    "LaunchFailure",
    "LimitRejected",
    "Limits",
    "NameTaken",
    "OffsetOutOfRange",
    "PermissionDenied",
    "Profile",
    "ProfileError",
    "ProtocolError",
    "ProtocolViolation",
    "Reason",
    "RemoteJob",
    "RequestConflict",
    "RequestError",
    "Stream",
    "StreamStatus",
    "TeleworkerError",
    "Unavailable",
    "UnsupportedVersion",
    "Usage",
    "connect",
]

# The command line imports this package too; asyncio would cost it 50 ms.
_MODULES: Final[dict[str, tuple[str, ...]]] = {
    "twctl.client": ("Client", "RemoteJob", "connect"),
    "twctl.profile": ("Profile", "ProfileError"),
    "twctl.subscription": ("Chunk",),
    "twctl.tls": ("ConnectionRejected",),
    "teleworkerd.protocol.messages": ("InfoResponse",),
    "teleworkerd.protocol.types": (
        "JobState",
        "JobStatus",
        "LaunchFailure",
        "Limits",
        "Reason",
        "Stream",
        "StreamStatus",
        "Usage",
    ),
}

_HOMES: Final = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    home = _HOMES.get(name, "teleworkerd.protocol.errors")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
