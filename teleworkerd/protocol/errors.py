"""Everything that can go wrong, as one tree.

::

    TeleworkerError
    ├── ConnectionClosed            the connection is over; carries why
    ├── ProtocolError
    │   ├── LocalProtocolError      we broke the rules: a bug
    │   └── RemoteProtocolError     the peer broke them: response, close
    └── RequestError                crosses the wire as (code, message, details)
        ├── InvalidRequest          a value is out of its range
        ├── JobNotFound             no such job, or somebody else's
        ├── AmbiguousJob            several jobs fit; details: jobs
        ├── NameTaken               a live job of the owner has the name
        ├── RequestConflict         the request id was used for another spec
        ├── LaunchFailed            details: job, stage, errno
        ├── LimitRejected           a limit cannot be applied; details: job, limit
        ├── OffsetOutOfRange        details: first, end
        ├── JobNotEnded             it must have, for this; details: job
        ├── JobRemoved              it was, while its output was read; details: job
        ├── NoSpace                 too little is free for a job; details: free, floor
        ├── Unavailable             not now; details: retry_after
        ├── TooMany                 as many as one may have; details: what, most,
        │                           and retry_after where it passes by itself
        ├── PermissionDenied        the certificate may not do this
        ├── Cancelled               the caller cancelled the request
        ├── UnsupportedVersion      no common protocol version
        ├── ProtocolViolation       the peer says that we broke the rules
        └── InternalError           details are in the server's log

The packages above raise further subclasses of `TeleworkerError` of their own.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import ClassVar


Details = Mapping[str, str | int | list[str]]


class TeleworkerError(Exception):
    """The root of the tree."""


class ConnectionClosed(TeleworkerError):
    """The connection ended before the response; the cause is chained."""


class ProtocolError(TeleworkerError):
    """A rule of protocol.md was broken."""


class LocalProtocolError(ProtocolError):
    """We broke it: raised to the caller, never sent."""


class InvalidMessage(LocalProtocolError, ValueError):
    """A value of it has a type, or a size, that no peer takes."""


class RemoteProtocolError(ProtocolError):
    """The peer broke it: the connection cannot go on."""


class ErrorCode(StrEnum):
    """The codes of protocol.md, "Errors"."""

    INVALID_REQUEST = "invalid_request"
    JOB_NOT_FOUND = "job_not_found"
    AMBIGUOUS_JOB = "ambiguous_job"
    NAME_TAKEN = "name_taken"
    REQUEST_CONFLICT = "request_conflict"
    LAUNCH_FAILED = "launch_failed"
    LIMIT_REJECTED = "limit_rejected"
    OFFSET_OUT_OF_RANGE = "offset_out_of_range"
    JOB_NOT_ENDED = "job_not_ended"
    JOB_REMOVED = "job_removed"
    NO_SPACE = "no_space"
    UNAVAILABLE = "unavailable"
    TOO_MANY = "too_many"
    PERMISSION_DENIED = "permission_denied"
    CANCELLED = "cancelled"
    UNSUPPORTED_VERSION = "unsupported_version"
    PROTOCOL_ERROR = "protocol_error"
    INTERNAL = "internal"


class RequestError(TeleworkerError):
    """A request was refused; *message* is a sentence for people.

    *details* holds the facts for programs, as the tree above lists them.
    """

    code: ClassVar[ErrorCode]
    _by_code: ClassVar[dict[str, type["RequestError"]]] = {}

    def __init_subclass__(cls) -> None:
        # A subclass of a subclass keeps its code; the wire knows the first only.
        RequestError._by_code.setdefault(cls.code, cls)

    def __init__(self, message: str, details: Details | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details: Details = details or {}

    @staticmethod
    def from_wire(code: str, message: str, details: Details) -> "RequestError":
        """Return the error of the class that has *code*.

        A code that a newer peer knows and we do not is an `InternalError` that
        names it.
        """
        known = RequestError._by_code.get(code)

        if known is None:
            return InternalError(f"{message} ({code})", details)

        return known(message, details)


class InvalidRequest(RequestError):
    """A value of the request is out of its range."""

    code = ErrorCode.INVALID_REQUEST


class JobNotFound(RequestError):
    """No job has this name, or the caller may not know that it exists."""

    code = ErrorCode.JOB_NOT_FOUND


class AmbiguousJob(RequestError):
    """The prefix fits more than one of the caller's jobs."""

    code = ErrorCode.AMBIGUOUS_JOB


class NameTaken(RequestError):
    """A job of the same owner that has not ended bears the name."""

    code = ErrorCode.NAME_TAKEN


class RequestConflict(RequestError):
    """The request id belongs to a job with another spec."""

    code = ErrorCode.REQUEST_CONFLICT


class LaunchFailed(RequestError):
    """The command could not be started; the job is recorded as failed."""

    code = ErrorCode.LAUNCH_FAILED


class LimitRejected(RequestError):
    """This host cannot apply a limit that was asked for."""

    code = ErrorCode.LIMIT_REJECTED


class OffsetOutOfRange(RequestError):
    """The stream does not hold the offset."""

    code = ErrorCode.OFFSET_OUT_OF_RANGE


class JobNotEnded(RequestError):
    """Only a job that has ended can be removed."""

    code = ErrorCode.JOB_NOT_ENDED


class JobRemoved(RequestError):
    """The job and its output were removed while the request was under way."""

    code = ErrorCode.JOB_REMOVED


class NoSpace(RequestError):
    """The server's disk is too full for another job."""

    code = ErrorCode.NO_SPACE


class Unavailable(RequestError):
    """The server cannot serve this now."""

    code = ErrorCode.UNAVAILABLE


class TooMany(RequestError):
    """The caller has as many of something as one may have, or asks too often."""

    code = ErrorCode.TOO_MANY


class PermissionDenied(RequestError):
    """The certificate is valid, what it asks for is not granted to it."""

    code = ErrorCode.PERMISSION_DENIED


class Cancelled(RequestError):
    """The caller cancelled the request before it was answered."""

    code = ErrorCode.CANCELLED


class UnsupportedVersion(RequestError):
    """The peers have no protocol version in common."""

    code = ErrorCode.UNSUPPORTED_VERSION


class ProtocolViolation(RequestError):
    """The peer closed the connection because we broke a rule."""

    code = ErrorCode.PROTOCOL_ERROR


class InternalError(RequestError):
    """The server failed; its log has the reason."""

    code = ErrorCode.INTERNAL
