"""What Prometheus reads from a real daemon."""

import os
import signal
import socket
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.commandline import Twctl, wait_for_state
from tests.e2e.daemon import Daemon, StartDaemon, free_port
from tests.e2e.waiting import wait_for


pytestmark = pytest.mark.timeout(90)

Samples = dict[tuple[str, ...], float]
"""Values by the name of the sample and the values of its labels."""


def metrics_on(port: int) -> str:
    """Return a configuration with metrics on a port of loopback."""
    return f'[metrics]\nlisten = "127.0.0.1:{port}"\n'


def scrape(port: int) -> Samples:
    """Return what is told on *port*."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        text = page.read().decode()

    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def with_a_reader(port: int) -> Samples | None:
    """Return what is told once somebody reads; a busy server may not answer."""
    try:
        found = scrape(port)
    except ConnectionError:
        return None

    return found if found["teleworker_readers",] == 1 else None


def person(daemon: Daemon) -> Twctl:
    """Return alice's command line for a daemon of the test's own."""
    return Twctl(daemon, daemon.certs.of("alice"))


def test_jobs_are_told_of(start_daemon: StartDaemon) -> None:
    """After a few jobs the numbers are exactly those."""
    port = free_port()
    daemon = start_daemon(config=metrics_on(port))
    alice = person(daemon)
    gate = daemon.gate()
    done = alice.shell("echo hello; echo oops >&2; exit 3")
    assert alice.output(done) == "hello\n"
    alice.ended(done)
    waiting = alice.shell(f"{gate.wait}")
    assert alice("run", "/no/such/command").code != 0

    with alice.start("tail", "-f", waiting):
        found = wait_for(lambda: with_a_reader(port), what="reader")

    expected: Samples = {
        ("teleworker_jobs", "running"): 1,
        ("teleworker_jobs", "finished"): 1,
        ("teleworker_jobs", "failed"): 1,
        ("teleworker_jobs_held_up",): 0,
        ("teleworker_launches_total", "started"): 2,
        ("teleworker_launches_total", "launch_failed"): 1,
        ("teleworker_launch_seconds_count",): 2,
        ("teleworker_job_ends_total", "exited"): 1,
        ("teleworker_job_ends_total", "launch"): 1,
        ("teleworker_output_bytes_total",): 11,
        ("teleworker_output_sent_bytes_total",): 6,
        ("teleworker_output_dropped_bytes_total",): 0,
        ("teleworker_connections",): 1,
        ("teleworker_requests_total", "ok", "run"): 2,
        ("teleworker_requests_total", "launch_failed", "run"): 1,
        ("teleworker_server_restarts_total",): 0,
    }
    assert found.items() >= expected.items()
    assert found["process_open_fds",] > found["teleworker_connections",]
    assert found["teleworker_keeper_process_open_fds",] > 0
    assert (
        found["teleworker_keeper_start_time_seconds",]
        < found["teleworker_server_start_time_seconds",]
    )
    gate.open()
    alice.ended(waiting)


def test_refused_client_is_told_of(start_daemon: StartDaemon) -> None:
    """Who speaks no TLS is counted."""
    port = free_port()
    daemon = start_daemon(config=metrics_on(port))
    host, _, tls_port = daemon.address.rpartition(":")

    with socket.create_connection((host, int(tls_port)), timeout=10) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
        raw.recv(4096)

    refused = ("teleworker_refused_connections_total", "tls")
    wait_for(lambda: scrape(port)[refused] == 1, what="refusal")


def test_server_that_died(start_daemon: StartDaemon) -> None:
    """The next server tells on the same port, of its own time only."""
    port = free_port()
    daemon = start_daemon(config=metrics_on(port))
    alice = person(daemon)
    gate = daemon.gate()
    job = alice.shell(f"echo before; {gate.wait}; echo after")
    alice.until_printed(job, b"before\n")
    old = daemon.server
    os.kill(old.pid, signal.SIGKILL)
    daemon.successor_of(old)
    wait_for_state(alice, job, "running")
    first = scrape(port)
    gate.open()
    alice.ended(job)

    assert first["teleworker_server_restarts_total",] == 1
    assert first["teleworker_output_bytes_total",] == 0
    assert scrape(port)["teleworker_output_bytes_total",] == len("after\n")


def test_port_in_use(start_daemon: StartDaemon) -> None:
    """A port that somebody has costs the metrics alone, and the log says so."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        daemon = start_daemon(config=metrics_on(port))
        done = person(daemon)("run", "-f", "echo", "works")

    [line] = daemon.log_lines("no metrics")
    assert done.stdout == b"works\n"
    assert " ERROR " in line
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in line


def test_end(start_daemon: StartDaemon) -> None:
    """Nobody answers once the daemon has ended."""
    port = free_port()
    daemon = start_daemon(config=metrics_on(port))
    scrape(port)
    daemon.stop()

    with pytest.raises(urllib.error.URLError):
        scrape(port)


def test_another_port(start_daemon: StartDaemon) -> None:
    """A port that is changed is that of the next server, and the log says so."""
    first, second = free_port(), free_port()
    daemon = start_daemon(config=metrics_on(first))
    (daemon.place.base / "teleworkerd.toml").write_text(metrics_on(second))
    old = daemon.server
    os.kill(daemon.process.pid, signal.SIGHUP)
    wait_for(lambda: daemon.log_lines("used by the next server"), what="warning")
    scrape(first)
    os.kill(daemon.process.pid, signal.SIGUSR2)
    daemon.successor_of(old)
    wait_for(lambda: daemon.log_lines(f"metrics are at .*:{second}/"), what="port")

    assert scrape(second)["teleworker_server_restarts_total",] == 1

    with pytest.raises(urllib.error.URLError):
        scrape(first)
