"""A certificate's CN owns its jobs; for everybody else they do not exist."""

import uuid

import pytest

from tests.e2e.commandline import Twctl
from tests.e2e.daemon import Daemon, StartDaemon
from tests.e2e.pki import Certificates


VERBS = (
    ("status",),
    ("status", "-o", "json"),
    ("tail",),
    ("tail", "-f"),
    ("tail", "-f", "--err"),
    ("kill",),
    ("kill", "-s", "USR1"),
    ("stop",),
    ("wait",),
)


@pytest.fixture(scope="module")
def job_of_alice(daemon: Daemon, certs: Certificates) -> str:
    """A running job of alice with a name, that the daemon's end will end."""
    alice = Twctl(daemon, certs.of("alice"))
    return alice.shell("echo secret; exec sleep 1000", "--name", "hers")


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_not_found(
    job_of_alice: str, alice: Twctl, bob: Twctl, verb: tuple[str, ...]
) -> None:
    """Another's job answers to every verb as one that does not exist."""
    unknown = str(uuid.uuid4())

    theirs = bob(*verb, job_of_alice)
    nobodys = bob(*verb, unknown)

    assert theirs.code == 1
    assert theirs.error.replace(job_of_alice, "JOB") == nobodys.error.replace(
        unknown, "JOB"
    )
    assert alice.status(job_of_alice)["state"] == "running"


def test_not_found_by_prefix_or_name(job_of_alice: str, bob: Twctl) -> None:
    """Neither a prefix nor a name leads to another's job."""
    prefix = job_of_alice[:13]

    assert prefix in bob("status", prefix).error
    assert "hers" in bob("status", "hers").error


def test_not_listed(job_of_alice: str, alice: Twctl, bob: Twctl) -> None:
    """A list holds the caller's jobs only."""
    own = bob.run("true")

    of_bob = bob("list", "-a", "-q").stdout.decode().split()
    of_alice = alice("list", "-a", "-q").stdout.decode().split()
    assert own in of_bob
    assert job_of_alice in of_alice
    assert not set(of_alice) & set(of_bob)


def test_same_name_for_two_people(job_of_alice: str, alice: Twctl, bob: Twctl) -> None:
    """Names belong to their owner: two people can use the same one."""
    own = bob.run("--name", "hers", "true")

    assert bob.status("hers")["id"] == own
    assert alice.status("hers")["id"] == job_of_alice


def test_owner_in_the_status(job_of_alice: str, alice: Twctl) -> None:
    """The status names the owner and the account under which the job runs."""
    status = alice.status(job_of_alice)

    assert (status["owner"], status["user"]) == ("alice", "nobody")


def test_default_account(alice: Twctl, bob: Twctl) -> None:
    """Jobs run as nobody, without root's groups and without a way to become root."""
    job = bob.shell("id -un; id -Gn; grep NoNewPrivs /proc/self/status")

    assert bob.output(job).split() == ["nobody", "nogroup", "NoNewPrivs:", "1"]


def test_account_by_owner(start_daemon: StartDaemon, certs: Certificates) -> None:
    """`[jobs] user` is everybody's account but those in `[jobs.users]`."""
    daemon = start_daemon(
        config='[jobs]\nuser = "root"\n[jobs.users]\nbob = "daemon"\n'
    )
    alice, bob = (Twctl(daemon, certs.of(name)) for name in ("alice", "bob"))

    of_alice = alice.run("id", "-un")
    of_bob = bob.run("id", "-un")

    assert alice.output(of_alice) == "root\n"
    assert bob.output(of_bob) == "daemon\n"
    assert bob.status(of_bob)["user"] == "daemon"
