"""Looking back at what a job wrote: its last lines, its times, its order, its end."""

import hashlib
import itertools
import json
import re
import subprocess
import time
from datetime import UTC, datetime

import pytest

from tests.e2e.commandline import Twctl
from tests.e2e.daemon import Daemon
from tests.e2e.pki import Certificates


STAMP = re.compile(rb"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z) ", re.MULTILINE)

# Writes to both streams in turn, and lets each write be seen on its own.
IN_TURN = """\
import os, time
for number in range(20):
    os.write(1 + number % 2, b"%d\\n" % number)
    time.sleep(0.02)
"""


def lines(first: int, last: int) -> bytes:
    """Return what `seq FIRST LAST` prints."""
    return b"".join(b"%d\n" % number for number in range(first, last + 1))


def rfc_3339(moment: float) -> str:
    """Return a time of this machine's clock as one would write it."""
    return datetime.fromtimestamp(moment, UTC).isoformat()


@pytest.fixture(scope="module")
def numbers(daemon: Daemon, certs: Certificates) -> str:
    """A job of alice's that has written the numbers to 100,000 and has ended."""
    alice = Twctl(daemon, certs.of("alice"))
    job = alice.run("seq", "1", "100000")
    alice.ended(job)
    return job


@pytest.mark.parametrize("count", [0, 1, 10, 99_999, 200_000])
def test_last_lines(alice: Twctl, numbers: str, count: int) -> None:
    """-n gives exactly the last lines, as tail(1) does, and all if there are fewer."""
    expected = lines(max(1, 100_001 - count), 100_000)

    assert alice("tail", "-n", str(count), numbers).stdout == expected
    assert alice("tail", "-f", f"-n{count}", numbers).stdout == expected


@pytest.mark.parametrize(
    ("text", "count"), [("", "1"), ("a", "1"), ("a\\nb\\n", "1"), ("\\n\\na", "2")]
)
def test_like_tail(alice: Twctl, text: str, count: str) -> None:
    """Whatever the last line looks like, -n and -c do what tail(1) does."""
    job = alice.run("printf", text)
    alice.ended(job)
    data = alice("tail", job).stdout

    for option in ("-n", "-c"):
        expected = subprocess.run(
            ["tail", option, count], input=data, capture_output=True, check=True
        )
        assert alice("tail", option, count, job).stdout == expected.stdout


def test_last_bytes(alice: Twctl, numbers: str) -> None:
    """-c gives exactly the last bytes; sizes have units."""
    output = lines(1, 100_000)

    assert alice("tail", "-c", "10", numbers).stdout == output[-10:]
    assert alice("tail", "-c", "100k", numbers).stdout == output[-102_400:]
    assert alice("tail", "-c", "1g", numbers).stdout == output


def test_following_from_the_last_lines(daemon: Daemon, alice: Twctl) -> None:
    """-n with -f goes on with what is new."""
    gate = daemon.gate()
    job = alice.shell(f"seq 1 1000; {gate.wait}; seq 1001 1010")
    alice.until_printed(job, b"\n1000\n")

    assert alice("tail", "-n", "2", job).stdout == b"999\n1000\n"

    with alice.start("tail", "-f", "-n", "2", job) as reader:
        reader.until(b"1000\n")
        gate.open()

        assert reader.finish().stdout == lines(999, 1010)


@pytest.mark.parametrize("options", [[], ["--interleave", "-t"]], ids=" ".join)
def test_following_what_is_new(
    daemon: Daemon, alice: Twctl, options: list[str]
) -> None:
    """-n 0 with -f is what comes from now on, without a gap."""
    gate = daemon.gate()
    job = alice.shell(
        "n=1; seq 1 1000; until [ -e"
        f" {gate.path} ]; do echo $((1000 + n)); n=$((n + 1)); sleep 0.02; done"
    )
    alice.until_printed(job, b"\n1000\n")

    with alice.start("tail", "-f", "-n", "0", *options, job) as reader:
        reader.until_lines(3)
        gate.open()
        new = STAMP.sub(b"", reader.finish().stdout)

    first, last = int(new.split()[0]), int(new.split()[-1])
    assert first > 1000
    assert new == lines(first, last)
    assert alice("tail", "-n", "1", job).stdout == b"%d\n" % last


def test_window_of_time(alice: Twctl) -> None:
    """--since and --until cut by when the bytes came, on every form of a time."""
    job = alice.shell("echo one; sleep 1; echo two; sleep 1; echo three")
    alice.ended(job)
    stamped = alice("tail", "-t", job).stdout
    one, two, three = (match.decode() for match in STAMP.findall(stamped))

    def tail(*options: str) -> bytes:
        return alice("tail", *options, job).stdout

    assert tail("--since", two) == b"two\nthree\n"
    assert tail("--until", two) == b"one\n"
    assert tail("--since", two, "--until", three) == b"two\n"
    assert tail("-f", "--since", one, "--until", three) == b"one\ntwo\n"
    assert tail("--since", two, "-n", "1") == b"three\n"
    assert tail("--since", two, "-n", "5") == b"two\nthree\n"
    assert tail("--until", three, "-n", "1") == b"two\n"
    assert tail("--since", "1h") == b"one\ntwo\nthree\n"
    assert tail("--until", "1h") == b""
    assert tail("--since", rfc_3339(time.time())) == b""
    seconds = datetime.fromisoformat(two[:26] + "+00:00").timestamp()
    assert tail("--since", f"@{seconds - 0.3:.6f}") == b"two\nthree\n"


