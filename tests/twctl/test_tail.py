"""Looking back with `tail`, called in this process against a fake server."""

import hashlib
import json
from dataclasses import replace

import pytest

from teleworkerd.protocol.errors import JobRemoved
from teleworkerd.protocol.messages import InterleaveRequest, OutputRequest
from teleworkerd.protocol.status import JobStatus, StreamStatus
from teleworkerd.protocol.types import Gap, Stream
from tests.twctl.calling import RUNNING, Capture, asked, error_of
from tests.twctl.fake import FakeServer
from tests.twctl.fake_output import JOB_ID, FakeJob, make_status
from twctl.cli import main


pytestmark = [pytest.mark.usefixtures("environment"), pytest.mark.timeout(20)]

Bytes = pytest.CaptureFixture[bytes]

SECOND = 10**9
TIME = 1_767_323_045 * SECOND  # 2026-01-02T03:04:05Z
MOVES = [
    (TIME, Stream.STDOUT, b"one\ntw"),
    (TIME + SECOND, Stream.STDERR, b"e1\n"),
    (TIME + 2 * SECOND, Stream.STDOUT, b"o\nthree\n"),
    (TIME + 3 * SECOND, Stream.STDERR, b"e2\ne3"),
]
STDOUT = b"one\ntwo\nthree\n"
STDERR = b"e1\ne2\ne3"
BOTH = b"one\ntwe1\no\nthree\ne2\ne3"


def stamp(second: int) -> bytes:
    """Return what stands before a line that came then."""
    return b"2026-01-02T03:04:%02d.000000000Z " % second


def digests(**changes: bytes) -> JobStatus:
    """Return the status of an ended job whose digests are those of the moves."""
    data = {"stdout": STDOUT, "stderr": STDERR} | changes
    return make_status(
        **{
            name: StreamStatus(0, len(kept), hashlib.sha256(kept).digest())
            for name, kept in data.items()
        }
    )


@pytest.fixture(autouse=True)
def job(server: FakeServer) -> FakeJob:
    """A job that wrote to both streams, once a second."""
    server.clock = TIME + 19 * SECOND // 2
    server.chunk_size = 5
    server.jobs[JOB_ID] = FakeJob(digests(), moves=list(MOVES))
    return server.jobs[JOB_ID]


@pytest.mark.parametrize(
    ("options", "out"),
    [
        ("-n 1", b"three\n"),
        ("-n2", b"two\nthree\n"),
        ("--lines 3", STDOUT),
        ("-n 1000000", STDOUT),
        ("-n 0", b""),
        ("-f -n 1", b"three\n"),
        ("-f -n 0", b""),
        ("-n 2 --err", b"e2\ne3"),
        ("-c 3", b"ee\n"),
        ("-c 1k", STDOUT),
        ("--bytes 0 -f", b""),
        ("--since 2026-01-02T03:04:07Z", b"o\nthree\n"),
        ("--since 8s", b"o\nthree\n"),
        ("--since 7s", b""),
        ("--since 1h", STDOUT),
        ("--until 8s", b"one\ntw"),
        ("-f --until @1767323047", b"one\ntw"),
        ("--until 1h", b""),
        ("--since 9s --until 8s --err", b"e1\n"),
        ("-n 1 --since 8s", b"three\n"),
        ("-n 3 --since 8s", b"o\nthree\n"),
        ("-c 4 --since 8s", b"ree\n"),
        ("-n 1 --until 8s", b"tw"),
        ("-n 2 --from-offset 6", b"o\nthree\n"),
    ],
)
def test_parts(capfdbinary: Bytes, options: str, out: bytes) -> None:
    """The last lines and bytes, and what came when: the later start counts."""
    assert main(["tail", *options.split(), JOB_ID]) == 0
    assert capfdbinary.readouterr() == (out, b"")


