"""Every reader gets every byte that a job wrote, from the first, exactly once."""

import hashlib
import random
import shlex
import subprocess
from collections.abc import Sequence

import pytest

from tests.e2e.commandline import MODULE, SCRIPT, Twctl
from tests.e2e.daemon import Daemon
from tests.e2e.pki import Certificates


def lines(first: int, last: int) -> bytes:
    """Return what `seq FIRST LAST` prints."""
    return b"".join(b"%d\n" % number for number in range(first, last + 1))


@pytest.mark.parametrize("program", [MODULE, SCRIPT], ids=["module", "script"])
def test_three_readers_at_once(
    daemon: Daemon, certs: Certificates, program: Sequence[str]
) -> None:
    """Two readers of stdout and one of stderr each get exactly what was written."""
    twctl = Twctl(daemon, certs.of("alice"), program=program)
    gate = daemon.gate()
    job = twctl.shell(
        "seq 1 20000; seq 50001 70000 >&2;"
        f"{gate.wait}; seq 20001 40000; seq 70001 90000 >&2"
    )

    with (
        twctl.start("tail", "-f", job) as one,
        twctl.start("tail", "-f", job) as two,
        twctl.start("tail", "-f", "--err", job) as errors,
    ):
        one.until(b"\n20000\n")
        two.until(b"\n20000\n")
        errors.until(b"\n70000\n")
        gate.open()

        assert one.finish().stdout == lines(1, 40_000)
        assert two.finish().stdout == lines(1, 40_000)
        assert errors.finish().stdout == lines(50_001, 90_000)


def test_reader_in_the_middle(daemon: Daemon, alice: Twctl) -> None:
    """A reader that comes while the job writes begins with the first byte."""
    gate = daemon.gate()
    job = alice.shell(f"seq 1 5000; {gate.wait}; seq 5001 9000")
    alice.until_printed(job, b"\n5000\n")

    with alice.start("tail", "-f", job) as reader:
        reader.until(b"\n5000\n")
        gate.open()

        assert reader.finish().stdout == lines(1, 9000)


def test_reader_after_the_end(alice: Twctl) -> None:
    """A reader that comes after the job's end still gets all of it."""
    job = alice.run("seq", "1", "100000")
    alice.ended(job)

    assert alice("tail", "-f", job).stdout == lines(1, 100_000)
    assert alice("tail", job).stdout == lines(1, 100_000)


def test_binary_output(daemon: Daemon, alice: Twctl) -> None:
    """Bytes are bytes: nothing is decoded, translated or added."""
    data = bytes(range(256)) + random.Random(1).randbytes(700_000)
    file = daemon.place.shared / "binary"
    file.write_bytes(data)
    job = alice.run("cat", str(file))

    assert alice("tail", "-f", job).stdout == data


def test_silent_job(alice: Twctl) -> None:
    """A job that writes nothing reads as nothing, and its readers end."""
    job = alice.run("true")

    for arguments in (["-f"], ["-f", "--err"], []):
        done = alice("tail", *arguments, job)

        assert (done.code, done.stdout, done.stderr) == (0, b"", "")


def test_tail_without_follow_ends_at_the_present(daemon: Daemon, alice: Twctl) -> None:
    """Without -f, what has been written so far is printed and that is all."""
    gate = daemon.gate()
    job = alice.shell(f"echo before; {gate.wait}; echo after")
    alice.until_printed(job, b"before\n")

    now = alice("tail", job)
    gate.open()

    assert (now.code, now.stdout) == (0, b"before\n")
    assert alice.output(job) == "before\nafter\n"


def test_both_streams(alice: Twctl) -> None:
    """With --all, each stream goes to the matching descriptor."""
    job = alice.shell("echo out; echo err >&2")

    done = alice("tail", "-f", "--all", job)

    assert (done.code, done.stdout, done.stderr) == (0, b"out\n", "err\n")


def test_from_offset(alice: Twctl) -> None:
    """--from-offset begins at the absolute offset, in bytes."""
    job = alice.run("printf", "0123456789")
    alice.ended(job)

    assert alice("tail", "--from-offset", "4", job).stdout == b"456789"
    assert alice("tail", "-f", "--from-offset", "4", job).stdout == b"456789"
    assert alice("tail", "--from-offset", "10", job).stdout == b""


@pytest.mark.parametrize("options", [(), ("-t",)], ids=["plain", "with times"])
@pytest.mark.parametrize("offset", ["11", "12"])
def test_offset_beyond_the_end(
    alice: Twctl, offset: str, options: Sequence[str]
) -> None:
    """An offset that the stream of an ended job does not hold is an error."""
    job = alice.run("printf", "0123456789")
    alice.ended(job)

    done = alice("tail", "--from-offset", offset, *options, job)

    assert done.code == 1
    assert f"offset {offset} lies outside" in done.error


