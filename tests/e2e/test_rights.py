"""What becomes of rights and bounds while they are used."""

import signal
from typing import Final

from tests.e2e.commandline import Twctl
from tests.e2e.daemon import Place, StartDaemon
from tests.e2e.pki import Certificates


VIEWER: Final = '[access]\nviewer = ["bob"]\n'


def test_less_rights(
    place: Place, certs: Certificates, start_daemon: StartDaemon
) -> None:
    """Who may see others' jobs no more, reads no further; their owner does."""
    daemon = start_daemon(config=VIEWER)
    alice, bob = (Twctl(daemon, certs.of(name)) for name in ("alice", "bob"))
    job = alice.shell("echo one; exec sleep 1000")

    with (
        alice.start("tail", "-f", job) as owner,
        bob.start("tail", "-f", job) as viewer,
    ):
        owner.until(b"one\n")
        viewer.until(b"one\n")
        (place.base / "teleworkerd.toml").write_text("")
        daemon.process.send_signal(signal.SIGHUP)
        done = viewer.finish()

        assert done.code == 1
        assert f"there is no job '{job}'" in done.stderr
        assert owner.process.poll() is None
        owner.interrupt()
        owner.finish()


def test_more_rights(
    place: Place, certs: Certificates, start_daemon: StartDaemon
) -> None:
    """Who may more than before goes on."""
    daemon = start_daemon(config=VIEWER)
    alice, bob = (Twctl(daemon, certs.of(name)) for name in ("alice", "bob"))
    gate = daemon.gate()
    job = alice.shell(f"echo one; {gate.wait}; echo two")

    with bob.start("tail", "-f", job) as viewer:
        viewer.until(b"one\n")
        config = VIEWER.replace("viewer", "operator")
        (place.base / "teleworkerd.toml").write_text(config)
        daemon.process.send_signal(signal.SIGHUP)
        bob("kill", "-s", "CONT", job)
        gate.open()
        done = viewer.finish()

    assert (done.code, done.stdout) == (0, b"one\ntwo\n")


def test_started_but_not_followed(
    certs: Certificates, start_daemon: StartDaemon
) -> None:
    """A job that was started, and cannot be followed, is named: it goes on."""
    daemon = start_daemon(config="[clients]\nfollowers = 1\n")
    alice = Twctl(daemon, certs.of("alice"))
    # Both outputs are asked for while it runs.
    done = alice("run", "-f", "sleep", "2")
    (job,) = alice("list", "-a", "-o", "json").json

    assert done.code == 125
    assert f"job {job['id']} was started and goes on" in done.stderr
    assert f"'twctl wait {job['id']}'" in done.stderr
    assert alice("wait", job["id"]).code == 0
