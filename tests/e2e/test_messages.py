"""What `twctl` says of each failure that the server answers with, word for word."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from teleworkerd.protocol.errors import ErrorCode
from tests.e2e.commandline import Twctl
from tests.e2e.daemon import StartDaemon
from tests.e2e.pki import generate


CONFIG: Final = """
[access]
viewer = ["bob"]

[clients]
running_jobs = 3

[limits]
mem = 50
job_mem = 100
"""


@dataclass(frozen=True, slots=True)
class Row:
    """A call that fails, the line that it prints, and its exit code.

    In both, `{job}` is a job that runs by the name `taken`.
    """

    code: ErrorCode
    call: str
    line: str
    status: int = 1
    who: str = "alice"


ROWS: Final = (
    Row(
        ErrorCode.INVALID_REQUEST,
        "events --since-seq 999999",
        "event 999999 has not come to pass: the newest is {newest}; give the number of"
        " one that was told by this server; without --since-seq all that is kept is"
        " told",
    ),
    Row(
        ErrorCode.JOB_NOT_FOUND,
        "status nobody",
        "there is no job 'nobody'; see 'twctl list -a'",
    ),
    Row(
        ErrorCode.JOB_NOT_FOUND,
        "kill {job}",
        "there is no job '{job}'; see 'twctl list -a'",
        who="carol",
    ),
    Row(
        ErrorCode.NAME_TAKEN,
        "run --name taken true",
        "job {job} already has the name 'taken' and has not ended; choose another name"
        " or stop that job",
        125,
    ),
    Row(
        ErrorCode.REQUEST_CONFLICT,
        "run --request-id once false",
        "request id 'once' was used for another command; make a new one for each job",
        125,
    ),
    Row(
        ErrorCode.LAUNCH_FAILED,
        "run -e PATH=/bin nosuchcommand",
        "cannot run 'nosuchcommand': command not found in the PATH that the job was"
        " given",
        127,
    ),
    Row(
        ErrorCode.LAUNCH_FAILED,
        "run /nosuch/command",
        "cannot run '/nosuch/command': No such file or directory",
        127,
    ),
    Row(
        ErrorCode.LAUNCH_FAILED,
        "run /etc/passwd",
        "cannot run '/etc/passwd': it is a directory, or user nobody may not execute"
        " it",
        126,
    ),
    Row(
        ErrorCode.LAUNCH_FAILED,
        "run -w /nosuch true",
        "workdir '/nosuch' cannot be entered: No such file or directory",
        126,
    ),
    Row(
        ErrorCode.LIMIT_REJECTED,
        "run --mem 101 true",
        "mem: 101 MB is too much: one job may have 100 MB ([limits] job_mem); ask for"
        " at most that with --mem",
        125,
    ),
    Row(
        ErrorCode.OFFSET_OUT_OF_RANGE,
        "tail --from-offset 7 {job}",
        "offset 7 lies outside the stream, which ends at 0; ask from 0 up to 0",
    ),
    Row(
        ErrorCode.JOB_NOT_ENDED,
        "rm {job}",
        "job {job} has not ended, it is running; 'twctl stop {job}' first",
    ),
    Row(
        ErrorCode.TOO_MANY,
        "run true",
        "carol has as many running jobs as one name may, 3; stop some ('twctl stop"
        " JOB') or wait for their ends, or ask the operator for more [clients]"
        " running_jobs",
        125,
        who="carol",
    ),
    Row(
        ErrorCode.PERMISSION_DENIED,
        "run -u root true",
        "account root is not granted to alice; granted: nobody",
        126,
    ),
    Row(
        ErrorCode.PERMISSION_DENIED,
        "list --owner bob",
        "alice has the role user, and may see no jobs of others",
    ),
    Row(
        ErrorCode.PERMISSION_DENIED,
        "kill {job}",
        "job {job} belongs to alice; as viewer bob may not end it",
        who="bob",
    ),
)

# Who tests those for which a server has to be in a state of its own.
ELSEWHERE: Final = {
    ErrorCode.AMBIGUOUS_JOB: "test_many.py::test_ambiguous_prefix",
    ErrorCode.JOB_REMOVED: "tests/twctl/test_messages.py",
    ErrorCode.NO_SPACE: "test_full_disk.py",
    ErrorCode.UNAVAILABLE: "test_exhaustion.py",
    ErrorCode.CANCELLED: "tests/twctl/test_messages.py",
    ErrorCode.UNSUPPORTED_VERSION: "tests/twctl/test_messages.py",
    ErrorCode.PROTOCOL_ERROR: "tests/twctl/test_messages.py",
    ErrorCode.INTERNAL: "tests/twctl/test_messages.py",
}


def test_lines(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """Each says what failed, of which thing, why, and what to do about it."""
    certs = generate(tmp_path / "certs", "alice", "bob", "carol")
    daemon = start_daemon(certs=certs, config=CONFIG)
    people = {name: Twctl(daemon, certs.of(name)) for name in ("alice", "bob", "carol")}
    alice, carol = people["alice"], people["carol"]
    job = alice.run("--name", "taken", "sleep", "1000")
    alice("wait", alice.run("--request-id", "once", "true"))
    busy = [carol.run("sleep", "1000") for _ in range(3)]
    newest = alice("info", "-o", "json").json["newest_event"]
    found, expected = {}, {}

    for row in ROWS:
        arguments = row.call.format(job=job).split()
        done = people[row.who](*arguments)
        found[row.who, row.call] = (done.code, done.error)
        line = row.line.format(job=job, newest=newest)
        expected[row.who, row.call] = (row.status, f"twctl: error: {line}\n")

    carol("kill", *busy)
    alice("kill", job)
    assert found == expected


def test_every_code_has_a_line() -> None:
    """No error of the protocol is left out, here and elsewhere together."""
    assert {row.code for row in ROWS} | ELSEWHERE.keys() == set(ErrorCode)