def test_exit_code_of_a_reader(alice: Twctl) -> None:
    """A reader that has read all exits with 0; --exit-code gives the job's."""
    job = alice.shell("echo done; exit 9")

    assert alice("tail", "-f", job).code == 0
    assert alice("tail", "-f", "--exit-code", job).code == 9


@pytest.mark.parametrize("program", [MODULE, SCRIPT], ids=["module", "script"])
def test_run_and_follow(
    daemon: Daemon, certs: Certificates, program: Sequence[str]
) -> None:
    """`run -f` is like running the command here: both streams and the code."""
    twctl = Twctl(daemon, certs.of("alice"), program=program)

    done = twctl("run", "-f", "sh", "-c", "echo out; echo err >&2; exit 3")

    assert (done.code, done.stdout, done.stderr) == (3, b"out\n", "err\n")


def test_run_and_follow_a_signaled_job(alice: Twctl) -> None:
    """A job that signal n ends gives 128 + n."""
    done = alice("run", "--follow", "sh", "-c", "kill -TERM $$")

    assert (done.code, done.stdout, done.stderr) == (143, b"", "")


def test_options_end_at_the_command(alice: Twctl) -> None:
    """What follows the first positional belongs to the command, -f included."""
    job = alice.run("echo", "-f", "--name", "x", "-o", "json")

    assert alice.output(job) == "-f --name x -o json\n"


def test_arguments_arrive_as_they_are(alice: Twctl) -> None:
    """No shell comes between: spaces, quotes, globs and empty words stay."""
    words = ["", "a b", "*", "$HOME", '"', "ä"]

    job = alice.run("--", "printf", "<%s>", *words)

    assert alice.output(job) == "".join(f"<{word}>" for word in words)


def test_closed_stdout(alice: Twctl) -> None:
    """When whoever reads the output goes away, `tail` ends quietly with 141."""
    job = alice.run("seq", "1", "3000000")

    with alice.popen("tail", "-f", job) as tail:
        assert tail.stdout is not None
        assert tail.stderr is not None
        assert tail.stdout.read(4) == b"1\n2\n"
        tail.stdout.close()

        assert tail.stderr.read() == b""
        assert tail.wait(30) == 141


@pytest.mark.parametrize(
    "verb",
    [
        ("events", "-f", "--since-seq", "now"),
        ("list", "--watch", "-o", "json"),
        ("top", "-i", "60", "-o", "json"),
        ("tail", "-f"),
    ],
    ids=lambda verb: verb[0],
)
def test_closed_stdout_of_one_that_waits(alice: Twctl, verb: Sequence[str]) -> None:
    """Who goes on for ever ends when the reader goes, though there is nothing new."""
    job = alice.run("--", "sh", "-c", "echo up; exec sleep 1000")
    alice.until_printed(job, b"up")

    with alice.popen(*verb, *([job] if verb[0] == "tail" else [])) as waiting:
        assert waiting.stdout is not None
        assert waiting.stderr is not None

        try:
            if verb[0] in {"list", "tail"}:
                assert waiting.stdout.readline()

            waiting.stdout.close()

            assert waiting.wait(10) == 141
            assert waiting.stderr.read() == b""
        finally:
            waiting.kill()

    alice("kill", job)


@pytest.mark.timeout(120)
def test_real_workload(alice: Twctl) -> None:
    """Two followers of `tar | gzip` get the bytes that a local run gives."""
    script = (
        "tar c --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner"
        " /usr/share/doc | gzip -n"
    )
    job = alice.shell(script)

    with (
        alice.start("tail", "-f", job) as one,
        alice.start("tail", "-f", job) as two,
    ):
        local = subprocess.run(
            ["sh", "-c", script], capture_output=True, check=True, timeout=100
        )
        digests = {
            hashlib.sha256(reader.finish(within=100).stdout).hexdigest()
            for reader in (one, two)
        }

    assert digests == {hashlib.sha256(local.stdout).hexdigest()}
    assert alice.status(job)["output"]["stdout"]["bytes"] == len(local.stdout)


@pytest.mark.parametrize(
    ("closed", "code"),
    [("<&-", 0), (">&-", 141), ("2>&-", 0), ("<&- >&- 2>&-", 141)],
    ids=["0", "1", "2", "all"],
)
@pytest.mark.parametrize("arguments", [("tail", "-f"), ("status",)], ids=" ".join)
def test_closed_descriptor(
    alice: Twctl, arguments: Sequence[str], closed: str, code: int
) -> None:
    """A standard descriptor that is closed from the beginning breaks nothing."""
    job = alice.run("echo", "hello")
    alice("wait", job)

    done = subprocess.run(
        ["sh", "-c", f"{shlex.join([*alice.program, *arguments, job])} {closed}"],
        env=alice.environment,
        capture_output=True,
        check=False,
        timeout=30,
    )

    assert (done.returncode, done.stderr) == (code, b"")
