"""The client of TeleWorker: the library behind `twctl`, and `twctl` itself.

::

    async with twctl.connect(
        "worker.example.org:7443", ca="ca.pem", cert="alice.pem", key="alice-key.pem"
    ) as client:
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
        JobNotEnded,
        JobNotFound,
        JobRemoved,
        LaunchFailed,
        LimitRejected,
        NameTaken,
        NoSpace,
        OffsetOutOfRange,
        PermissionDenied,
        ProtocolError,
        ProtocolViolation,
        RequestConflict,
        RequestError,
        TeleworkerError,
        TooMany,
        Unavailable,
        UnsupportedVersion,
    )
    from teleworkerd.protocol.responses import InfoResponse, JobNews
    from teleworkerd.protocol.spec import Limits, TerminalSize
    from teleworkerd.protocol.status import (
        JobStatus,
        LaunchFailure,
        StreamStatus,
        Usage,
    )
    from teleworkerd.protocol.types import (
        Chunk,
        Gap,
        InputEndReason,
        JobState,
        OnFull,
        Reason,
        Role,
        Stream,
    )
    from twctl import sync
    from twctl.client import Client, connect
    from twctl.input import InputEnded, JobInput
    from twctl.job import RemoteJob
    from twctl.moments import Moment
    from twctl.news import News
    from twctl.profile import Profile, ProfileError
    from twctl.reading import OutputDropped, Reading
    from twctl.rejection import AccessWithdrawn, ConnectionRejected
    from twctl.sampling import JobUse, Sample
    from twctl.verify import DigestMismatch


__all__ = [
    "AccessWithdrawn",
    "AmbiguousJob",
    "Cancelled",
    "Chunk",
    "Client",
    "ConnectionClosed",
    "ConnectionRejected",
    "DigestMismatch",
    "Gap",
    "InfoResponse",
    "InputEndReason",
    "InputEnded",
    "InternalError",
    "InvalidRequest",
    "JobInput",
    "JobNews",
    "JobNotEnded",
    "JobNotFound",
    "JobRemoved",
    "JobState",
    "JobStatus",
    "JobUse",
    "LaunchFailed",
    "LaunchFailure",
    "LimitRejected",
    "Limits",
    "Moment",
    "NameTaken",
    "News",
    "NoSpace",
    "OffsetOutOfRange",
    "OnFull",
    "OutputDropped",
    "PermissionDenied",
    "Profile",
    "ProfileError",
    "ProtocolError",
    "ProtocolViolation",
    "Reading",
    "Reason",
    "RemoteJob",
    "RequestConflict",
    "RequestError",
    "Role",
    "Sample",
    "Stream",
    "StreamStatus",
    "TeleworkerError",
    "TerminalSize",
    "TooMany",
    "Unavailable",
    "UnsupportedVersion",
    "Usage",
    "connect",
    "sync",
]

# The command line imports this package too; asyncio would cost it 50 ms.
_MODULES: Final[dict[str, tuple[str, ...]]] = {
    "twctl.client": ("Client", "connect"),
    "twctl.input": ("InputEnded", "JobInput"),
    "twctl.job": ("RemoteJob",),
    "twctl.moments": ("Moment",),
    "twctl.news": ("News",),
    "twctl.profile": ("Profile", "ProfileError"),
    "twctl.reading": ("OutputDropped", "Reading"),
    "twctl.rejection": ("AccessWithdrawn", "ConnectionRejected"),
    "twctl.sampling": ("JobUse", "Sample"),
    "twctl.verify": ("DigestMismatch",),
    "teleworkerd.protocol.responses": ("InfoResponse", "JobNews"),
    "teleworkerd.protocol.spec": ("Limits", "TerminalSize"),
    "teleworkerd.protocol.status": (
        "JobStatus",
        "LaunchFailure",
        "StreamStatus",
        "Usage",
    ),
    "teleworkerd.protocol.types": (
        "Chunk",
        "Gap",
        "InputEndReason",
        "JobState",
        "OnFull",
        "Reason",
        "Role",
        "Stream",
    ),
}

_HOMES: Final = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    if name == "sync":
        return importlib.import_module("twctl.sync")

    home = _HOMES.get(name, "teleworkerd.protocol.errors")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
