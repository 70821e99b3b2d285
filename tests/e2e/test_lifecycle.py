"""The daemon's own life: start, end, restart, and deaths in between."""

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.e2e.commandline import Twctl, seconds_since
from tests.e2e.daemon import Daemon, Place, StartDaemon, directories, free_port
from tests.e2e.groups import left_of
from tests.e2e.pki import Certificates
from tests.e2e.processes import process, wait_until_gone
from tests.e2e.waiting import wait_for


pytestmark = pytest.mark.timeout(90)


def person(daemon: Daemon) -> Twctl:
    """Return alice's command line for a daemon of the test's own."""
    return Twctl(daemon, daemon.certs.of("alice"))


def test_start_and_clean_end(start_daemon: StartDaemon) -> None:
    """Two processes serve at the address in the file; SIGTERM leaves neither."""
    daemon = start_daemon()
    keeper, server = daemon.keeper, daemon.server

    assert keeper != server
    assert daemon.address in daemon.log()
    assert person(daemon)("info").code == 0

    daemon.stop()

    assert not keeper.is_alive
    assert not server.is_alive
    assert not daemon.address_file.exists()


def test_shutdown_ends_the_jobs(start_daemon: StartDaemon) -> None:
    """Jobs are ended with the daemon, and their records say why, ever after."""
    daemon = start_daemon()
    alice = person(daemon)
    plain = alice.shell("echo out; echo err >&2; exec sleep 1000", "--mem", "50")
    polite = alice.shell(
        "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.1; done"
    )
    alice.until_printed(plain, b"out\n")
    alice.until_printed(polite, b"up\n")

    daemon.stop()
    alice = person(start_daemon())

    status = alice.status(plain)
    assert (status["state"], status["reason"]) == ("stopped", "shutdown")
    assert (status["exit_code"], status["signal"]) == (143, 15)
    assert alice("tail", "-f", "--all", plain).stdout == b"out\n"
    assert alice("tail", "--err", plain).stdout == b"err\n"
    assert alice.status(polite)["reason"] == "shutdown"
    assert alice.output(polite) == "up\nbye\n"


def test_records_survive_a_restart(start_daemon: StartDaemon) -> None:
    """An ended job reads after a restart as it did before."""
    daemon = start_daemon()
    alice = person(daemon)
    job = alice.shell("seq 1 50000; exit 3", "--name", "old", "-l", "k=v")
    before = alice.ended(job)

    daemon.stop()
    alice = person(start_daemon())

    assert alice.status("old") == before
    assert len(alice("tail", "-f", job).stdout) == before["output"]["stdout"]["bytes"]
    assert alice("wait", job).code == 3


def test_server_killed_while_a_job_writes(start_daemon: StartDaemon) -> None:
    """After a `kill -9` of the server every reader still gets every byte once."""
    daemon = start_daemon()
    alice = person(daemon)
    gate = daemon.gate()
    job = alice.shell(
        "seq 1 100000; i=0; while [ $i -lt 40 ]; do seq $i 1000; sleep 0.02;"
        f" i=$((i + 1)); done; {gate.wait}; seq 1 100000; exit 7"
    )
    expected = b"".join(
        b"%d\n" % number
        for numbers in (
            range(1, 100_001),
            *(range(turn, 1001) for turn in range(40)),
            range(1, 100_001),
        )
        for number in numbers
    )

    with alice.start("tail", "-f", "--exit-code", job) as reader:
        reader.until(b"\n100000\n")
        first = daemon.server
        os.kill(first.pid, signal.SIGKILL)
        daemon.successor_of(first)
        gate.open()

        done = reader.finish(within=40)

    assert done.stdout == expected
    assert done.code == 7
    assert alice("tail", "-f", job).stdout == expected
    assert alice.ended(job)["exit_code"] == 7
    assert daemon.process.poll() is None


def test_job_that_ends_without_a_server(start_daemon: StartDaemon) -> None:
    """An exit that nobody was there to hear of is recorded all the same."""
    daemon = start_daemon()
    alice = person(daemon)
    gate = daemon.gate()
    job = alice.shell(f"echo up; {gate.wait}; echo down; exit 8")
    alice.until_printed(job, b"up\n")

    first = daemon.server
    gate.open()
    os.kill(first.pid, signal.SIGKILL)
    daemon.successor_of(first)
    wait_for(lambda: alice("info").code == 0, what="service", within=20)

    assert alice("wait", job).code == 8
    assert alice.output(job) == "up\ndown\n"


