"""Times before lines."""

import re

from hypothesis import given
from hypothesis import strategies as st

from teleworkerd.protocol.types import Chunk, Gap, Stream
from tests.twctl.splitting import split
from twctl.stamps import Stamper


FIRST = b"2026-01-02T03:04:05.123456789Z "
SECOND = b"2026-01-02T03:04:05.123456790Z "
TIME = 1_767_323_045_123_456_789

STAMP = re.compile(rb"(?:(?<=\n)|\A)\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z ")


def chunk(data: bytes, *times: int, offset: int = 0) -> Chunk:
    """Return a chunk of stdout."""
    return Chunk(Stream.STDOUT, offset, data, times)


def test_each_line_has_the_time_of_its_first_byte() -> None:
    """A line that came in two parts has the time of the first."""
    stamper = Stamper(at_line_start=True)
    times = (100, TIME, 103, TIME + 1)

    stamped = stamper.stamp(chunk(b"a\nb\nc\nd", *times, offset=100))

    assert stamped == FIRST + b"a\n" + FIRST + b"b\n" + SECOND + b"c\n" + SECOND + b"d"
    assert stamper.stamp(chunk(b"e\n", 107, TIME, offset=107)) == b"e\n"
    assert stamper.stamp(chunk(b"\n", 109, TIME, offset=109)) == FIRST + b"\n"


def test_middle_of_a_line() -> None:
    """What does not begin a line gets no stamp."""
    stamper = Stamper(at_line_start=False)

    assert (
        stamper.stamp(chunk(b"rest\nnext\n", 0, TIME)) == b"rest\n" + FIRST + b"next\n"
    )


def test_after_what_is_left_out() -> None:
    """A gap may end within a line; what was left out may not."""
    stamper = Stamper(at_line_start=True)

    stamper.pass_over(Gap(Stream.STDOUT, 0, 10))
    assert stamper.stamp(chunk(b"a\n", 10, TIME, offset=10)) == b"a\n"
    stamper.pass_over(chunk(b"b"))
    assert stamper.stamp(chunk(b"c\n", 0, TIME)) == b"c\n"
    stamper.pass_over(chunk(b"d\n"))
    assert stamper.stamp(chunk(b"e\n", 0, TIME)) == FIRST + b"e\n"


def test_unknown_time() -> None:
    """A line whose time nobody knows has a dash in its place."""
    stamper = Stamper(at_line_start=True)

    assert stamper.stamp(chunk(b"a\nb\n", 2, TIME)) == b"- a\n" + FIRST + b"b\n"
    assert stamper.stamp(chunk(b"c\n")) == b"- c\n"


@given(
    st.lists(st.sampled_from([b"\n", b"a", b"bc\n", b"\xff\r"])).map(b"".join),
    st.data(),
)
def test_stamps_add_and_take_nothing(data: bytes, choice: st.DataObject) -> None:
    """Without its stamps the text is as it was, and each line had one."""
    stamper = Stamper(at_line_start=True)

    stamped = b"".join(map(stamper.stamp, split(data, choice, TIME)))

    assert STAMP.sub(b"", stamped) == data
    lines = data.removesuffix(b"\n").count(b"\n") + 1 if data else 0
    assert len(STAMP.findall(stamped)) == lines
