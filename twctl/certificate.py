"""What a certificate says, read from its DER bytes; `ssl` does not tell all of it."""

import socket
import time
from typing import Final, NamedTuple


CLIENT_AUTH: Final = bytes.fromhex("2b06010505070302")
SERVER_AUTH: Final = bytes.fromhex("2b06010505070301")

_BOOLEAN: Final = 0x01
_UTC_TIME: Final = 0x17
_VERSION: Final = 0xA0
_EXTENSIONS: Final = 0xA3
_DNS_NAME: Final = 0x82
_IP_ADDRESS: Final = 0x87

_ALTERNATIVE_NAMES: Final = bytes.fromhex("551d11")
_BASIC_CONSTRAINTS: Final = bytes.fromhex("551d13")
_EXTENDED_KEY_USAGE: Final = bytes.fromhex("551d25")

_FAMILIES: Final = {4: socket.AF_INET, 16: socket.AF_INET6}
_DAYS_BEFORE: Final = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)
_DAYS_BEFORE_1970: Final = 719_162


class Certificate(NamedTuple):
    """One certificate; `begins` and `ends` are its first and last second.

    Both count from the epoch. `purposes` are the object identifiers of its extended
    key usage, `names` the DNS names and addresses that it is for.
    """

    begins: int
    ends: int
    is_authority: bool = False
    is_self_issued: bool = False
    purposes: frozenset[bytes] = frozenset()
    names: tuple[str, ...] = ()


def read_certificate(der: bytes) -> Certificate:
    """Return what *der* says.

    Raises `ValueError` when it is not built as RFC 5280 says.
    """
    _, certificate, _ = _take(der)
    _, body, _ = _take(certificate)

    if body[:1] == bytes([_VERSION]):
        _, _, body = _take(body)

    _, _, body = _take(body)  # the serial number
    _, _, body = _take(body)  # the algorithm
    _, issuer, body = _take(body)
    _, validity, body = _take(body)
    _, subject, body = _take(body)
    _, _, rest = _take(body)  # the public key

    begin_tag, begins, validity = _take(validity)
    end_tag, ends, _ = _take(validity)
    extensions = _extensions(rest)
    return Certificate(
        _moment(begin_tag, begins),
        _moment(end_tag, ends),
        _is_authority(extensions.get(_BASIC_CONSTRAINTS)),
        issuer == subject,
        _purposes(extensions.get(_EXTENDED_KEY_USAGE)),
        _names(extensions.get(_ALTERNATIVE_NAMES)),
    )


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


def _elements(data: bytes) -> list[tuple[int, bytes]]:
    """Return tag and value of each element of *data*."""
    elements = []

    while data:
        tag, value, data = _take(data)
        elements.append((tag, value))

    return elements


def _extensions(rest: bytes) -> dict[bytes, bytes]:
    """Return the values of the extensions in what follows the public key."""
    found: dict[bytes, bytes] = {}

    for tag, value in _elements(rest):
        if tag != _EXTENSIONS:
            continue

        for _, extension in _elements(_take(value)[1]):
            _, name, about = _take(extension)
            kind, content, more = _take(about)

            if kind == _BOOLEAN:  # whether it is critical
                _, content, _ = _take(more)

            found[name] = content

    return found


def _is_authority(constraints: bytes | None) -> bool:
    if constraints is None:
        return False

    first = _elements(_take(constraints)[1])[:1]
    return any(tag == _BOOLEAN and any(value) for tag, value in first)


def _purposes(usage: bytes | None) -> frozenset[bytes]:
    if usage is None:
        return frozenset()

    return frozenset(value for _, value in _elements(_take(usage)[1]))


def _names(alternatives: bytes | None) -> tuple[str, ...]:
    if alternatives is None:
        return ()

    names = []

    for tag, value in _elements(_take(alternatives)[1]):
        if tag == _DNS_NAME:
            names.append(value.decode("ascii", "backslashreplace"))
        elif tag == _IP_ADDRESS and len(value) in _FAMILIES:
            names.append(socket.inet_ntop(_FAMILIES[len(value)], value))

    return tuple(names)


def _moment(tag: int, value: bytes) -> int:
    text = value.decode("ascii")

    if tag == _UTC_TIME:  # RFC 5280, 4.1.2.5.1: two digits, from 1950 to 2049
        text = ("19" if text >= "50" else "20") + text

    month = int(text[4:6]) if text[:14].isdigit() else 0

    if not (len(text) == 15 and text.endswith("Z") and 1 <= month <= 12):
        raise ValueError(f"{text!r:.40} is not a time of a certificate")

    # `calendar` would do it, but takes longer to import than all else here.
    before = int(text[:4]) - 1
    days = before * 365 + before // 4 - before // 100 + before // 400
    days += _DAYS_BEFORE[month - 1] + int(text[6:8]) - 1
    days += month > 2 and _is_leap(before + 1)
    hours = (days - _DAYS_BEFORE_1970) * 24 + int(text[8:10])
    return hours * 3600 + int(text[10:12]) * 60 + int(text[12:14])


def _is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