@pytest.mark.parametrize(
    ("options", "out"),
    [
        ("-n 1", b"e3"),
        ("-n 2", b"e2\ne3"),
        ("-n 4", b"o\nthree\ne2\ne3"),
        ("-n 5", b"twe1\no\nthree\ne2\ne3"),
        ("-n 6", BOTH),
        ("-n 99", BOTH),
        ("-n 0 -f", b""),
        ("-c 7", b"e\ne2\ne3"),
        ("-c 99", BOTH),
        ("--since 9s", b"e1\no\nthree\ne2\ne3"),
        ("--until 8s", b"one\ntwe1\n"),
        ("-n 1 --until 8s", b"twe1\n"),
        ("-n 3 --since 8s", b"three\ne2\ne3"),
    ],
)
def test_parts_of_both(capfdbinary: Bytes, options: str, out: bytes) -> None:
    """Interleaved, lines and bytes are those of the order in which they came."""
    assert main(["tail", "--interleave", *options.split(), JOB_ID]) == 0
    assert capfdbinary.readouterr() == (out, b"")


@pytest.mark.parametrize("options", ["--interleave --all", "--all"])
def test_both_apart(capfdbinary: Bytes, options: str) -> None:
    """With --all each stream goes to its own descriptor, interleaved or not."""
    assert main(["tail", *options.split(), JOB_ID]) == 0
    assert capfdbinary.readouterr() == (STDOUT, STDERR)


def test_lines_of_both_apart(capfdbinary: Bytes) -> None:
    """With --all the last lines are those of each stream."""
    assert main(["tail", "--all", "-n", "1", JOB_ID]) == 0
    assert capfdbinary.readouterr() == (b"three\n", b"e3")


ONE, TWO, THREE = (5, b"one\n"), (5, b"two\n"), (7, b"three\n")
E2, E3 = (8, b"e2\n"), (8, b"e3")


@pytest.mark.parametrize(
    ("options", "out"),
    [
        ("", [ONE, TWO, THREE]),
        ("--err", [(6, b"e1\n"), E2, E3]),
        ("-n 2", [TWO, THREE]),
        ("-c 12", [(None, b"e\n"), TWO, THREE]),
        ("--since 8s", [(None, b"o\n"), THREE]),
        ("--from-offset 4", [TWO, THREE]),
        ("--from-offset 5", [(None, b"wo\n"), THREE]),
        ("--interleave", [ONE, (5, b"twe1\n"), (7, b"o\n"), THREE, E2, E3]),
        ("--interleave -n 2", [E2, E3]),
        ("--interleave -c 4", [(None, b"2\n"), E3]),
        ("--interleave -c 5", [E2, E3]),
        ("--interleave --since 9s", [(None, b"e1\n"), (7, b"o\n"), THREE, E2, E3]),
        ("--interleave --since 8s -n 9", [(7, b"o\n"), THREE, E2, E3]),
    ],
)
def test_timestamps(
    capfdbinary: Bytes, options: str, out: list[tuple[int | None, bytes]]
) -> None:
    """Each line that is there from its beginning has the time of its first byte."""
    assert main(["tail", "-t", *options.split(), JOB_ID]) == 0
    stamped = [(b"" if at is None else stamp(at)) + line for at, line in out]
    assert capfdbinary.readouterr() == (b"".join(stamped), b"")


def test_timestamps_apart(capfdbinary: Bytes) -> None:
    """Of two descriptors, each has lines of its own."""
    assert main(["tail", "-t", "--interleave", "--all", "--since", "9s", JOB_ID]) == 0
    out, err = capfdbinary.readouterr()
    assert out == b"o\n" + stamp(7) + b"three\n"
    assert err == stamp(6) + b"e1\n" + stamp(8) + b"e2\n" + stamp(8) + b"e3"


def test_lines_of_a_running_job(job: FakeJob, capfdbinary: Bytes) -> None:
    """Without -f, a job that runs is read up to where it was."""
    job.status = RUNNING

    assert main(["tail", "-n", "2", JOB_ID]) == 0
    assert main(["tail", "-n", "2", "--interleave", JOB_ID]) == 0
    assert capfdbinary.readouterr() == (b"two\nthree\ne2\ne3", b"")


def test_until_of_a_running_job(
    server: FakeServer, job: FakeJob, capfdbinary: Bytes
) -> None:
    """With -f, the time is an end like any other: 0, and no other connection."""
    job.status = RUNNING

    assert main(["tail", "-f", "--until", "8s", JOB_ID]) == 0
    assert capfdbinary.readouterr() == (b"one\ntw", b"")
    assert server.connections == 1


