"""Bad input at `twctl`: one clear line, the right code, and nothing started."""

from pathlib import Path

import pytest

from tests.e2e.commandline import Twctl, call, settings
from tests.e2e.daemon import Daemon, free_port
from tests.e2e.pki import Certificates, Identity


UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("-f", "no-such-command"), 127, "no-such-command"),
        (("-f", "/etc"), 126, "/etc"),
        (("no-such-command",), 127, "no-such-command"),
        (("/no/such/command",), 127, "/no/such/command"),
        (("/etc",), 126, "/etc"),
        (("/etc/passwd",), 126, "/etc/passwd"),
        (("-w", "/no/such/dir", "true"), 126, "/no/such/dir"),
        (("-w", "/etc/passwd", "true"), 126, "/etc/passwd"),
        (("-w", "/root", "true"), 126, "/root"),
    ],
)
def test_launch_failure(
    alice: Twctl, arguments: tuple[str, ...], code: int, named: str
) -> None:
    """What cannot be launched gives 126 or 127 and names the object."""
    done = alice("run", *arguments)

    assert done.code == code
    assert named in done.error


def test_record_of_a_launch_failure(alice: Twctl) -> None:
    """The failed job is recorded, with what went wrong."""
    alice("run", "--name", "hopeless", "no-such-command")

    status = alice.status("hopeless")

    assert (status["state"], status["reason"]) == ("failed", "launch")
    assert "no-such-command" in str(status["error"])
    assert status["started_at"] is None


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--bogus", "true"),
        ("--mem",),
        ("--timeout", "soon", "true"),
        ("--timeout", "-1", "true"),
        ("--name", "bad name!", "true"),
        ("-l", "=v", "true"),
        ("-e", "=v", "true"),
        ("-w", "relative", "true"),
        ("",),
    ],
    ids=" ".join,
)
def test_bad_flags_of_run(alice: Twctl, arguments: tuple[str, ...]) -> None:
    """Bad flags of `run` give 125: no code of a job can be meant."""
    done = alice("run", *arguments)

    assert done.code == 125
    assert done.error


@pytest.mark.parametrize(
    "arguments",
    [
        ("no-such-verb",),
        ("--bogus", "list"),
        ("tail",),
        ("kill",),
        ("status", "--bogus", "abcd"),
        ("tail", "--from-offset", "x", "abcd"),
        ("tail", "--from-offset=-1", "abcd"),
        ("stop", "-t", "soon", "abcd"),
        ("list", "--limit", "few"),
        ("list", "--limit", "9" * 5000),
        ("list", "-o", "xml"),
        ("wait", "--timeout", "soon", "abcd"),
    ],
    ids=lambda arguments: " ".join(arguments)[:40],
)
def test_usage(alice: Twctl, arguments: tuple[str, ...]) -> None:
    """Bad usage of any other verb gives 2 and one line."""
    done = alice(*arguments)

    assert done.code == 2
    assert done.error


@pytest.mark.parametrize(
    ("verb", "job"),
    [
        ("status", UNKNOWN),
        ("status", "abcdef"),
        ("status", "nobody-has-this-name"),
        ("tail", "abcdef"),
        ("kill", "abcdef"),
        ("stop", "abcdef"),
        ("wait", "abcdef"),
    ],
)
def test_unknown_job(alice: Twctl, verb: str, job: str) -> None:
    """A job that does not exist gives 1, and the line repeats what was given."""
    done = alice(verb, job)

    assert done.code == 1
    assert job in done.error


def test_names_and_prefixes(alice: Twctl) -> None:
    """An ID, a prefix of it and the name all lead to the job."""
    job = alice.run("--name", "reachable", "true")

    for name in (job, job[:8], "reachable"):
        assert alice.status(name)["id"] == job


def test_short_prefix(alice: Twctl) -> None:
    """A prefix of fewer than four characters leads nowhere, and is told why."""
    job = alice.run("true")

    done = alice("status", job[:3])

    assert done.code == 1
    assert (
        f"name '{job[:3]}', and the beginning of an ID has 4 characters" in done.error
    )


