"""The small languages of the command line: sizes, durations, signals, pairs."""

import os
import re
import signal
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeVar

from teleworkerd.protocol.messages import MAX_INTERVAL, MIN_INTERVAL
from teleworkerd.protocol.types import OnFull


MAX_WORD: Final = 255  # characters, as on the wire
MAX_REF: Final = 64
MAX_OFFSET: Final = (1 << 63) - 1

_SIZE: Final = re.compile(
    r"(\d{1,15})\s*(?:([kmgtp])(?:i?b)?)?", re.ASCII | re.IGNORECASE
)
_BYTES_PER: Final = {"": 1} | {unit: 1 << 10 * n for n, unit in enumerate("kmgtp", 1)}
_MB_PER: Final = {"m": 1, "g": 1 << 10, "t": 1 << 20, "p": 1 << 30}
_PART: Final = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)(ms|s|m|h|d)", re.ASCII)
_NUMBER: Final = re.compile(r"\d{1,12}(?:\.\d{1,9})?", re.ASCII)
_SECONDS_PER: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_DIGITS: Final = re.compile(r"-?[0-9]+")
_MOST_DIGITS: Final = 18
_MAX_SIGNAL: Final = 64

T = TypeVar("T")


def parse_megabytes(text: str) -> int:
    """Return the megabytes in `512`, `512m` or `2g`.

    This and the others raise `ValueError` with a sentence for the user.
    """
    match = _SIZE.fullmatch(text.strip())

    if match is None:
        raise ValueError(f"{text!r} is not a size; write 512 (megabytes), 512m or 2g")

    number, unit = int(match[1]), (match[2] or "m").lower()

    if unit == "k":
        if number % 1024:
            raise ValueError(f"{text!r} is not a whole number of megabytes")

        return number // 1024

    return number * _MB_PER[unit]


def parse_bytes(text: str) -> int:
    """Return the bytes in `512`, `64k`, `10M` or `2g`."""
    match = _SIZE.fullmatch(text.strip())

    if match is None:
        raise ValueError(f"{text!r} is not a size; write 512 (bytes), 64k, 10m or 2g")

    size = int(match[1]) * _BYTES_PER[(match[2] or "").lower()]

    if size > MAX_OFFSET:
        raise ValueError(f"{text!r} is too much; the most is {MAX_OFFSET} bytes")

    return size


def parse_last_lines(text: str) -> int:
    """Return how many lines at the end."""
    _refuse_from_the_start(text)
    return parse_number(text, least=0)


def parse_last_bytes(text: str) -> int:
    """Return how many bytes at the end."""
    _refuse_from_the_start(text)
    return parse_bytes(text)


def parse_on_full(text: str) -> OnFull:
    """Return what to do when a limit on output is reached."""
    try:
        return OnFull(text.lower())
    except ValueError:
        raise ValueError(f"{text!r} is not {', '.join(OnFull)}") from None


def parse_number(text: str, *, least: int) -> int:
    """Return the whole number in *text*, *least* or more."""
    is_number = _DIGITS.fullmatch(text)

    if is_number and len(text) > _MOST_DIGITS:
        raise ValueError(f"{text!r:.40} has more than {_MOST_DIGITS} digits")

    if not is_number or int(text) < least:
        raise ValueError(f"{text!r} is not a whole number from {least} on")

    return int(text)


def parse_percent(text: str) -> int:
    """Return a share; the spec says which are possible."""
    if not _DIGITS.fullmatch(share := text.removesuffix("%")):
        raise ValueError(f"{text!r} is not a share; write a number from 1 to 100")

    return parse_number(share, least=0)


def parse_cpus(text: str) -> float:
    """Return how many processors: `2`, `0.5`; the spec says which are possible."""
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text!r} is not a number of processors; write 2 or 0.5")

    return float(text)


def parse_count(text: str) -> int:
    """Return how many of something, of which there is one at least."""
    return parse_number(text, least=1)


def parse_offset(text: str) -> int:
    """Return an offset in a stream."""
    return parse_number(text, least=0)


