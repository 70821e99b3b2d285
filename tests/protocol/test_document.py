"""protocol.md and the vectors say what the code does, and leave out nothing."""

import json
import re
from enum import StrEnum
from typing import Final

import pytest

from teleworkerd.jobs import catalog
from teleworkerd.jobs.state import TRANSITIONS, JobEvent
from teleworkerd.protocol import codec, framing, messages, shape, spec, types
from teleworkerd.protocol.codec import decode, encode
from teleworkerd.protocol.connection import (
    FROM_CLIENT,
    FROM_SERVER,
    ClientConnection,
    Connection,
    ServerConnection,
)
from teleworkerd.protocol.errors import ErrorCode, RemoteProtocolError
from teleworkerd.protocol.framing import LENGTH
from teleworkerd.protocol.responses import ErrorResponse
from teleworkerd.protocol.roles import (
    CLIENT_MESSAGES,
    RESPONSES,
    SERVER_MESSAGES,
    Rejected,
)
from teleworkerd.settings import ServerConfig
from tests.protocol.document import (
    ENUMS,
    FILE,
    RECORDS,
    column,
    field_rows,
    renewed,
    table,
)
from tests.protocol.pair import greeted
from tests.protocol.vectors import (
    FILE as VECTORS_FILE,
)
from tests.protocol.vectors import (
    Refused,
    Tolerated,
    Vector,
    dumped,
    load,
    make,
)


TEXT: Final = FILE.read_text("utf-8")
VECTORS: Final = load()
KNOWN: Final = {"client": FROM_CLIENT, "server": FROM_SERVER}

LIMITS: Final = {
    "frame": framing.MAX_FRAME,
    "frame before hello": framing.MAX_FRAME_BEFORE_HELLO,
    "depth": shape.MAX_DEPTH,
    "values": shape.MAX_VALUES,
    "entries": spec.MAX_ARGUMENTS,
    "text": codec._MAX_TEXT,
    "chunk": messages.MAX_CHUNK,
    "times": messages.MAX_TIMES,
    "credit": messages.MAX_CREDIT,
    "requests": messages.MAX_REQUESTS,
    "page": messages.MAX_PAGE,
    "argument": types.MAX_ARGUMENT,
    "arguments": spec.MAX_ARGUMENTS,
    "accounts": messages.MAX_ACCOUNTS,
    "command": spec.MAX_COMMAND_BYTES,
    "labels": spec.MAX_LABELS,
    "label value": spec.MAX_LABEL_VALUE,
    "least mem": spec.MIN_MEMORY_MB,
    "most mem": spec.MAX_MEMORY_MB,
    "timeout": int(spec.MAX_TIMEOUT),
    "grace": int(messages.MAX_GRACE),
    "watched": messages.MAX_WATCHED,
    "least interval": messages.MIN_INTERVAL,
    "most interval": int(messages.MAX_INTERVAL),
    "least cpus": spec.MIN_CPUS,
    "most cpus": int(spec.MAX_CPUS),
    "most pids": spec.MAX_PIDS,
    "input": messages.MAX_INPUT,
    "most columns": spec.MAX_SIDE,
}

BOUNDS: Final = {
    "handshake": ServerConfig().handshake_timeout,
    "hello": ServerConfig().hello_timeout,
    "frame": ServerConfig().frame_timeout,
    "silence": ServerConfig().ping_interval,
    "dead": ServerConfig().ping_timeout,
    "idle": ServerConfig().idle_timeout,
    "messages": ServerConfig().message_rate,
    "burst": ServerConfig().message_burst,
    "close": ServerConfig().close_timeout,
}

# What the text says besides the tables, with the numbers of the code.
SENTENCES: Final = (
    f"nor more than {messages.MAX_INPUT} bytes beyond",
    f"taken the sender's `hello` it is at most {framing.MAX_FRAME_BEFORE_HELLO:,}.",
    f"longer than {codec._MAX_TEXT:,} bytes;",
    f"more than {spec.MAX_ARGUMENTS:,} entries;",
    f"more than {shape.MAX_DEPTH} deep,",
    f"more than {shape.MAX_VALUES:,} values in all",
    f"come to at most {spec.MAX_COMMAND_BYTES:,}.",
    f"has at most {spec.MAX_PATH_ENTRIES} directories in {spec.MAX_PATH} bytes |",
    f"at least {catalog.MIN_PREFIX} characters.",
    f"more than 0 and at most {spec.MAX_TIMEOUT:.0f};",
    f"seconds, from 0 to {messages.MAX_GRACE:.0f};",
    f"from {spec.MIN_MEMORY_MB} to {spec.MAX_MEMORY_MB} |",
    f"({ServerConfig().hello_timeout:.0f} s by default)",
)