def test_what_is_asked_for(server: FakeServer) -> None:
    """Times are the server's, and what came earlier is not even sent."""
    main(["tail", "--since", "8s", "--until", "7s", JOB_ID])
    main(["tail", "--interleave", "-n", "1", JOB_ID])

    first, *_ = asked(server, OutputRequest)
    assert isinstance(first, OutputRequest)
    assert first.since is not None
    assert 0 <= first.since - (TIME + 3 * SECOND // 2) < SECOND
    assert first.until is not None
    assert 0 <= first.until - (TIME + 5 * SECOND // 2) < SECOND
    *_, last = asked(server, InterleaveRequest)
    assert isinstance(last, InterleaveRequest)
    assert (last.stdout, last.stderr) == (4, 3)


def test_since_over_an_outage(server: FakeServer, capfdbinary: Bytes) -> None:
    """After a cut, reading goes on where it was, whatever the time was."""
    server.cuts = [300]

    assert main(["tail", "--since", "1h", JOB_ID]) == 0
    assert capfdbinary.readouterr().out == STDOUT
    first, *others = asked(server, OutputRequest)
    assert isinstance(first, OutputRequest)
    assert first.since is not None
    assert others
    assert all(isinstance(o, OutputRequest) and o.since is None for o in others)


def test_json(capfdbinary: Bytes) -> None:
    """JSON lines tell of the bytes, their times, and the end."""
    assert main(["tail", "-o", "json", JOB_ID]) == 0
    out, err = capfdbinary.readouterr()
    objects = [json.loads(line) for line in out.splitlines()]

    assert err == b""
    assert "".join(o.get("text", "") for o in objects).encode() == STDOUT
    assert objects[0] == {
        "schema": 1,
        "stream": "stdout",
        "offset": 0,
        "time": "2026-01-02T03:04:05.000000000Z",
        "text": "one\nt",
    }
    assert objects[-1]["end"]["stdout"] == {
        "bytes": 14,
        "sha256": hashlib.sha256(STDOUT).hexdigest(),
        "verified": True,
    }
    assert objects[-1]["end"]["state"] == "finished"


def test_json_of_both(capfdbinary: Bytes) -> None:
    """Both streams are objects on stdout, in order if interleaved."""
    assert main(["tail", "-o", "json", "--interleave", "--all", JOB_ID]) == 0
    assert main(["tail", "-o", "json", "--all", "--since", "8s", JOB_ID]) == 0
    out, err = capfdbinary.readouterr()
    objects = [json.loads(line) for line in out.splitlines()]
    first, second = (n for n, o in enumerate(objects) if "end" in o)

    assert err == b""
    assert "".join(o["text"] for o in objects[:first]).encode() == BOTH
    assert objects[first]["end"]["stderr"]["verified"]
    stderr = [o["text"] for o in objects[first + 1 : second] if o["stream"] == "stderr"]
    assert "".join(stderr).encode() == b"e2\ne3"
    assert not objects[second]["end"]["stderr"]["verified"]


def test_environment_does_not_change_the_output(
    capfdbinary: Bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TWCTL_OUTPUT is about what verbs print, not about what a job wrote."""
    monkeypatch.setenv("TWCTL_OUTPUT", "json")

    assert main(["tail", JOB_ID]) == 0
    assert capfdbinary.readouterr().out == STDOUT


def test_gap(job: FakeJob, capfdbinary: Bytes) -> None:
    """A gap that came in parts is one line on stderr, and an object in JSON."""
    job.status = make_status(
        stdout=StreamStatus(0, 14, hashlib.sha256(b"onhree\n").digest(), 7)
    )
    job.gaps = [Gap(Stream.STDOUT, 2, 5), Gap(Stream.STDOUT, 5, 9)]

    assert main(["tail", JOB_ID]) == 0
    assert capfdbinary.readouterr() == (
        b"onhree\n",
        f"twctl: job {JOB_ID}: 7 bytes of stdout (from 2 up to 9) were dropped:"
        " no more output could be kept\n".encode(),
    )
    assert main(["tail", "-o", "json", JOB_ID]) == 0
    objects = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert {"schema": 1, "stream": "stdout", "gap": {"from": 2, "to": 5}} in objects
    assert objects[-1]["end"]["stdout"]["verified"]


@pytest.mark.parametrize("verb", [["tail"], ["tail", "--interleave"], ["run", "-f"]])
def test_difference(job: FakeJob, capfdbinary: Bytes, verb: list[str]) -> None:
    """What is not what the job wrote is a failure in one line: 125."""
    job.status = digests(stdout=b"one\ntwo\nthreE\n")

    assert main([*verb, JOB_ID]) == 125
    out, err = capfdbinary.readouterr()
    assert out in {STDOUT, BOTH}
    (line,) = err.replace(STDERR, b"").splitlines()
    assert line.startswith(b"twctl: error: what was read of stdout")


def test_difference_of_one_of_two(
    server: FakeServer, job: FakeJob, capfdbinary: Bytes
) -> None:
    """The other stream is read to its end all the same."""
    server.chunk_size = 1000
    job.status = digests(stderr=b"e1\ne2\neX")
    job.moves += [(TIME + 4 * SECOND, Stream.STDOUT, b"more\n" * 100_000)]
    job.status = replace(job.status, stdout=StreamStatus())

    assert main(["tail", "--all", JOB_ID]) == 125
    assert capfdbinary.readouterr().out == STDOUT + b"more\n" * 100_000


def test_name_that_passes_on(server: FakeServer, job: FakeJob, capsys: Capture) -> None:
    """A name stands for one job from the first request to the last."""
    server.jobs["name"] = server.jobs.pop(JOB_ID)
    main(["tail", "-n", "1", "-t", "--interleave", "name"])

    later = server.asked[1:]
    assert later
    assert all(getattr(request, "job", JOB_ID) == JOB_ID for request in later)


@pytest.mark.parametrize(("verb", "code"), [(["tail"], 1), (["run", "-f"], 125)])
def test_removed(
    server: FakeServer, capsys: Capture, verb: list[str], code: int
) -> None:
    """A job that is removed while it is read is an error in one line."""
    server.errors[OutputRequest] = JobRemoved(f"job {JOB_ID} was removed")

    assert main([*verb, JOB_ID]) == code
    assert "was removed" in error_of(capsys)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("-n x", "'x' is not a whole number"),
        ("-n -1", "'-1' is not a whole number"),
        ("-n 1.5", "'1.5' is not a whole number"),
        ("-n +5", "only the last ones"),
        ("-c +5", "only the last ones"),
        ("-c 5x", "'5x' is not a size"),
        ("-c 9999p", "too much"),
        ("-n 1 -c 1", "'--lines' / '--bytes'"),
        ("--since soon", "'--since'"),
        ("--until 10", "write 10s"),
        ("--err --interleave", "'--err' / '--interleave'"),
        ("--from-offset 1 --interleave", "'--from-offset' / '--interleave'"),
        ("-o xml", "'xml' is not text or json"),
    ],
)
def test_usage(server: FakeServer, capsys: Capture, options: str, words: str) -> None:
    """A bad number, or what cannot go together, is bad usage; nothing is sent."""
    assert main(["tail", *options.split(), JOB_ID]) == 2
    assert words in error_of(capsys)
    assert not server.connections


def test_many_lines_in_blocks(
    server: FakeServer, job: FakeJob, capfdbinary: Bytes
) -> None:
    """Lines far from the end are found block by block."""
    lines = [b"%d\n" % number for number in range(100_000)]
    server.chunk_size = 64 << 10
    job.moves = []
    job.output = {Stream.STDOUT: b"".join(lines), Stream.STDERR: b""}
    job.status = replace(job.status, stdout=StreamStatus(), stderr=StreamStatus())

    assert main(["tail", "-n", "30000", JOB_ID]) == 0
    assert capfdbinary.readouterr().out == b"".join(lines[-30_000:])
    assert main(["tail", "-n", "30000", "--interleave", JOB_ID]) == 0
    assert capfdbinary.readouterr().out == b"".join(lines[-30_000:])
