"""A daemon that cannot start says why in one line; `--check` says it beforehand."""

import os
import re
import socket
import subprocess
from pathlib import Path

import pytest

from tests.e2e.daemon import PROGRAM, Daemon, Place, directories, try_to_start
from tests.e2e.pki import DAY, ROOT, Certificates, Purpose, issue


def refusal(*arguments: str) -> str:
    """Start a daemon that must fail; return the one line of its failure."""
    done = try_to_start(*arguments)

    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    lines = [
        line
        for line in done.stderr.splitlines()
        if re.search(r"\berror\b", line, re.IGNORECASE)
    ]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_port_taken(place: Place, certs: Certificates) -> None:
    """A port that somebody has is named."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"

        assert address in refusal("--listen", address, *directories(place, certs))

    assert not (place.state / "address").exists()


def test_address_of_somebody_else(place: Place, certs: Certificates) -> None:
    """An address that this host does not have is named."""
    line = refusal("--listen", "192.0.2.1:7443", *directories(place, certs))

    assert "192.0.2.1" in line


def test_state_directory_that_is_a_file(place: Place, certs: Certificates) -> None:
    """A file cannot be the state directory."""
    place.state.write_text("")

    line = refusal("--listen", "127.0.0.1:0", *directories(place, certs))

    assert str(place.state) in line


def test_state_directory_that_cannot_be_written(certs: Certificates) -> None:
    """Neither can what the kernel does not let even root write."""
    line = refusal(
        *("--listen", "127.0.0.1:0", "--state-dir", "/proc/teleworker"),
        *("--certs", str(certs.directory)),
    )

    assert "/proc/teleworker" in line


def test_state_directory_in_use(place: Place, daemon: Daemon) -> None:
    """Two daemons do not share a state directory."""
    line = refusal("--listen", "127.0.0.1:0", *directories(daemon.place, daemon.certs))

    assert str(daemon.place.state) in line
    assert daemon.address_file.read_text() == f"{daemon.address}\n"


def test_certificates_missing(place: Place) -> None:
    """A directory without certificates is named."""
    missing = Certificates(place.base / "no-certs")

    line = refusal("--listen", "127.0.0.1:0", *directories(place, missing))

    assert "no-certs" in line


@pytest.mark.parametrize("name", ["ca.pem", "server.pem", "server-key.pem"])
def test_file_missing(place: Place, certs: Certificates, name: str) -> None:
    """Each of the three files is needed, and named when it is not there."""
    some = copy_of(certs, place.base / "some")
    (some.directory / name).unlink()

    line = refusal("--listen", "127.0.0.1:0", *directories(place, some))

    assert name in line


def test_key_of_another_certificate(place: Place, certs: Certificates) -> None:
    """A key that does not belong to the certificate is told at the start."""
    some = copy_of(certs, place.base / "some")
    some.of("server").key.write_bytes(certs.of("alice").key.read_bytes())

    line = refusal("--listen", "127.0.0.1:0", *directories(place, some))

    assert "server-key.pem" in line


@pytest.mark.parametrize(("limit", "words"), [(200, "200 files may"), (4096, ": 4096")])
def test_open_files(place: Place, certs: Certificates, limit: int, words: str) -> None:
    """`--check` says how many files may be open, and when these are few."""
    done = try_to_start(
        "--check",
        *directories(place, certs),
        program=("prlimit", f"--nofile={limit}", *PROGRAM),
    )

    assert done.returncode == 0
    assert words in next(
        line for line in done.stdout.splitlines() if "open files" in line
    )


@pytest.mark.parametrize("limit", [8, 12, 20, 31])
def test_next_to_no_files(place: Place, certs: Certificates, limit: int) -> None:
    """With so few that nothing works the daemon says so in one line."""
    done = try_to_start(
        *("--listen", "127.0.0.1:0", *directories(place, certs)),
        program=("prlimit", f"--nofile={limit}", *PROGRAM),
    )

    assert done.returncode == 1
    begin, error = done.stderr.splitlines()
    assert "configuration file: none" in begin
    assert error.startswith(f"teleworkerd: error: no more than {limit} files ")


def test_certificate_expired(place: Place, certs: Certificates) -> None:
    """`--check` finds, once, a server certificate that no client would accept."""
    some = copy_of(certs, place.base / "some")
    old = issue(
        *(certs, "/CN=server"),
        into=place.base / "old",
        purpose=Purpose.SERVER,
        begins=-2 * DAY,
        ends=-DAY,
    )
    some.of("server").cert.write_bytes(old.cert.read_bytes())
    some.of("server").key.write_bytes(old.key.read_bytes())

    done = try_to_start("--check", *directories(place, some))

    assert done.returncode == 1
    assert (done.stdout + done.stderr).count("expired") == 1


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[daemon]\nlisten = \n", "teleworkerd.toml"),
        ('[daemon]\nlisden = "127.0.0.1:0"\n', "lisden"),
        ("[jobs]\nuser = 5\n", "user"),
        ('[daemon]\nlisten = "nowhere"\n', "nowhere"),
    ],
    ids=["syntax", "unknown", "type", "address"],
)
def test_bad_configuration(
    place: Place, certs: Certificates, text: str, named: str
) -> None:
    """A setting that is wrong is named, whatever is wrong with it."""
    file = place.base / "teleworkerd.toml"
    file.write_text(text)

    line = refusal("--config", str(file), *directories(place, certs))

    assert named in line


def test_configuration_missing(place: Place, certs: Certificates) -> None:
    """A file that was asked for must be there."""
    line = refusal("--config", "/no/such.toml", *directories(place, certs))

    assert "/no/such.toml" in line


def test_check_finds_all_in_order(place: Place, certs: Certificates) -> None:
    """`--check` says what it found, exits 0, and starts and leaves nothing."""
    done = try_to_start("--check", *directories(place, certs))

    assert done.returncode == 0, done.stderr
    assert str(certs.directory) in done.stdout
    assert not (place.state / "address").exists()
    assert not (place.state / "keeper.pid").exists()


def test_check_finds_what_is_missing(place: Place) -> None:
    """`--check` exits 1 and names what is not there."""
    missing = Certificates(place.base / "no-certs")

    done = try_to_start("--check", *directories(place, missing))

    assert done.returncode == 1
    assert "no-certs" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_check_finds_an_unknown_account(place: Place, certs: Certificates) -> None:
    """`--check` names an account that jobs are to run as but that is not there."""
    file = place.base / "teleworkerd.toml"
    file.write_text('[jobs]\nuser = "no-such-account"\n')

    done = try_to_start("--check", "--config", str(file), *directories(place, certs))

    assert done.returncode == 1
    assert "no-such-account" in done.stdout + done.stderr


def test_unknown_account(place: Place, certs: Certificates) -> None:
    """Nor does a daemon start whose jobs would all fail."""
    file = place.base / "teleworkerd.toml"
    file.write_text('[jobs]\nusers = { alice = "no-such-account" }\n')

    line = refusal(
        *("--config", str(file), "--listen", "127.0.0.1:0"),
        *directories(place, certs),
    )

    assert "there is no Unix account 'no-such-account'" in line
    assert not place.state.exists()


def test_check_finds_a_port_taken(place: Place, certs: Certificates) -> None:
    """A port in use is an error of `listen`, and only a word of the metrics."""
    file = place.base / "teleworkerd.toml"

    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        file.write_text(f"[metrics]\nlisten = '{address}'\n")
        done = try_to_start(
            *("--check", "--config", str(file), "--listen", address),
            *directories(place, certs),
        )

    assert done.returncode == 1
    assert f"ERROR listen: cannot listen on {address}: Address already" in done.stdout
    assert f"ok    metrics: there would be none: cannot listen on {address}" in (
        done.stdout
    )


def test_check_finds_what_cannot_be_made(certs: Certificates) -> None:
    """A state directory where the kernel makes none is found beforehand."""
    done = try_to_start(
        *("--check", "--listen", "127.0.0.1:0", "--state-dir", "/proc/teleworker"),
        *("--certs", str(certs.directory)),
    )

    assert done.returncode == 1
    assert "ERROR state directory: /proc/teleworker cannot be made in" in done.stdout


def test_check_that_is_not_read(place: Place, certs: Certificates) -> None:
    """A reader that wants only the first line, or none, makes no traceback."""
    reading, writing = os.pipe()
    os.close(reading)

    try:
        done = subprocess.run(
            [
                *(*PROGRAM, "--check", "--listen", "127.0.0.1:0"),
                *directories(place, certs),
            ],
            stdout=writing,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            check=False,
            timeout=30,
        )
    finally:
        os.close(writing)

    assert (done.returncode, done.stderr) == (0, b"")


def test_version() -> None:
    """`--version` prints it and exits 0."""
    done = try_to_start("--version")

    assert done.returncode == 0
    assert re.search(r"\d+\.\d+\.\d+", done.stdout)


def test_unknown_flag() -> None:
    """A flag that does not exist is a usage error."""
    done = try_to_start("--bogus")

    assert done.returncode == 2
    assert "--bogus" in done.stderr
    assert "Traceback" not in done.stderr


def copy_of(certs: Certificates, directory: Path) -> Certificates:
    """Return a copy of what the daemon needs of *certs*, to be spoilt."""
    directory.mkdir()

    for name in ("ca.pem", "server.pem", "server-key.pem"):
        file = directory / name
        file.touch(mode=0o600)
        file.write_bytes((certs.directory / name).read_bytes())

    return Certificates(directory)


def test_state_directory_that_others_may_write(
    place: Place, certs: Certificates
) -> None:
    """`--check` finds it, as a start does."""
    place.state.mkdir()
    place.state.chmod(0o777)
    done = try_to_start("--check", *directories(place, certs))

    assert done.returncode == 1
    assert "ERROR state directory: " in done.stdout
    assert f"'chmod 700 {place.state}'" in done.stdout
    assert "can be written by others" in refusal(
        "--listen", "127.0.0.1:0", *directories(place, certs)
    )