def test_until_of_a_job_that_goes_on(daemon: Daemon, alice: Twctl) -> None:
    """With -f and a time that is yet to come, reading ends then, without a fuss."""
    gate = daemon.gate()
    job = alice.shell(f"echo before; {gate.wait}")
    begin = time.time()
    until = begin + 2

    done = alice("tail", "-f", "--until", rfc_3339(until), job)

    assert (done.code, done.stdout, done.stderr) == (0, b"before\n", "")
    assert until <= time.time() < until + 2
    gate.open()


def test_timestamps(alice: Twctl) -> None:
    """Each line has the time of its first byte; without them all is as it was."""
    before = time.time_ns()
    job = alice.shell("printf 'a\\nb'; sleep 0.5; printf 'c\\n\\nd'")
    alice.ended(job)
    after = time.time_ns()

    stamped = alice("tail", "-t", job).stdout

    assert STAMP.sub(b"", stamped) == b"a\nbc\n\nd"
    stamps = [match.decode() for match in STAMP.findall(stamped)]
    first, second, third, fourth = map(_nanoseconds, stamps)
    assert before <= first == second < third == fourth <= after
    assert third - first >= 400_000_000


def _nanoseconds(stamp: str) -> int:
    whole, fraction = stamp.removesuffix("Z").split(".")
    seconds = datetime.fromisoformat(f"{whole}+00:00").timestamp()
    return round(seconds) * 10**9 + int(fraction)


def test_timestamps_from_the_middle_of_a_line(alice: Twctl, numbers: str) -> None:
    """A line of which only the end is there gets no stamp."""
    stamped = alice("tail", "-t", "-c", "10", numbers).stdout

    assert STAMP.sub(b"", stamped) == lines(1, 100_000)[-10:]
    assert stamped.startswith(b"99\n2")
    assert len(STAMP.findall(stamped)) == 1


def test_timestamps_of_much(alice: Twctl, numbers: str) -> None:
    """Stamps never fall into a line, wherever chunks end."""
    stamped = alice("tail", "-t", numbers).stdout

    assert all(STAMP.match(line) for line in stamped.splitlines())
    assert STAMP.sub(b"", stamped) == lines(1, 100_000)


def test_interleaving(alice: Twctl, python: str) -> None:
    """Both streams come in the order in which they were written, every time."""
    job = alice.run(python, "-c", IN_TURN)

    live = alice("tail", "-f", "--interleave", job).stdout

    assert live == lines(0, 19)
    assert alice("tail", "--interleave", job).stdout == live
    assert alice("tail", "--interleave", "-n", "3", job).stdout == lines(17, 19)
    stamped = alice("tail", "--interleave", "-t", job).stdout
    assert STAMP.sub(b"", stamped) == live
    assert STAMP.findall(stamped) == sorted(STAMP.findall(stamped))


def test_interleaving_apart(alice: Twctl, python: str) -> None:
    """With --all each goes to its own descriptor, and 2>&1 shows the order."""
    job = alice.run(python, "-c", IN_TURN)
    alice.ended(job)

    done = alice("tail", "--interleave", "--all", job)
    assert done.stdout.split() == [b"%d" % n for n in range(0, 20, 2)]
    assert done.stderr.split() == [f"{n}" for n in range(1, 20, 2)]

    together = subprocess.run(
        [*alice.program, "tail", "--interleave", "--all", job],
        env=alice.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=True,
        timeout=30,
    )
    assert together.stdout == lines(0, 19)


def test_same_order_for_every_reader(alice: Twctl) -> None:
    """However fast both are written: each reader gets the same order."""
    # Lines of 16 bytes: none is cut by the blocks in which they are written.
    count = "seq -f %015.0f"
    job = alice.shell(f"{count} 1 30000 & {count} 100001 130000 >&2; wait")

    first = alice("tail", "-f", "--interleave", job).stdout
    second = alice("tail", "--interleave", job).stdout

    assert first == second
    everything = [*range(1, 30_001), *range(100_001, 130_001)]
    assert sorted(map(int, first.split())) == everything


def test_merge(alice: Twctl, python: str) -> None:
    """--merge writes stderr into stdout in exact order, however fast it is."""
    code = "import os\nfor n in range(3000): os.write(1 + n % 2, b'%d\\n' % n)"
    job = alice.run("--merge", python, "-c", code)

    assert alice("tail", "-f", job).stdout == lines(0, 2999)
    assert alice("tail", "-f", "--err", job).stdout == b""
    assert alice.status(job)["merge"] is True
    assert "into stdout" in alice("status", job).stdout.decode()