def test_keeper_killed(place: Place, certs: Certificates) -> None:
    """Without their keeper jobs are `lost`: said so, ended, and still readable."""
    daemon = Daemon(place, certs)

    try:
        alice = person(daemon)
        job = alice.shell("echo $$; exec sleep 1000", "--mem", "50")
        main = process(int(alice.until_printed(job, b"\n")))
        server = daemon.server

        os.kill(daemon.keeper.pid, signal.SIGKILL)
        daemon.process.wait(20)
        wait_until_gone({server})
    finally:
        daemon.discard()

    with Daemon(place, certs) as again:
        alice = person(again)
        status = alice.status(job)

        assert (status["state"], status["reason"]) == ("lost", "lost")
        assert status["exit_code"] is None
        assert alice.output(job) == f"{main.pid}\n"
        assert "there may have been more output" in alice("tail", "-f", job).stderr
        wait_until_gone({main})
        wait_for(lambda: not left_of([job]), what="removal of the groups")


def test_output_held_from_outside(start_daemon: StartDaemon) -> None:
    """That an end of the output may be missing is said, in words and in JSON."""
    alice = person(start_daemon(config="[jobs]\ndrain_timeout = 0.2\nlinger = 0.0\n"))
    job = alice.shell("echo $$; exec sleep 1000")
    main = int(alice.until_printed(job, b"\n"))

    with Path(f"/proc/{main}/fd/1").open("wb"):
        alice("kill", job)
        done = alice("tail", "-f", job)

    assert done.stdout == f"{main}\n".encode()
    assert "there may have been more" in done.stderr
    assert alice.status(job)["truncated"] is True


def test_readiness_is_notified(start_daemon: StartDaemon, place: Place) -> None:
    """READY=1 goes to NOTIFY_SOCKET, which jobs never see."""
    path = place.base / "notify"

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(20)
        daemon = start_daemon(environment={"NOTIFY_SOCKET": str(path)})
        said = manager.recv(4096).decode()

    assert "READY=1" in said.splitlines()
    alice = person(daemon)
    assert "NOTIFY_SOCKET" not in alice.output(alice.run("env"))


def test_interrupted_reader(daemon: Daemon, alice: Twctl) -> None:
    """Ctrl-C ends `tail -f` with 130, quietly, and leaves the job running."""
    job = alice.shell("echo up; exec sleep 1000")

    with alice.start("tail", "-f", job) as reader:
        reader.until(b"up\n")
        reader.interrupt()
        done = reader.finish()

    assert done.code == 130
    assert "Traceback" not in done.stderr
    assert "error" not in done.stderr
    assert alice.status(job)["state"] == "running"
    alice("kill", job)


def test_end_with_a_reader_connected(start_daemon: StartDaemon) -> None:
    """Readers who are connected do not hold up the daemon's end."""
    daemon = start_daemon()
    alice = person(daemon)
    job = alice.shell("echo up; exec sleep 1000")

    with alice.start("tail", "-f", "--no-reconnect", job) as reader:
        reader.until(b"up\n")
        begin = time.monotonic()
        daemon.stop()

        assert seconds_since(begin) < 15
        assert reader.finish().stdout == b"up\n"


def test_environment_is_read(
    start_daemon: StartDaemon, place: Place, certs: Certificates
) -> None:
    """TELEWORKERD_* stand for the flags."""
    port = free_port()

    daemon = start_daemon(
        arguments=[],
        environment={
            "TELEWORKERD_LISTEN": f"127.0.0.1:{port}",
            "TELEWORKERD_STATE_DIR": str(place.state),
            "TELEWORKERD_CERTS": str(certs.directory),
        },
    )

    assert daemon.address == f"127.0.0.1:{port}"


def test_misspelt_variable(start_daemon: StartDaemon) -> None:
    """A variable that means nothing is in the log, with what may have been meant."""
    daemon = start_daemon(environment={"TELEWORKERD_LOG_LEVLE": "debug"})

    assert "did you mean TELEWORKERD_LOG_LEVEL?" in daemon.log()


def test_environment_wins_over_the_file(
    start_daemon: StartDaemon, place: Place, certs: Certificates
) -> None:
    """The file is weaker than the environment."""
    port, other = free_port(), free_port()

    daemon = start_daemon(
        config=f'[daemon]\nlisten = "127.0.0.1:{other}"\n',
        arguments=directories(place, certs),
        environment={"TELEWORKERD_LISTEN": f"127.0.0.1:{port}"},
    )

    assert daemon.address == f"127.0.0.1:{port}"


def test_flag_wins_over_the_environment(
    start_daemon: StartDaemon, place: Place, certs: Certificates
) -> None:
    """A flag is the strongest."""
    port, other = free_port(), free_port()

    daemon = start_daemon(
        arguments=["--listen", f"127.0.0.1:{port}", *directories(place, certs)],
        environment={"TELEWORKERD_LISTEN": f"127.0.0.1:{other}"},
    )

    assert daemon.address == f"127.0.0.1:{port}"


def test_file_is_read(
    start_daemon: StartDaemon, place: Place, certs: Certificates
) -> None:
    """What neither flag nor environment says comes from the file."""
    port = free_port()

    daemon = start_daemon(
        config=f'[daemon]\nlisten = "127.0.0.1:{port}"\nstate_dir = "{place.state}"\n',
        arguments=["--certs", str(certs.directory)],
    )

    assert daemon.address == f"127.0.0.1:{port}"
