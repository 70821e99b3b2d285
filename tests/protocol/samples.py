"""One example of each message, and one exchange, for the vectors and protocol.md."""

from typing import Final

from teleworkerd.protocol.connection import ClientConnection, ServerConnection
from teleworkerd.protocol.messages import (
    EVERYBODY,
    Cancel,
    ClientHello,
    Credit,
    EventsRequest,
    InfoRequest,
    InputData,
    InputRequest,
    InterleaveRequest,
    KillRequest,
    ListRequest,
    Message,
    OutputRequest,
    Ping,
    Pong,
    RemoveRequest,
    ResizeRequest,
    RunRequest,
    StatusRequest,
    StopRequest,
    TopRequest,
    WaitRequest,
)
from teleworkerd.protocol.responses import (
    DoneResponse,
    ErrorResponse,
    EventsEnd,
    EventsResponse,
    Goaway,
    InfoResponse,
    InputEnd,
    InputResponse,
    InputTaken,
    InterleaveEnd,
    InterleaveResponse,
    JobNews,
    ListResponse,
    OutputChunk,
    OutputEnd,
    OutputGap,
    OutputResponse,
    RunResponse,
    ServerHello,
    StatusResponse,
    TopEnd,
    UsageSample,
)
from teleworkerd.protocol.spec import JobSpec, TerminalSize
from teleworkerd.protocol.types import InputEndReason, JobState, Reason, Role, Stream
from tests.protocol.facts import (
    CREATED_AT,
    ECHO_ENDED,
    JOB,
    KILLED_FOR_MEMORY,
    NOT_STARTED,
    REQUEST_ID,
    RUNNING,
    SENDER,
    SPEC,
)
from tests.protocol.pair import carry


