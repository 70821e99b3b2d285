"""What an operator does to a daemon that runs: reload, restart, look, end."""

import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest

from teleworkerd import __version__
from teleworkerd.daemon.facts import DaemonFacts, DaemonState
from tests.e2e.commandline import Twctl
from tests.e2e.daemon import Daemon, Place, StartDaemon, directories, try_to_start
from tests.e2e.pki import Certificates, generate, revoke
from tests.e2e.processes import Process, wait_until_gone
from tests.e2e.waiting import wait_for


pytestmark = pytest.mark.timeout(90)


def person(daemon: Daemon) -> Twctl:
    """Return alice's command line for a daemon of the test's own."""
    return Twctl(daemon, daemon.certs.of("alice"))


def facts_of(daemon: Daemon) -> DaemonFacts:
    """Return what the daemon says of itself."""
    facts = DaemonFacts.read(daemon.place.state)
    assert facts is not None
    return facts


def reconfigure(daemon: Daemon, text: str) -> None:
    """Write another configuration file."""
    (daemon.place.base / "teleworkerd.toml").write_text(text)


def reload(daemon: Daemon, *, times: int = 1) -> str | None:
    """Send SIGHUP; return why nothing was changed, once that is over."""
    asked = facts_of(daemon).reloads_asked

    for _ in range(times):
        os.kill(daemon.keeper.pid, signal.SIGHUP)

    wait_for(
        lambda: facts_of(daemon).reloads_asked == facts_of(daemon).reloads_done > asked,
        what="end of the reload",
    )
    return facts_of(daemon).reload_error


def user_of_a_job(alice: Twctl) -> str:
    """Run a job; return the account that it had."""
    return str(alice.ended(alice.run("true"))["user"])


def test_reload(start_daemon: StartDaemon) -> None:
    """SIGHUP makes both processes use what the file says now."""
    daemon = start_daemon(config="")
    alice = person(daemon)
    keeper, server = daemon.keeper, daemon.server
    assert user_of_a_job(alice) == "nobody"
    reconfigure(daemon, "[jobs]\nuser = 'daemon'\n[server]\nconnections = 1\n")

    assert reload(daemon) is None

    assert user_of_a_job(alice) == "daemon"
    job = alice.shell("echo up; exec sleep 1000")

    with alice.start("tail", "-f", job) as reader:
        reader.until(b"up\n")
        assert "has 1 connections" in alice("info").stderr

    alice("kill", job)
    assert (daemon.keeper, daemon.server) == (keeper, server)