def test_name_that_is_taken(alice: Twctl) -> None:
    """Two living jobs of one owner cannot bear the same name."""
    job = alice.run("--name", "unique", "sleep", "1000")

    done = alice("run", "--name", "unique", "true")

    assert done.code == 125
    assert "unique" in done.error
    alice("kill", job)
    alice.ended(job)
    again = alice.run("--name", "unique", "true")
    assert alice.status("unique")["id"] == again


@pytest.mark.parametrize("verb", [("run", "true"), ("status", "abcd"), ("info",)])
def test_server_down(
    certs: Certificates, tmp_path: Path, verb: tuple[str, ...]
) -> None:
    """When nobody listens, every verb gives 125 and names the address."""
    address = f"127.0.0.1:{free_port()}"
    environment = settings(address, certs, certs.of("alice"), home=tmp_path)

    done = call(*verb, environment=environment)

    assert done.code == 125
    assert address in done.error


@pytest.mark.parametrize("missing", ["cert", "key", "ca"])
def test_missing_file(daemon: Daemon, certs: Certificates, missing: str) -> None:
    """A certificate, key or CA file that is not there is named."""
    name = f"TWCTL_{missing.upper()}"
    twctl = Twctl(daemon, certs.of("alice"), environment={name: "/no/such.pem"})

    done = twctl("info")

    assert done.code == 125
    assert "/no/such.pem" in done.error


def test_key_of_another_certificate(daemon: Daemon, certs: Certificates) -> None:
    """A key that does not belong to the certificate is told as that."""
    mixed = Identity(certs.of("alice").cert, certs.of("bob").key)

    done = Twctl(daemon, mixed)("info")

    assert done.code == 125
    assert "key" in done.error


def test_code_of_our_failures_can_be_moved(certs: Certificates, tmp_path: Path) -> None:
    """TWCTL_EXIT_ERROR replaces 125."""
    address = f"127.0.0.1:{free_port()}"
    environment = settings(address, certs, certs.of("alice"), home=tmp_path)

    done = call("run", "true", environment=environment | {"TWCTL_EXIT_ERROR": "99"})

    assert done.code == 99


@pytest.mark.parametrize(
    ("verb", "code"), [(("list",), 2), (("run", "true"), 125)], ids=str
)
def test_bad_code_of_our_failures(
    alice: Twctl, verb: tuple[str, ...], code: int
) -> None:
    """A TWCTL_EXIT_ERROR that is no code is refused before anything is done."""
    alice.environment["TWCTL_EXIT_ERROR"] = "many"

    done = alice(*verb)

    assert done.code == code
    assert "TWCTL_EXIT_ERROR='many' is not an exit code" in done.error


@pytest.mark.parametrize("verb", [("info",), ("tail", "abcd"), ("context", "set", "x")])
@pytest.mark.parametrize(
    "option",
    [("--host", "ä..b"), ("--host", "a" * 70), ("--ca", "~nosuchuser/ca.pem")],
    ids=str,
)
def test_bad_settings(
    alice: Twctl, verb: tuple[str, ...], option: tuple[str, ...]
) -> None:
    """A host or a file that cannot be is named by every verb, in one line."""
    done = alice(*option, *verb)

    assert done.code == 125
    assert option[1] in done.error
    assert "bug" not in done.error


def test_flags_win_over_the_environment(
    daemon: Daemon, certs: Certificates, tmp_path: Path
) -> None:
    """--host, --ca, --cert and --key are stronger than TWCTL_*."""
    identity = certs.of("bob")
    wrong = settings(
        f"127.0.0.1:{free_port()}", certs, certs.of("alice"), home=tmp_path
    )

    done = call(
        *("--host", daemon.address, "--ca", str(certs.ca)),
        *("--cert", str(identity.cert), "--key", str(identity.key)),
        *("info", "-o", "json"),
        environment=wrong,
    )

    assert done.code == 0, done.stderr
    assert "bob" in done.json.values()
