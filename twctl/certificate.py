"""When a certificate is valid, read from its DER bytes; `ssl` does not tell."""

import calendar
import time
from typing import Final


_UTC_TIME: Final = 0x17
_VERSION: Final = 0xA0
_FIELDS_BEFORE_VALIDITY: Final = 3  # serial number, algorithm, issuer


def read_validity(der: bytes) -> tuple[int, int]:
    """Return the first and the last second of the certificate *der*.

    Both count from the epoch. Raises `ValueError` when it is not built as
    RFC 5280 says.
    """
    _, certificate, _ = _take(der)
    _, body, _ = _take(certificate)

    if body[:1] == bytes([_VERSION]):
        _, _, body = _take(body)

    for _ in range(_FIELDS_BEFORE_VALIDITY):
        _, _, body = _take(body)

    _, validity, _ = _take(body)
    tag, not_before, rest = _take(validity)
    other_tag, not_after, _ = _take(rest)
    return _moment(tag, not_before), _moment(other_tag, not_after)


def format_moment(seconds: int) -> str:
    """Return a moment as people read it, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def _take(data: bytes) -> tuple[int, bytes, bytes]:
    """Return tag, value and what follows the first element of *data*."""
    if len(data) < 2:
        raise ValueError("the certificate is cut off")

    size, start = data[1], 2

    if size & 0x80:
        start += size & 0x7F
        size = int.from_bytes(data[2:start], "big")

    if start + size > len(data):
        raise ValueError("the certificate is cut off")

    return data[0], data[start : start + size], data[start + size :]


def _moment(tag: int, value: bytes) -> int:
    text = value.decode("ascii")

    if tag == _UTC_TIME:  # RFC 5280, 4.1.2.5.1: two digits, from 1950 to 2049
        text = ("19" if text >= "50" else "20") + text

    return calendar.timegm(time.strptime(text, "%Y%m%d%H%M%SZ"))