def test_json(alice: Twctl) -> None:
    """JSON lines hold every byte, with its time, and say how it ended."""
    job = alice.shell("printf 'gr\\303\\274n\\n'; printf '\\377' >&2; exit 3")

    done = alice("tail", "-f", "--all", "-o", "json", job)
    objects = [json.loads(line) for line in done.stdout.splitlines()]
    *chunks, end = objects

    assert (done.code, done.stderr) == (0, "")
    out, err = sorted(chunks, key=lambda o: str(o["stream"]), reverse=True)
    assert (out["text"], out["offset"]) == ("grün\n", 0)
    assert (err["base64"], err["offset"]) == ("/w==", 0)
    assert _nanoseconds(out["time"])
    assert (end["end"]["exit_code"], end["end"]["state"]) == (3, "finished")
    assert end["end"]["stdout"] == {
        "bytes": 6,
        "sha256": hashlib.sha256("grün\n".encode()).hexdigest(),
        "verified": True,
    }


def test_spool_that_was_changed(daemon: Daemon, alice: Twctl) -> None:
    """What is not what the job wrote is found out: 125, and a line that says so."""
    job = alice.run("printf", "the truth")
    alice.ended(job)
    (spool,) = daemon.place.state.rglob(f"{job}/stdout")
    spool.write_bytes(b"a lie ...")

    for arguments in (["tail"], ["tail", "-f"], ["tail", "--interleave"]):
        done = alice(*arguments, job)
        assert done.code == 125
        assert "not what the job wrote" in done.stderr

    assert alice("tail", "--from-offset", "1", job).code == 0


def test_dropped_output(alice: Twctl) -> None:
    """What is beyond the limit is a gap that readers are told of."""
    options = ("--output-limit", "1000", "--on-full", "drop")
    job = alice.run(*options, "seq", "1", "10000")

    done = alice("tail", "-f", job)
    kept = done.stdout
    dropped = 48_894 - len(kept)

    assert done.code == 0
    assert lines(1, 10_000).startswith(kept)
    assert len(kept) <= 1000
    assert f"{dropped} bytes of stdout (from {len(kept)} up to 48894)" in done.stderr
    assert alice("tail", "-n", "1", job).stdout == kept.splitlines(keepends=True)[-1]
    status = alice.status(job)
    assert status["output"]["stdout"]["dropped"] == dropped
    assert status["output"]["stdout"]["sha256"] == hashlib.sha256(kept).hexdigest()
    assert (status["output_limit"], status["on_full"]) == (1000, "drop")
    gaps = [
        o["gap"]
        for o in map(json.loads, alice("tail", "-o", "json", job).stdout.splitlines())
        if "gap" in o
    ]
    assert (gaps[0]["from"], gaps[-1]["to"]) == (len(kept), 48_894)


def test_rm(daemon: Daemon, alice: Twctl, bob: Twctl) -> None:
    """An ended job is removed with its output, by its owner."""
    gate = daemon.gate()
    running = alice.shell(gate.wait)
    ended = alice.run("echo", "gone")
    alice.ended(ended)

    assert bob("rm", ended).code == 1
    done = alice("rm", running, ended)
    assert (done.code, done.stdout) == (1, b"")
    assert "not ended" in done.stderr
    assert alice("tail", ended).code == 1
    assert alice("rm", ended).code == 1
    assert not [*daemon.place.state.rglob(ended)]

    gate.open()
    alice.ended(running)
    done = alice("rm", "-o", "json", running)
    assert (done.code, done.json) == (0, {"schema": 1, "removed": [running]})


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_end_of_a_long_log(alice: Twctl) -> None:
    """The last lines and the last seconds of much output come at once."""
    job = alice.shell("seq 1 10000000; sleep 1.2; echo end")
    alice("wait", job, within=100)
    usual = seconds_of(alice, "status", job)

    assert alice("tail", "-n", "2", job).stdout == b"10000000\nend\n"
    (stamp,) = STAMP.findall(alice("tail", "-t", "-n", "1", job).stdout)
    since = stamp.decode()
    assert alice("tail", "--since", since, job).stdout == b"end\n"

    for options in (["-n", "10"], ["-c", "10"], ["--since", since], ["--since", "1s"]):
        # Both have a start of Python in them; the machine may be busy.
        assert seconds_of(alice, "tail", *options, job) < 2 * usual + 1


def seconds_of(twctl: Twctl, *arguments: str) -> float:
    """Return how long a call takes, on a machine with other things to do."""
    begins = [time.monotonic()]

    for _ in range(3):
        assert twctl(*arguments).code == 0
        begins.append(time.monotonic())

    return min(end - begin for begin, end in itertools.pairwise(begins))


def test_last_lines_until_later(alice: Twctl) -> None:
    """An end that is still to come takes nothing from the last lines."""
    job = alice.shell("seq 1 9")
    alice.ended(job)

    assert alice("tail", "-n", "2", "--until", "2099-01-01", job).stdout == b"8\n9\n"
