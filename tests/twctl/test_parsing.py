"""The small languages of the command line."""

import pytest

from teleworkerd.protocol.types import JobState
from twctl.commands.filters import Filters, parse_filters
from twctl.parsing import (
    parse_duration,
    parse_env,
    parse_interval,
    parse_label,
    parse_megabytes,
    parse_ref,
    parse_signal,
    parse_text,
)


@pytest.mark.parametrize(
    ("text", "megabytes"),
    [
        ("512", 512),
        ("512m", 512),
        ("512M", 512),
        ("512MB", 512),
        ("512MiB", 512),
        ("2g", 2048),
        ("1t", 1 << 20),
        ("4096k", 4),
    ],
)
def test_sizes(text: str, megabytes: int) -> None:
    """A size is in megabytes unless it has a unit."""
    assert megabytes == parse_megabytes(text)


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "1.5g", "5q", "1000k", "m", "1 2", "\u0663"]
)
def test_bad_sizes(text: str) -> None:
    """What is no size, or no whole number of megabytes, is refused by name."""
    with pytest.raises(ValueError, match="not a"):
        parse_megabytes(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10", 10),
        ("0.5", 0.5),
        ("10s", 10),
        ("0.5s", 0.5),
        ("250ms", 0.25),
        ("5m", 300),
        ("2h", 7200),
        ("1h30m", 5400),
        ("1D", 86_400),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    """A duration is in seconds, or a sum of numbers with units."""
    assert seconds == parse_duration(text)


@pytest.mark.parametrize(
    "text", ["", "soon", "-1", "1x", "5m3", "h", "1e9", "inf", "nan", "10 s", "\u0663"]
)
def test_bad_durations(text: str) -> None:
    """Anything else is no duration."""
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["0", "99ms", "61m"])
def test_bad_intervals(text: str) -> None:
    """No sample comes more often, or more rarely, than a server sends them."""
    with pytest.raises(ValueError, match="out of range"):
        parse_interval(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("9", 9),
        ("64", 64),
        ("KILL", 9),
        ("SIGKILL", 9),
        ("sigkill", 9),
        ("Usr1", 10),
        ("RTMIN", 34),
        ("RTMIN+2", 36),
        ("SIGRTMAX-1", 63),
    ],
)
def test_signals(text: str, number: int) -> None:
    """A signal is a number or a name, with or without SIG, in any case."""
    assert number == parse_signal(text)


@pytest.mark.parametrize("text", ["0", "65", "-9", "", "NOPE", "RTMIN+40", "9" * 99])
def test_bad_signals(text: str) -> None:
    """A signal that does not exist is refused and repeated."""
    with pytest.raises(ValueError, match="is not a signal"):
        parse_signal(text)


def test_environment() -> None:
    """`K=V` sets, `K` copies, and a `K` that is not there sets nothing."""
    environ = {b"HOME": b"/root", b"ODD": b"\xff"}

    env = parse_env(["A=b=c", "EMPTY=", "HOME", "ODD", "NONE", "B=\udcff"], environ)

    assert env == {
        b"A": b"b=c",
        b"EMPTY": b"",
        b"HOME": b"/root",
        b"ODD": b"\xff",
        b"B": b"\xff",
    }


def test_environment_without_a_name() -> None:
    """A variable needs a name."""
    with pytest.raises(ValueError, match="'=v'"):
        parse_env(["=v"])


def test_filters() -> None:
    """Filters add up; a label may hold more equals signs."""
    filters = parse_filters(
        ["state=running", "state=lost", "label=a=b=c", "label=d=", "name=x"]
    )

    assert filters == Filters(
        (JobState.RUNNING, JobState.LOST), "x", {"a": "b=c", "d": ""}
    )


@pytest.mark.parametrize(
    "text", ["state", "state=odd", "label=x", "name=", "colour=red", ""]
)
def test_bad_filters(text: str) -> None:
    """A filter that means nothing is refused."""
    with pytest.raises(ValueError, match=r"is not|it is empty"):
        parse_filters([text])


@pytest.mark.parametrize("text", ["", "x", "=v", "k=\udcff", "k=" + "v" * 256])
def test_bad_labels(text: str) -> None:
    """A label needs a key, an equals sign, and a value that fits the wire."""
    with pytest.raises(ValueError, match=r"is not|it has"):
        parse_label(text)


def test_text_that_is_not_utf8() -> None:
    """Names travel as text, so they have to be text."""
    with pytest.raises(ValueError, match="UTF-8"):
        parse_text("\udcff")


def test_reference_that_is_too_long() -> None:
    """No job has a name of 65 characters."""
    assert parse_ref("x" * 64)

    with pytest.raises(ValueError, match="65"):
        parse_ref("x" * 65)