def sections() -> dict[str, type]:
    """Return the class that each section with a table of fields describes."""
    found = {f"Record: {name}": cls for cls, name in RECORDS.items()}
    twice = {cls.type for cls in CLIENT_MESSAGES} & {
        cls.type for cls in SERVER_MESSAGES
    }
    twice -= {"ping", "pong"}

    for sender, kinds in (("client", CLIENT_MESSAGES), ("server", SERVER_MESSAGES)):
        for cls in kinds:
            suffix = f" ({sender})" if cls.type in twice else ""
            found[f"Message: {cls.type}{suffix}"] = cls

    return found


def frame(data: str) -> bytes:
    """Return the message in the frame with the hex *data*."""
    whole = bytes.fromhex(data)
    assert LENGTH.unpack(whole[: LENGTH.size]) == (len(whole) - LENGTH.size,)
    return whole[LENGTH.size :]


def test_generated_parts_are_fresh() -> None:
    """The example and the tables of vectors are what the code makes of them."""
    assert renewed(TEXT) == TEXT, "run python -m tests.protocol.document"


def test_vectors_are_fresh() -> None:
    """The file of vectors is what the code makes of it."""
    text = VECTORS_FILE.read_text("utf-8")

    assert dumped(make()) == text, "run python -m tests.protocol.vectors"
    assert json.loads(text) == VECTORS


@pytest.mark.parametrize("heading", sections())
def test_fields_are_documented(heading: str) -> None:
    """Each table of fields has the names, types and defaults of the code."""
    assert field_rows(sections()[heading]) == [row[:3] for row in table(TEXT, heading)]


def test_every_section_has_a_class() -> None:
    """No message or record is described that the code does not have."""
    headings = {
        line.removeprefix("### ")
        for line in TEXT.splitlines()
        if line.startswith(("### Message: ", "### Record: "))
    }

    assert headings == set(sections())


def test_messages_are_documented() -> None:
    """The table of messages has each type, who sends it and what answers it."""
    expected = set()

    for sender, kinds in (("client", CLIENT_MESSAGES), ("server", SERVER_MESSAGES)):
        for cls in kinds:
            answers = ", ".join(f"`{kind.type}`" for kind in RESPONSES.get(cls, ()))
            expected.add((f"`{cls.type}`", sender, answers))

    both = {(name, "both", "") for name, sender, _ in expected if name == "`ping`"}
    both |= {("`pong`", "both", "")}
    expected = {row for row in expected if row[0] not in ("`ping`", "`pong`")} | both

    assert expected == {row[:3] for row in table(TEXT, "Messages")}


def test_error_codes_are_documented() -> None:
    """The table of errors has each code once."""
    assert sorted(ErrorCode) == sorted(column(TEXT, "Errors"))


def test_states_are_documented() -> None:
    """The table of states is the one that moves jobs."""
    expected = [
        (
            f"`{state}`",
            *(f"`{after[event]}`" if event in after else "" for event in JobEvent),
        )
        for state, after in TRANSITIONS.items()
    ]

    assert expected == table(TEXT, "States")


@pytest.mark.parametrize("cls", ENUMS, ids=lambda cls: str(ENUMS[cls]))
def test_words_are_documented(cls: type[StrEnum]) -> None:
    """Each word of an enum stands at the beginning of a row or in the text."""
    for word in cls:
        assert f"\n| `{word.value}` |" in TEXT or f"`{word.value}`" in TEXT


@pytest.mark.parametrize(
    ("cls", "header"),
    [
        (types.Reason, "reason"),
        (types.LaunchStage, "stage"),
        (types.JobState, "state"),
        (types.OnFull, "on full"),
        (types.Role, "role"),
    ],
)
def test_tables_of_words_hold_no_others(cls: type[StrEnum], header: str) -> None:
    """The tables of words have exactly the code's."""
    _, _, rest = TEXT.partition(f"\n| {header} |")
    rows = rest.split("\n\n")[0].splitlines()[2:]

    assert [f"`{word.value}`" for word in cls] == [
        row.split("|")[1].strip() for row in rows
    ]