def test_reload_changes_all_or_nothing(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    """Settings are not used either while the certificates beside them are wrong."""
    certs = generate(tmp_path / "certs", "alice")
    daemon = start_daemon(certs=certs, config="")
    alice = person(daemon)
    certificate = certs.directory / "server.pem"
    good = certificate.read_bytes()
    certificate.write_bytes(b"no certificate")
    reconfigure(daemon, "[jobs]\nuser = 'daemon'\n")

    error = reload(daemon)

    assert str(certificate) in (error or "")
    assert len(daemon.log_lines(f"stays as it was: .*{certificate}")) == 1
    assert user_of_a_job(alice) == "nobody"
    certificate.write_bytes(good)
    assert reload(daemon) is None
    assert user_of_a_job(alice) == "daemon"


def test_many_reloads(start_daemon: StartDaemon) -> None:
    """Of many reloads at once the last one counts."""
    daemon = start_daemon(config="")

    for number in range(20):
        user = "daemon" if number % 2 else "nobody"
        reconfigure(daemon, f"[jobs]\nuser = '{user}'\n")
        os.kill(daemon.keeper.pid, signal.SIGHUP)

    assert reload(daemon, times=50) is None
    assert user_of_a_job(person(daemon)) == "daemon"


def test_server_that_dies_during_a_reload(start_daemon: StartDaemon) -> None:
    """What no server has agreed to is not used by the next one either."""
    daemon = start_daemon(config="")
    alice = person(daemon)
    first = daemon.server
    os.kill(first.pid, signal.SIGSTOP)
    reconfigure(daemon, "[jobs]\nuser = 'daemon'\n")
    os.kill(daemon.keeper.pid, signal.SIGHUP)
    wait_for(lambda: daemon.log_lines("SIGHUP: "), what="start of the reload")
    os.kill(first.pid, signal.SIGKILL)

    wait_for(lambda: facts_of(daemon).reloads_done, what="end of the reload")

    assert "before it had answered" in (facts_of(daemon).reload_error or "")
    assert user_of_a_job(alice) == "nobody"


def test_reload_between_two_servers(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """What nobody can be asked about is for the next server, which may come by it."""
    certs = generate(tmp_path / "certs", "alice")
    daemon = start_daemon(certs=certs, config="")
    good = tmp_path / "good"
    certs.directory.rename(good)
    os.kill(daemon.server.pid, signal.SIGKILL)
    wait_for(lambda: daemon.log_lines("with status 1; starting"), what="a failure")
    reconfigure(
        daemon,
        "[daemon]\nlisten = '127.0.0.1:1'\n[jobs]\nuser = 'daemon'\n",
    )
    good.rename(certs.directory)

    assert reload(daemon) is None
    assert user_of_a_job(person(daemon)) == "daemon"


def test_command_reload_without_a_server(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    """While no server comes up, a reload is no success, and `--check` an error."""
    certs = generate(tmp_path / "certs", "alice")
    daemon = start_daemon(certs=certs, config="")
    place = directories(daemon.place, certs)
    good = tmp_path / "good"
    certs.directory.joinpath("server.pem").rename(good)
    os.kill(daemon.server.pid, signal.SIGKILL)
    wait_for(lambda: daemon.log_lines("with status 1; starting"), what="a failure")
    done = try_to_start("reload", *place[:2])
    check = try_to_start("--check", *place)

    assert (done.returncode, done.stdout) == (1, "")
    assert "for its next server, but none serves: the server ended with" in done.stderr
    assert check.returncode == 1
    (line,) = re.findall("ERROR daemon: .*", check.stdout)
    assert line.count("the server ended with status 1") == 1

    good.rename(certs.directory / "server.pem")
    done = try_to_start("reload", *place[:2])

    assert (done.returncode, done.stderr) == (0, "")
    assert f"keeper {daemon.keeper.pid} uses" in done.stdout


def test_command_reload_of_a_keeper_that_stays(start_daemon: StartDaemon) -> None:
    """Where no server is meant to be, a reload holds from the next one on."""
    daemon = start_daemon(config="[jobs]\nat_shutdown = 'leave'\n")
    alice = person(daemon)
    gate = daemon.gate()
    alice.until_printed(alice.shell(f"echo up; {gate.wait}"), b"up\n")
    place = directories(daemon.place, daemon.certs)
    daemon.process.send_signal(signal.SIGTERM)
    wait_for(lambda: "staying without" in facts_of(daemon).status, what="staying")
    done = try_to_start("reload", *place[:2])
    check = try_to_start("--check", *place)

    assert (done.returncode, done.stderr) == (0, "")
    assert "uses the configuration from its next server on, and is staying" in (
        done.stdout
    )
    assert check.returncode == 0
    assert "staying without a server until one job is over" in check.stdout

    gate.open()
    assert daemon.process.wait(20) == 0


def test_first_and_last_line(start_daemon: StartDaemon) -> None:
    """The log begins with what was started, and with what; a clean end is its last."""
    daemon = start_daemon(config="")
    keeper = daemon.keeper.pid
    daemon.stop()
    first, *_, last = daemon.log_lines("")
    file = daemon.place.base / "teleworkerd.toml"

    assert first.endswith(
        f"teleworkerd {__version__}, pid {keeper}; configuration file: {file};"
        f" state directory: {daemon.place.state}"
    )
    assert last.endswith(" ended")


def test_what_needs_a_restart(
    start_daemon: StartDaemon, place: Place, certs: Certificates
) -> None:
    """An address that is new in the file is told to need a restart."""
    daemon = start_daemon(
        config="[daemon]\nlisten = '127.0.0.1:0'\n",
        arguments=directories(place, certs),
    )
    reconfigure(daemon, "[daemon]\nlisten = '127.0.0.1:1'\n")

    assert reload(daemon) is None
    assert len(daemon.log_lines("listen stays .*127.0.0.1:1 needs a restart")) == 1

    file = daemon.place.base / "teleworkerd.toml"
    done = try_to_start(
        *("reload", "--config", str(file), "--state-dir", str(place.state))
    )

    assert "; listen stays 127.0.0.1:0: 127.0.0.1:1 needs a restart\n" in done.stdout


def test_server_that_hangs(start_daemon: StartDaemon) -> None:
    """A server that does nothing is replaced; its jobs and readers go on."""
    daemon = start_daemon(config="[server]\nwatchdog = 1\n")
    alice = person(daemon)
    gate = daemon.gate()
    job = alice.shell(f"echo up; {gate.wait}; echo down")

    with alice.start("tail", "-f", job) as reader:
        reader.until(b"up\n")
        first = daemon.server
        os.kill(first.pid, signal.SIGSTOP)
        daemon.successor_of(first)
        gate.open()
        done = reader.finish()

    assert done.stdout == b"up\ndown\n"
    assert len(daemon.log_lines("answered nothing for 1 s")) == 1
    assert facts_of(daemon).last_exit_status == -signal.SIGKILL


def test_watchdog_of_now(start_daemon: StartDaemon) -> None:
    """How long a server may hang is what the configuration says now."""
    daemon = start_daemon(config="")
    reconfigure(daemon, "[server]\nwatchdog = 1\n")
    assert reload(daemon) is None
    first = daemon.server
    os.kill(first.pid, signal.SIGSTOP)

    daemon.successor_of(first)


def test_keeper_that_was_stopped(start_daemon: StartDaemon) -> None:
    """A keeper that did nothing itself does not blame the server."""
    daemon = start_daemon(config="[server]\nwatchdog = 1\n")
    server = daemon.server
    os.kill(daemon.keeper.pid, signal.SIGSTOP)
    os.kill(server.pid, signal.SIGSTOP)
    time.sleep(1.5)  # this is what is tested
    os.kill(daemon.keeper.pid, signal.SIGCONT)
    assert reload_is_begun(daemon)
    os.kill(server.pid, signal.SIGCONT)

    assert person(daemon)("info").code == 0
    assert daemon.server == server
    assert not daemon.log_lines("answered nothing")


def reload_is_begun(daemon: Daemon) -> bool:
    """Have the keeper turn its loop; return true once it has."""
    os.kill(daemon.keeper.pid, signal.SIGHUP)
    return bool(wait_for(lambda: facts_of(daemon).reloads_asked, what="a turn"))


def test_end_with_followers(start_daemon: StartDaemon) -> None:
    """At the end readers learn how their jobs ended, and nobody can connect."""
    daemon = start_daemon()
    alice = person(daemon)
    host, port = daemon.address.split(":")
    job = alice.shell(
        "trap 'echo bye; sleep 0.5; exit 9' TERM; echo up; sleep 1000 & wait"
    )

    with alice.start("tail", "-f", "--no-reconnect", "--exit-code", job) as reader:
        reader.until(b"up\n")
        daemon.process.send_signal(signal.SIGTERM)
        reader.until(b"bye\n")

        assert not daemon.address_file.exists()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port))).close()

        done = reader.finish()

    assert daemon.process.wait(20) == 0
    assert (done.code, done.stdout, done.stderr) == (9, b"up\nbye\n", "")


