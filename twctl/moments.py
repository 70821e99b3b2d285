"""Moments as people write them: a date and a time, seconds since 1970, or `10m`."""

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

from twctl.parsing import parse_duration


Moment = int | datetime | timedelta
"""Nanoseconds since the epoch, a time (local, if it has no zone), or so long ago."""

SECOND: Final = 10**9  # nanoseconds
LATEST: Final = (1 << 63) - 1  # nanoseconds; what the wire holds

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_UNIX: Final = re.compile(r"@(\d{1,12})(?:\.(\d{1,9}))?", re.ASCII)
_PLAIN: Final = re.compile(r"[\d.]+", re.ASCII)
_RFC_3339: Final = re.compile(
    r"""(\d{4})-(\d\d)-(\d\d)
        (?: [Tt ] (\d\d):(\d\d) (?: :(\d\d) (?: [.,] (\d{1,9}) \d* )? )?
            \ ? ( [Zz] | [+-]\d\d:?\d\d )? )?""",
    re.ASCII | re.VERBOSE,
)


def parse_moment(text: str) -> int | timedelta:
    """Return what *text* says: nanoseconds since the epoch, or how long ago.

    A date and time without a zone is local, a date alone its first moment. Raises
    `ValueError` with a sentence for the user.
    """
    text = text.strip()

    if match := _UNIX.fullmatch(text):
        return _clamp(int(match[1]) * SECOND + _fraction(match[2]))

    if match := _RFC_3339.fullmatch(text):
        try:
            return _calendar(match)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{text!r} is not in the calendar: {error}") from error

    if _PLAIN.fullmatch(text):
        raise ValueError(
            f"{text!r} has no unit; write {text}s for so long ago,"
            f" or @{text} for so long after 1970"
        )

    try:
        return timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is not a time; write 2026-01-31T18:00:00Z, 2026-01-31 18:00"
            " (local time), @1769882400, or 10m or 1h30m for so long ago"
        ) from None


def nanoseconds(moment: Moment, *, now: int) -> int:
    """Return *moment* in nanoseconds since the epoch; *now* is such a number too."""
    match moment:
        case timedelta():
            return _clamp(now - moment // _MICROSECOND * 1000)
        case datetime():
            return _since_epoch(moment)
        case _:
            return _clamp(moment)


def _calendar(match: re.Match[str]) -> int:
    year, month, day, hour, minute, second = (
        int(part or 0) for part in match.groups()[:6]
    )
    leap = 1 if second == 60 else 0  # RFC 3339 has it, the calendar has not
    zone = _zone(match[8])
    whole = datetime(year, month, day, hour, minute, second - leap, tzinfo=zone)
    return _clamp(_since_epoch(whole) + leap * SECOND + _fraction(match[7]))


def _zone(text: str | None) -> timezone | None:
    if text is None:
        return None

    if text in "Zz":
        return UTC

    hours, minutes = int(text[1:3]), int(text[-2:])

    if minutes > 59:
        raise ValueError(f"minute must be in 0..59, not {minutes}")

    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if text[0] == "-" else offset)


def _fraction(digits: str | None) -> int:
    return int((digits or "").ljust(9, "0"))


def _since_epoch(moment: datetime) -> int:
    return _clamp((moment.astimezone(UTC) - _EPOCH) // _MICROSECOND * 1000)


def _clamp(value: int) -> int:
    return min(max(0, value), LATEST)