def test_limits_are_documented() -> None:
    """The table of limits has the numbers of the code."""
    found = {name: float(value) for name, value, *_ in table(TEXT, "Limits")}

    assert found == LIMITS


def test_bounds_are_documented() -> None:
    """The table of what a client may cost has the defaults of the settings."""
    rows = table(TEXT.replace("| bound |", "## Bounds\n\n| bound |"), "Bounds")

    assert {name: float(value) for name, value, *_ in rows} == BOUNDS


@pytest.mark.parametrize("sentence", SENTENCES)
def test_numbers_in_the_text_are_exact(sentence: str) -> None:
    """What the text bounds is bounded by the code, at the same number."""
    assert sentence in " ".join(TEXT.split())


def test_sections_that_code_cites_exist() -> None:
    """Comments cite sections of protocol.md by name."""
    sources = (FILE.parent / "teleworkerd").rglob("*.py")
    cited = {
        part.split('"')[0]
        for source in sources
        for part in source.read_text("utf-8").split('protocol.md, "')[1:]
    }
    headings = {line[3:] for line in TEXT.splitlines() if line.startswith("## ")}

    assert cited <= headings


def test_every_message_has_a_vector() -> None:
    """No message is left without an example."""
    known = {(name, sender) for sender in KNOWN for name in KNOWN[sender]}
    known -= {("ping", "server"), ("pong", "client")}  # those of the other side do
    shown = {
        (decode(frame(vector["hex"]), KNOWN[vector["sender"]]).type, vector["sender"])
        for vector in VECTORS["messages"]
    }

    assert known == shown


@pytest.mark.parametrize("vector", VECTORS["messages"], ids=lambda row: row["name"])
def test_vectors_round_trip(vector: Vector) -> None:
    """A vector is read as a message and written as the same bytes."""
    message = decode(frame(vector["hex"]), KNOWN[vector["sender"]])

    assert vector["hex"] == b"".join(encode(message)).hex()


@pytest.mark.parametrize("vector", VECTORS["tolerated"], ids=lambda row: row["name"])
def test_other_forms_mean_the_same(vector: Tolerated) -> None:
    """A frame in another form is read as the same message."""
    (twin,) = (row for row in VECTORS["messages"] if row["name"] == vector["same_as"])
    known = KNOWN[vector["sender"]]

    assert vector["hex"] != twin["hex"]
    assert decode(frame(vector["hex"]), known) == decode(frame(twin["hex"]), known)


@pytest.mark.parametrize("vector", VECTORS["refused"], ids=lambda row: row["name"])
def test_refused_vectors_are_refused(vector: Refused) -> None:
    """A receiver that is open refuses the frame, as far as the vector says."""
    client, server = greeted()
    receiver: Connection = server if vector["sender"] == "client" else client
    receiver.receive_data(bytes.fromhex(vector["hex"]))

    if vector["closes"]:
        with pytest.raises(RemoteProtocolError):
            list(receiver.events())

        assert receiver is client or last_word(server).code == vector["code"]
    else:
        (event,) = receiver.events()

        assert isinstance(event, Rejected)
        assert event.error.code == vector["code"]


def last_word(server: ServerConnection) -> ErrorResponse:
    """Return what *server* says at last."""
    data = b"".join(server.data_to_send())
    message = decode(data[LENGTH.size :], FROM_SERVER)
    assert isinstance(message, ErrorResponse)
    assert message.id is None
    return message


def test_the_example_is_one_that_a_client_reads() -> None:
    """The bytes in the example, copied out of the document, are a conversation."""
    example = TEXT.partition("<!-- generated: exchange -->")[2].partition("<!-- end")[0]
    client = ClientConnection(agent="twctl 1.0.0")
    server = ServerConnection(name="alice", server="teleworkerd 1.0.0")
    ends: list[tuple[str, Connection, Connection]] = [
        ("server", server, client),
        ("client", client, server),
    ]
    found: list[str] = []

    for part in re.split(r"\n(?=(?:client|server) to )", example)[1:]:
        title, *lines = part.splitlines()
        data = b"".join(bytes.fromhex(line[:48]) for line in lines if line != "```")
        ((sender, receiver),) = [
            (sender, receiver)
            for name, sender, receiver in ends
            if title.startswith(name)
        ]
        receiver.receive_data(data)
        (event,) = receiver.events()
        found.append(event.type)

        if event.type != "hello":
            sender.send(event)

    assert found == [
        "hello",
        "hello",
        "run",
        "started",
        "output",
        "opened",
        "chunk",
        "end",
    ]
