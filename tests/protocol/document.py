"""What protocol.md must say, derived from the code.

`python -m tests.protocol.document` writes the generated parts anew: the annotated
exchange and the tables of test vectors.
"""

import re
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final, Union, cast

from teleworkerd.protocol.messages import Message
from teleworkerd.protocol.responses import ConnectionLimits, JobNews
from teleworkerd.protocol.spec import JobSpec, Limits, TerminalSize
from teleworkerd.protocol.status import JobStatus, LaunchFailure, StreamStatus, Usage
from teleworkerd.protocol.types import (
    AtMost,
    Between,
    InputEndReason,
    JobState,
    LaunchStage,
    OnFull,
    Reason,
    Role,
    Stream,
)
from tests.protocol.notation import dump_frame
from tests.protocol.samples import exchange
from tests.protocol.vectors import load


FILE: Final = Path(__file__).parents[2] / "protocol.md"

RECORDS: Final[dict[type, str]] = {
    JobSpec: "spec",
    Limits: "limits",
    JobStatus: "status",
    LaunchFailure: "launch failure",
    Usage: "usage",
    StreamStatus: "stream status",
    JobNews: "job news",
    TerminalSize: "terminal size",
    ConnectionLimits: "connection limits",
}
ENUMS: Final[dict[type[Enum], str]] = {
    JobState: "state",
    Reason: "reason",
    Stream: "stream",
    LaunchStage: "stage",
    OnFull: "on full",
    InputEndReason: "input end",
    Role: "role",
}
_NAMES: Final[Mapping[object, str]] = {
    **cast("dict[object, str]", RECORDS),
    **cast("dict[object, str]", ENUMS),
    bool: "boolean",
    str: "text",
    bytes: "binary",
    int: "integer",
    float: "number",
}

Row = tuple[str, ...]


def describe(hint: object) -> str:
    """Return how protocol.md writes the type *hint*."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)

    if origin is None:
        return _NAMES[hint]

    if origin is Annotated:
        return _bounded(args)

    if origin in (Union, types.UnionType):
        return " or ".join(describe(arg) for arg in args if arg is not type(None))

    if origin is Mapping:
        return f"map of {describe(args[0])} to {describe(args[1])}"

    return f"array of {describe(args[0])}"


def _bounded(args: tuple[Any, ...]) -> str:
    base, mark = args[0], args[-1]

    if isinstance(mark, Between):
        return f"integer {mark.least} to {_number(mark.most)}"

    assert isinstance(mark, AtMost)
    inner = describe(base)

    if base in (str, bytes):
        return f"{inner} ≤ {mark.length}"

    return f"{inner}, ≤ {mark.length} entries"


def _number(value: int) -> str:
    power = (value + 1).bit_length() - 1
    return f"2^{power}-1" if power > 30 and value + 1 == 1 << power else str(value)


def default(field: Field[object]) -> str:
    """Return how protocol.md writes what an absent field means."""
    if field.default is MISSING:
        return "required" if field.default_factory is MISSING else "empty"

    value = field.default

    if value is None:
        return "absent"

    if is_dataclass(value) or value in ((), b""):
        return "defaults" if isinstance(value, ConnectionLimits) else "empty"

    if isinstance(value, Enum):
        return f"`{value.value}`"

    return {True: "true", False: "false", "": "empty"}.get(
        value if isinstance(value, (bool, str)) else "?", str(value)
    )


def field_rows(cls: type) -> list[Row]:
    """Return the rows of the table of fields of *cls*, without their meanings."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return [
        (f"`{field.name}`", describe(hints[field.name]), default(field))
        for field in fields(cls)
        if not (issubclass(cls, Message) and field.name == "id")
        or cls.__name__ == "ErrorResponse"
    ]


def table(text: str, heading: str) -> list[Row]:
    """Return the rows of the first table below *heading* in *text*."""
    lines = iter(text.splitlines())
    marks = re.compile(rf"#+ {re.escape(heading)}")

    for line in lines:
        if marks.fullmatch(line):
            break
    else:
        raise LookupError(f"protocol.md has no heading {heading!r}")

    rows: list[Row] = []

    for line in lines:
        if line.startswith("|"):
            rows.append(tuple(cell.strip() for cell in line.strip("|").split("|")))
        elif rows or line.startswith("#"):
            break

    return rows[2:]


def column(text: str, heading: str, number: int = 0) -> list[str]:
    """Return one column of the table below *heading*, without backquotes."""
    return [row[number].strip("`") for row in table(text, heading)]


def generated() -> dict[str, str]:
    """Return the generated parts by name."""
    lines = ["```"]

    for sender, messages, data in exchange():
        receiver = "client" if sender == "server" else "server"
        name = messages[0].type
        lines += [f"{sender} to {receiver}: {name}", "", *dump_frame(data), ""]

    lines[-1] = "```"
    return {"exchange": "\n".join(lines), "vectors": _vector_tables()}


def _vector_tables() -> str:
    vectors = load()
    lines = ["| vector | from | meaning |", "|---|---|---|"]
    lines += [
        f"| `{row['name']}` | {row['sender']} | {row['meaning']} |"
        for row in vectors["messages"]
    ]
    lines += ["", "| tolerated | from | same as | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{row['name']}` | {row['sender']} | `{row['same_as']}` | {row['meaning']} |"
        for row in vectors["tolerated"]
    ]
    lines += ["", "| refused | from | code | closes | why |", "|---|---|---|---|---|"]
    lines += [
        f"| `{row['name']}` | {row['sender']} | `{row['code']}`"
        f" | {'yes' if row['closes'] else 'no'} | {row['why']} |"
        for row in vectors["refused"]
    ]
    return "\n".join(lines)


def renewed(text: str) -> str:
    """Return *text* with its generated parts as the code has them."""
    for name, part in generated().items():
        begin, end = f"<!-- generated: {name} -->\n", f"\n<!-- end: {name} -->"
        head, rest = text.split(begin)
        text = head + begin + part + end + rest.split(end)[1]

    return text


if __name__ == "__main__":
    FILE.write_text(renewed(FILE.read_text("utf-8")), "utf-8")