def test_end_without_a_server(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """Where no server is there to end them, jobs have their grace as well."""
    certs = generate(tmp_path / "certs", "alice")
    daemon = start_daemon(certs=certs)
    alice = person(daemon)
    job = alice.shell(
        "trap 'sleep 0.5; echo bye; exit 7' TERM; echo up; sleep 1000 & wait"
    )
    alice.until_printed(job, b"up\n")
    certs.directory.joinpath("server.pem").rename(tmp_path / "good")
    os.kill(daemon.server.pid, signal.SIGKILL)
    wait_for(lambda: daemon.log_lines("with status 1; starting"), what="a failure")
    daemon.process.send_signal(signal.SIGTERM)

    assert daemon.process.wait(20) == 0
    (tmp_path / "good").rename(certs.directory / "server.pem")
    alice = person(start_daemon(certs=certs))
    status = alice.status(job)
    assert (status["exit_code"], status["reason"]) == (7, "shutdown")
    assert alice.output(job) == "up\nbye\n"


def test_restart_of_the_server(start_daemon: StartDaemon) -> None:
    """SIGUSR2 replaces the server alone; readers go on by themselves."""
    daemon = start_daemon()
    alice = person(daemon)
    gate = daemon.gate()
    job = alice.shell(f"echo up; {gate.wait}; echo down; exit 3")

    with alice.start("tail", "-f", "--exit-code", job) as reader:
        reader.until(b"up\n")
        first = daemon.server
        os.kill(daemon.keeper.pid, signal.SIGUSR2)
        daemon.successor_of(first)
        gate.open()
        done = reader.finish()

    assert (done.code, done.stdout) == (3, b"up\ndown\n")
    assert not daemon.log_lines(" ERROR ")
    assert facts_of(daemon).last_exit_status == 0
    assert facts_of(daemon).restarts == 1


def test_command_reload(start_daemon: StartDaemon) -> None:
    """`teleworkerd reload` does it, waits until it is done, and says how it went."""
    daemon = start_daemon(config="")
    place = ("--state-dir", str(daemon.place.state))
    file = ("--config", str(daemon.place.base / "teleworkerd.toml"))
    reconfigure(daemon, "[jobs]\nuser = 'daemon'\n")
    done = try_to_start("reload", *file, *place)

    assert (done.returncode, done.stderr) == (0, "")
    assert f"keeper {daemon.keeper.pid} uses" in done.stdout
    assert user_of_a_job(person(daemon)) == "daemon"

    first = daemon.server
    done = try_to_start("reload", "--restart-server", *file, *place)

    assert (done.returncode, done.stderr) == (0, "")
    assert f"server {daemon.server.pid} has followed {first.pid}" in done.stdout
    wait_until_gone({first})

    reconfigure(daemon, "[jobs")
    done = try_to_start("reload", *place)

    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch("teleworkerd: error: .* is not TOML.*\n", done.stderr)


def test_command_reload_without_a_daemon(place: Place) -> None:
    """Where none runs, it says so."""
    done = try_to_start("reload", "--state-dir", str(place.state))

    assert (done.returncode, done.stdout) == (1, "")
    assert f"no teleworkerd runs on state directory {place.state}" in done.stderr


def test_facts(start_daemon: StartDaemon, place: Place, certs: Certificates) -> None:
    """The file `daemon` and `--check` tell who runs since when; none is left."""
    daemon = start_daemon()
    first = daemon.server
    os.kill(first.pid, signal.SIGKILL)
    second = daemon.successor_of(first)
    wait_for(lambda: facts_of(daemon).state is DaemonState.SERVING, what="service")
    facts = facts_of(daemon)
    check = try_to_start("--check", *directories(place, certs))

    assert (facts.keeper_pid, facts.server_pid) == (daemon.keeper.pid, second.pid)
    assert (facts.restarts, facts.last_exit_status) == (1, -9)
    assert daemon.address in facts.status
    assert check.returncode == 0
    (line,) = re.findall("ok    daemon: .*", check.stdout)
    assert f"keeper {daemon.keeper.pid} runs since {facts.keeper_started_at}" in line
    assert f"server {second.pid} since {facts.server_started_at}" in line
    assert "restarted once; last, the server was killed by SIGKILL; " in line

    (place.state / "daemon").unlink()
    check = try_to_start("--check", *directories(place, certs))
    assert f"ok    daemon: keeper {daemon.keeper.pid} runs; " in check.stdout

    daemon.stop()

    assert {path.name for path in place.state.iterdir()}.isdisjoint(
        {"daemon", "keeper.pid", "server.pid", "address"}
    )


def test_facts_of_a_killed_daemon(place: Place, certs: Certificates) -> None:
    """What a daemon that was killed has left is not believed."""
    daemon = Daemon(place, certs)
    server = daemon.server

    try:
        os.kill(daemon.keeper.pid, signal.SIGKILL)
        daemon.process.wait(20)
        wait_until_gone({server})
        assert facts_of(daemon).keeper_pid == daemon.process.pid
        check = try_to_start("--check", *directories(place, certs))
        reload = try_to_start("reload", *directories(place, certs)[:2])
    finally:
        daemon.discard()

    assert check.returncode == 0
    assert "daemon:" not in check.stdout
    assert reload.returncode == 1
    assert "no teleworkerd runs" in reload.stderr


@pytest.mark.parametrize("who", ["keeper", "server"])
def test_stacks(start_daemon: StartDaemon, who: str) -> None:
    """SIGQUIT shows what all threads do, and changes nothing; SIGPIPE does nothing."""
    daemon = start_daemon()
    process: Process = getattr(daemon, who)
    os.kill(process.pid, signal.SIGPIPE)
    os.kill(process.pid, signal.SIGQUIT)

    wait_for(lambda: daemon.log_lines("most recent call first"), what="stacks")

    assert person(daemon)("info").code == 0
    assert process.is_alive


def test_certificates_mended(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """Without certificates no server starts, with them one does; jobs go on."""
    certs = generate(tmp_path / "certs", "alice")
    daemon = start_daemon(certs=certs)
    alice = person(daemon)
    gate = daemon.gate()
    job = alice.shell(f"echo up; {gate.wait}; echo down; exit 4")
    alice.until_printed(job, b"up\n")
    certs.directory.joinpath("server.pem").rename(tmp_path / "good")
    os.kill(daemon.server.pid, signal.SIGKILL)
    wait_for(lambda: len(daemon.log_lines("starting another")) >= 3, what="attempts")
    facts = facts_of(daemon)

    assert facts.state is DaemonState.RESTARTING
    assert "ended with status 1; starting another" in facts.status
    assert facts.last_exit_status == 1

    gate.open()
    (tmp_path / "good").rename(certs.directory / "server.pem")

    assert alice("wait", job).code == 4
    assert alice.output(job) == "up\ndown\n"


def test_refused_user_beside_a_broken_configuration(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    """A revocation counts once all that is configured can be used."""
    certs = generate(tmp_path / "certs", "alice", "bob")
    daemon = start_daemon(certs=certs, config="[jobs]\nlinger = 0.1\n")
    bob = Twctl(daemon, certs.of("bob"))
    revoke(certs, "bob")
    reconfigure(daemon, "[jobs\n")

    assert "is not TOML" in (reload(daemon) or "")
    assert bob("info").code == 0

    reconfigure(daemon, "")

    assert reload(daemon) is None
    assert bob("info").code == 125
