"""What is typed at a terminal that was given over to a job."""

import pytest

from twctl.commands.keyboard import DetachKeys


KEY = b"\x1d"


@pytest.mark.parametrize(
    ("typed", "passed"),
    [
        ([b"abc"], b"abc"),
        ([b"a" + KEY + b"b"], b"a" + KEY + b"b"),
        ([KEY, b"b"], KEY + b"b"),
        ([KEY + KEY, b"b"], KEY + KEY + b"b"),
        ([KEY + b"x" + KEY + KEY], KEY + b"x"),
    ],
)
def test_keys_that_pass(typed: list[bytes], passed: bytes) -> None:
    """Less than three in a row is for the job, once it is known that it is less."""
    keys = DetachKeys()
    found = [keys.split(data, now=0.0) for data in typed]

    assert b"".join(data for data, _ in found) == passed
    assert not any(is_leaving for _, is_leaving in found)


@pytest.mark.parametrize(
    ("typed", "passed"),
    [([KEY * 3], b""), ([b"ab" + KEY, KEY, KEY + b"c"], b"ab"), ([KEY * 2, KEY], b"")],
)
def test_three(typed: list[bytes], passed: bytes) -> None:
    """Three in a row detach, and nothing of them or after them is passed on."""
    keys = DetachKeys()
    found = [keys.split(data, now=0.0) for data in typed]

    assert b"".join(data for data, _ in found) == passed
    assert [is_leaving for _, is_leaving in found] == [False] * (len(typed) - 1) + [
        True
    ]
    assert not keys.is_holding


def test_slowly() -> None:
    """Three that are not pressed within a second are for the job."""
    keys = DetachKeys()
    first = keys.split(KEY * 2, now=0.0)
    held = keys.is_holding
    later = keys.split(KEY, now=1.5)

    assert (first, held) == ((b"", False), True)
    assert later == (KEY * 2, False)


def test_released() -> None:
    """What was held back is passed on when nothing more comes."""
    keys = DetachKeys()
    keys.split(KEY, now=0.0)

    assert keys.release() == KEY
    assert keys.release() == b""