def parse_duration(text: str) -> float:
    """Return the seconds in `10`, `10s`, `5m`, `2h`, `1h30m` or `500ms`."""
    text = text.strip()

    if _NUMBER.fullmatch(text):
        return float(text)

    parts = _PART.findall(text.lower())

    if not parts or "".join(number + unit for number, unit in parts) != text.lower():
        raise ValueError(f"{text!r} is not a duration; write 10, 10s, 5m, 2h or 1h30m")

    return sum(float(number) * _SECONDS_PER[unit] for number, unit in parts)


def parse_interval(text: str) -> float:
    """Return the seconds between two samples."""
    seconds = parse_duration(text)

    if not MIN_INTERVAL <= seconds <= MAX_INTERVAL:
        raise ValueError(f"{text!r} is out of range; it must be from 100ms to 1h")

    return seconds


def parse_signal(text: str) -> int:
    """Return the number of `9`, `KILL` or `SIGKILL`, in any case."""
    name = text.strip().upper()
    is_number = name.isascii() and name.isdigit() and len(name) < 4
    number = int(name) if is_number else _signal_named(name)

    if not 0 < number <= _MAX_SIGNAL:
        raise ValueError(
            f"{text!r} is not a signal; write a name as in TERM or SIGTERM,"
            f" or a number from 1 to {_MAX_SIGNAL}"
        )

    return number


def parse_text(text: str, *, most: int = MAX_WORD) -> str:
    """Return *text* if it is UTF-8, not empty and at most *most* characters."""
    if not text:
        raise ValueError("it is empty")

    if len(text) > most:
        raise ValueError(f"it has {len(text)} characters; the most is {most}")

    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{text!r} is not valid UTF-8") from None

    return text


def parse_ref(text: str) -> str:
    """Return what names a job: an id, a prefix of one, or a name."""
    return parse_text(text, most=MAX_REF)


def parse_label(text: str) -> tuple[str, str]:
    """Return key and value of `K=V`."""
    key, equals, value = text.partition("=")

    if not equals or not key:
        raise ValueError(f"{text!r} is not K=V")

    return parse_text(key), value and parse_text(value)


def parse_env(
    texts: Iterable[str], environ: Mapping[bytes, bytes] = os.environb
) -> dict[bytes, bytes]:
    """Return the variables of `K=V` and of `K`, which is copied from *environ*.

    A variable that *environ* does not have is not set for the job either.
    """
    env: dict[bytes, bytes] = {}

    for text in texts:
        name, equals, value = os.fsencode(text).partition(b"=")

        if not name:
            raise ValueError(f"{text!r} is not K=V or K")

        if equals:
            env[name] = value
        elif name in environ:
            env[name] = environ[name]

    return env


def read_env_file(
    path: str, environ: Mapping[bytes, bytes] = os.environb
) -> dict[bytes, bytes]:
    """Return the variables in the file at *path*: `K=V` or `K` on a line.

    Empty lines, and those that begin with `#`, mean nothing. All after the first `=` is
    the value, quotes too.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - pathlib is slow to import
            lines = file.read().splitlines()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error

    env: dict[bytes, bytes] = {}

    for number, line in enumerate(lines, 1):
        text = line.lstrip()

        if not text or text.startswith(b"#"):
            continue

        name, equals, value = text.partition(b"=")
        name = name.strip()

        if not name or b"\0" in text or len(name.split()) > 1:
            raise ValueError(
                f"{path}, line {number}: {os.fsdecode(text)[:80]!r} is not K=V or K"
            )

        if equals:
            env[name] = value
        elif name in environ:
            env[name] = environ[name]

    return env


def each(parse: Callable[[str], T]) -> Callable[[Iterable[str]], list[T]]:
    """Return *parse* for an option that may be given several times."""
    return lambda texts: [parse(text) for text in texts]


def _refuse_from_the_start(text: str) -> None:
    if text.startswith("+"):
        raise ValueError(
            f"{text!r} would count from the start; only the last ones can be counted"
        )


def _signal_named(name: str) -> int:
    name = name if name.startswith("SIG") else f"SIG{name}"

    if match := re.fullmatch(r"SIGRTMIN(?:\+(\d{1,2}))?", name):
        return signal.SIGRTMIN + int(match[1] or 0)

    if match := re.fullmatch(r"SIGRTMAX(?:-(\d{1,2}))?", name):
        return signal.SIGRTMAX - int(match[1] or 0)

    known = signal.Signals.__members__.get(name)
    return 0 if known is None else int(known)
