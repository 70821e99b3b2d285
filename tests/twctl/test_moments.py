"""Times as people write them."""

from datetime import UTC, datetime, timedelta

import pytest

from twctl.moments import LATEST, SECOND, nanoseconds, parse_moment


NOW = 1_800_000_000 * SECOND
EVENING = 1_769_882_400 * SECOND  # 2026-01-31T18:00:00Z


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-31T18:00:00Z", EVENING),
        ("2026-01-31t18:00:00z", EVENING),
        ("2026-01-31 18:00:00Z", EVENING),
        ("2026-01-31T18:00Z", EVENING),
        ("2026-01-31T19:30:00+01:30", EVENING),
        ("2026-01-31T13:00:00-0500", EVENING),
        ("2026-01-31 18:00:00 +00:00", EVENING),
        ("2026-01-31T18:00:00.123456789Z", EVENING + 123_456_789),
        ("2026-01-31T18:00:00.5Z", EVENING + SECOND // 2),
        ("2026-01-31T18:00:00,0000000019Z", EVENING + 1),
        ("2026-01-31T17:59:60Z", EVENING),
        ("@1769882400", EVENING),
        ("@1769882400.000000001", EVENING + 1),
        (" @0 ", 0),
        ("1969-12-31T00:00:00Z", 0),
        ("9999-12-31T23:59:59Z", LATEST),
        ("10m", NOW - 600 * SECOND),
        ("1h30m", NOW - 5400 * SECOND),
        ("500ms", NOW - SECOND // 2),
        ("40000d", 0),
    ],
)
def test_moments(text: str, expected: int) -> None:
    """RFC 3339 in its variants, seconds since 1970, and so long ago."""
    assert expected == nanoseconds(parse_moment(text), now=NOW)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-31", datetime(2026, 1, 31)),  # noqa: DTZ001 - local is meant
        ("2026-07-31 18:00", datetime(2026, 7, 31, 18)),  # noqa: DTZ001
    ],
)
def test_local_time(text: str, expected: datetime) -> None:
    """Without a zone it is this machine's time; a date is its first moment."""
    seconds = round(expected.timestamp())
    assert seconds * SECOND == nanoseconds(parse_moment(text), now=NOW)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not a time"),
        ("yesterday", "is not a time"),
        ("-10m", "is not a time"),
        ("10x", "is not a time"),
        ("2026-1-31", "is not a time"),
        ("2026-01-31T18", "is not a time"),
        ("2026-01-31T18:00:00+1", "is not a time"),
        ("@", "is not a time"),
        ("@-5", "is not a time"),
        ("10", "write 10s for so long ago, or @10"),
        ("1.5", "has no unit"),
        ("2026-02-30", "is not in the calendar: day is out of range"),
        ("2026-01-31T25:00:00Z", "hour must be in 0..23"),
        ("2026-01-31T18:00:00+00:99", "minute must be"),
        ("2026-01-31T18:00:00+25:00", "is not in the calendar"),
        ("9999999999999999999d", "is not a time"),
        ("999999999999d", "is not a time"),
    ],
)
def test_no_moments(text: str, words: str) -> None:
    """What is no time says what would be."""
    with pytest.raises(ValueError, match=words.replace("+", r"\+")):
        parse_moment(text)


def test_moments_of_programs() -> None:
    """A program gives a number, a time or a span."""
    moment = datetime(2026, 1, 31, 18, 0, 0, 1, tzinfo=UTC)

    assert nanoseconds(EVENING, now=NOW) == EVENING
    assert nanoseconds(moment, now=NOW) == EVENING + 1000
    assert nanoseconds(timedelta(minutes=1), now=NOW) == NOW - 60 * SECOND