SAMPLES: Final[tuple[tuple[str, str, Message, str], ...]] = (
    (
        "server-hello",
        "server",
        ServerHello((1,), "teleworkerd 1.0.0", "alice", time=CREATED_AT),
        "the first message of a connection",
    ),
    ("client-hello", "client", ClientHello(1, "twctl 1.0.0"), "chooses version 1"),
    (
        "run-short",
        "client",
        RunRequest(1, REQUEST_ID, JobSpec((b"echo", b"hi"))),
        "a command without limits",
    ),
    ("run-full", "client", RunRequest(2, REQUEST_ID, SPEC), "every field of spec"),
    ("started", "server", RunResponse(1, JOB), "a new job"),
    (
        "started-again",
        "server",
        RunResponse(2, JOB, created=False, not_applied={"io": "no disk knows weights"}),
        "an old job, without one of its limits",
    ),
    ("status", "client", StatusRequest(3, JOB), "asks by id"),
    ("job-failed", "server", StatusResponse(3, NOT_STARTED), "a failed launch"),
    ("job-oom", "server", StatusResponse(4, KILLED_FOR_MEMORY), "every other field"),
    ("wait", "client", WaitRequest(4, "nightly"), "asks by name"),
    ("list-all", "client", ListRequest(5), "the newest jobs of any state"),
    (
        "list-some",
        "client",
        ListRequest(
            6, (JobState.RUNNING, JobState.STOPPING), "nightly", {"team": "x"}, 10, JOB
        ),
        "filtered, and the page after a job",
    ),
    (
        "list-everybody",
        "client",
        ListRequest(17, limit=20, owner=EVERYBODY),
        "jobs of all owners, for who may see them",
    ),
    ("jobs", "server", ListResponse(6, (ECHO_ENDED,), more=True), "more pages follow"),
    ("kill", "client", KillRequest(7, JOB), "SIGKILL to the tree"),
    ("kill-hup", "client", KillRequest(8, JOB, 1, tree=True), "SIGHUP to the tree"),
    ("stop", "client", StopRequest(9, JOB, 10.0), "ten seconds of grace"),
    ("stop-never", "client", StopRequest(10, "5e3f"), "SIGTERM only; by prefix"),
    ("done", "server", DoneResponse(7, JOB), "passed on"),
    ("remove", "client", RemoveRequest(16, JOB), "removes a job that has ended"),
    ("done-ended", "server", DoneResponse(9, JOB, already_ended=True), "had ended"),
    (
        "output",
        "client",
        OutputRequest(11, JOB, Stream.STDERR, 1 << 32, follow=True, credit=1 << 20),
        "stderr from 4 GiB on, live",
    ),
    (
        "output-times",
        "client",
        OutputRequest(
            14, JOB, since=CREATED_AT, until=CREATED_AT + 60 * 10**9, times=True
        ),
        "a minute of stdout, with times",
    ),
    (
        "interleave",
        "client",
        InterleaveRequest(
            15,
            JOB,
            100,
            20,
            follow=True,
            credit=1 << 20,
            since=CREATED_AT,
            until=CREATED_AT + 60 * 10**9,
            times=True,
        ),
        "both streams in order",
    ),
    ("opened", "server", OutputResponse(11, JOB, 1 << 32), "chunks follow"),
    ("interleaving", "server", InterleaveResponse(15, JOB, 100, 24), "chunks follow"),
    ("chunk", "server", OutputChunk(11, 1 << 32, b"\x00\xff\n"), "three bytes"),
    (
        "chunk-times",
        "server",
        OutputChunk(
            15, 24, b"a\nb\n", Stream.STDERR, (24, CREATED_AT, 26, CREATED_AT + 1)
        ),
        "two lines of stderr, a nanosecond apart",
    ),
    ("gap", "server", OutputGap(11, 5, 1 << 33), "so many bytes were dropped"),
    (
        "gap-stderr",
        "server",
        OutputGap(15, 28, 30, Stream.STDERR),
        "two bytes of stderr were dropped",
    ),
    ("credit", "client", Credit(11, 1 << 20), "one MiB more"),
    ("cancel", "client", Cancel(11), "ends the output"),
    (
        "end-partial",
        "server",
        OutputEnd(11, (1 << 32) + 3, complete=False),
        "after cancel",
    ),
    ("end", "server", OutputEnd(12, 3, complete=True, status=ECHO_ENDED), "all of it"),
    (
        "interleaved",
        "server",
        InterleaveEnd(15, 3, 0, complete=True, status=ECHO_ENDED),
        "all of both",
    ),
    ("info", "client", InfoRequest(13), "asks about the server"),
    (
        "info-response",
        "server",
        InfoResponse(
            id=13,
            version="1.0.0",
            name="alice",
            started_at=CREATED_AT,
            keeper_started_at=CREATED_AT,
            restarts=2,
            cgroups="v1",
            limits={"io": "no weight for this disk"},
            jobs={"running": 3},
            connections=2,
            load=(0.5, 0.25, 0.125),
            role=Role.OPERATOR,
            accounts=("build", "nobody"),
            defaults={"pids": 4096.0},
            ceilings={"owner_cpus": 1.5},
            newest_event=46,
        ),
        "the server about itself",
    ),
    (
        "error",
        "server",
        ErrorResponse(
            "ambiguous_job",
            "5e3f fits 2 jobs",
            10,
            {"jobs": [JOB, "5e3f0000-8a57-4b2e-9d43-0c6f7a1b2d3e"]},
        ),
        "refuses request 10",
    ),
    (
        "error-too-many",
        "server",
        ErrorResponse(
            "too_many",
            "alice starts more than 500 jobs a second; try again in 1 s",
            1,
            {"what": "starts", "most": 500, "retry_after": 1},
        ),
        "refuses request 1 for now",
    ),
    (
        "error-fatal",
        "server",
        ErrorResponse("protocol_error", "status before hello"),
        "refuses the connection",
    ),
    (
        "error-crowded",
        "server",
        ErrorResponse(
            "too_many",
            "alice has 1024 connections, as many as one may have",
            details={"what": "connections", "most": 1024},
        ),
        "refuses the connection, before hello",
    ),
    (
        "top",
        "client",
        TopRequest(18, (JOB, "nightly"), 0.5, count=2),
        "two samples of two jobs",
    ),
    (
        "top-everybody",
        "client",
        TopRequest(19, owner=EVERYBODY),
        "all that runs, each second, for who may see it",
    ),
    (
        "sample",
        "server",
        UsageSample(18, CREATED_AT + 10**9, (RUNNING,), more=True),
        "a sample, of which more follows",
    ),
    ("sampled", "server", TopEnd(18), "no more samples"),
    ("input", "client", InputRequest(20, JOB, SENDER), "begins to send to stdin"),
    (
        "input-again",
        "client",
        InputRequest(21, JOB, SENDER, resume=True),
        "goes on as the same sender",
    ),
    ("input-opened", "server", InputResponse(20, JOB, 4096), "bytes may come"),
    ("input-data", "client", InputData(20, 4096, b"y\n"), "two bytes"),
    ("input-eof", "client", InputData(20, 4098, eof=True), "and no more"),
    ("taken", "server", InputTaken(20, 4098), "they are in the job's stdin"),
    ("input-end", "server", InputEnd(20, 4098, InputEndReason.EOF), "so is their end"),
    (
        "input-closed",
        "server",
        InputEnd(21, 4097, InputEndReason.CLOSED),
        "the job read one byte, and no more",
    ),
    (
        "resize",
        "client",
        ResizeRequest(22, JOB, TerminalSize(100, 30)),
        "the terminal is another size now",
    ),
    ("events", "client", EventsRequest(23), "all news that are kept"),
    (
        "events-live",
        "client",
        EventsRequest(24, 41, follow=True, owner=EVERYBODY),
        "everybody's, after number 41, live",
    ),
    (
        "news",
        "server",
        EventsResponse(
            24,
            (
                JobNews(
                    44,
                    CREATED_AT + 3_000_000,
                    JOB,
                    "alice",
                    JobState.FINISHED,
                    "nightly",
                    Reason.EXITED,
                    0,
                ),
                JobNews(
                    45,
                    CREATED_AT + 4_000_000,
                    JOB,
                    "alice",
                    JobState.FINISHED,
                    removed=True,
                ),
            ),
            46,
            missed=True,
        ),
        "some were forgotten; one job ended and was removed",
    ),
    ("events-end", "server", EventsEnd(23, 46), "that was all"),
    ("goaway", "server", Goaway("the server is being restarted"), "come again"),
    ("ping", "client", Ping(4_294_967_295), "the greatest number"),
    ("pong", "server", Pong(4_294_967_295), "its response"),
)
"""Name, sender, message, meaning."""


def exchange() -> list[tuple[str, list[Message], bytes]]:
    """Return who sends what in one small exchange, as the two ends do it."""
    server = ServerConnection(name="alice", server="teleworkerd 1.0.0")
    client = ClientConnection(agent="twctl 1.0.0")
    sent: list[tuple[str, list[Message], bytes]] = []

    def to_client(*messages: Message) -> None:
        for message in messages:
            server.send(message)

        data = b"".join(server.data_to_send())
        client.receive_data(data)
        sent.append(("server", list(client.events()), data))

    def to_server(*messages: Message) -> None:
        for message in messages:
            client.send(message)

        data = b"".join(client.data_to_send())
        server.receive_data(data)
        sent.append(("client", list(server.events()), data))

    to_client()
    to_server()
    to_server(RunRequest(1, REQUEST_ID, JobSpec((b"echo", b"hi"))))
    to_client(RunResponse(1, JOB))
    to_server(OutputRequest(2, JOB, follow=True, credit=1 << 20))
    to_client(OutputResponse(2, JOB, 0))
    to_client(OutputChunk(2, 0, b"hi\n"))
    to_client(OutputEnd(2, 3, complete=True, status=ECHO_ENDED))
    assert not carry(client, server)
    return sent
