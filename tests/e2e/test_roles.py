"""Who may do what, with real certificates, and what the audit log has of it."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e.commandline import Twctl
from tests.e2e.daemon import Daemon, Place
from tests.e2e.pki import Certificates, generate
from tests.e2e.waiting import wait_for


CONFIG: Final = """
[access]
admin = ["root-*"]
operator = ["oncall"]
viewer = ["dash"]
deny = ["mallory"]

[jobs.users]
alice = ["daemon", "nobody"]
"""
NAMES: Final = ("alice", "bob", "root-1", "oncall", "dash", "mallory")


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates of everybody here."""
    return generate(tmp_path_factory.mktemp("roles") / "certs", *NAMES)


@pytest.fixture(scope="module")
def roles(pki: Certificates) -> Iterator[Daemon]:
    """A daemon that knows their roles."""
    place = Place()

    try:
        with Daemon(place, pki, config=CONFIG) as running:
            yield running
    finally:
        place.remove()


@pytest.fixture
def people(roles: Daemon, pki: Certificates) -> dict[str, Twctl]:
    """The command line of each."""
    return {name: Twctl(roles, pki.of(name)) for name in NAMES}


@pytest.fixture
def job(people: dict[str, Twctl]) -> str:
    """A running job of bob's."""
    return people["bob"].shell("echo secret; exec sleep 1000")


def records(daemon: Daemon, **facts: object) -> list[dict[str, Any]]:
    """Return the audit log's records with these facts."""
    text = (daemon.place.state / "audit.jsonl").read_text()
    found = [json.loads(line) for line in text.splitlines()]
    return [each for each in found if facts.items() <= each.items()]


@pytest.mark.parametrize("name", ["root-1", "oncall", "dash"])
def test_see(people: dict[str, Twctl], job: str, name: str) -> None:
    """Who may see others' jobs has their status, their output, and lists of them."""
    assert people[name].status(job)["owner"] == "bob"
    people["bob"]("tail", "-n", "1", job)
    wait_for(lambda: people[name]("tail", job).stdout == b"secret\n", what="output")
    listed = people[name]("list", "-o", "json", "--all-owners")

    assert job in {one["id"] for one in listed.json}
    assert people[name]("list", "-o", "json").json == []


@pytest.mark.parametrize(
    ("name", "verb", "may"),
    [
        ("root-1", "kill", True),
        ("root-1", "stop", True),
        ("oncall", "kill", True),
        ("oncall", "stop", True),
        ("dash", "kill", False),
        ("dash", "stop", False),
        ("dash", "rm", False),
    ],
)
def test_end(
    people: dict[str, Twctl], job: str, name: str, verb: str, *, may: bool
) -> None:
    """Who may end others' jobs can, and all others are told why not."""
    done = people[name](verb, job)

    if may:
        assert done.code == 0, done.stderr
        assert people["bob"].ended(job)["state"] == "stopped"
    else:
        assert done.code == 1
        assert f"belongs to bob; as viewer {name} may not" in done.stderr
        assert people["bob"].status(job)["state"] == "running"


def test_remove(people: dict[str, Twctl], job: str) -> None:
    """An ended job of another's is for an admin to remove, not for an operator."""
    people["bob"]("kill", job)
    people["bob"].ended(job)

    assert "as operator oncall may not remove it" in people["oncall"]("rm", job).error
    assert people["root-1"]("rm", job).code == 0
    assert people["bob"]("status", job).code == 1


def test_viewer_starts_nothing(people: dict[str, Twctl]) -> None:
    """A viewer may start nothing."""
    assert (
        "has the role viewer, and may not start" in people["dash"]("run", "true").error
    )


def test_denied(people: dict[str, Twctl], roles: Daemon) -> None:
    """Who is denied is told so, and so are the log and the audit log."""
    refused = people["mallory"]("list")

    assert refused.code == 125
    assert "mallory is not admitted here" in refused.error
    assert roles.log_lines("refused .*mallory is not admitted")
    # The keeper hears of it just after the client.
    wait_for(lambda: records(roles, event="refuse"), what="record")


def test_not_yours(people: dict[str, Twctl], roles: Daemon, job: str) -> None:
    """Another's job is not found, and the attempt is in the audit log."""
    assert people["alice"]("status", job).code == 1

    def look() -> list[dict[str, Any]]:
        return records(roles, event="access", result="job_not_found", job=job)

    (record,) = wait_for(look, what="record")
    assert record["by"]["name"] == "alice"
    assert record["by"]["peer"].startswith("127.0.0.1:")
    assert record["owner"] == "bob"


def test_account(people: dict[str, Twctl]) -> None:
    """A job runs as the first account that was granted, or as the one asked for."""
    alice = people["alice"]
    default = alice("run", "-f", "id", "-un")
    chosen = alice("run", "-f", "-u", "nobody", "id", "-un")
    refused = alice("run", "-u", "root", "true")

    assert (default.stdout, chosen.stdout) == (b"daemon\n", b"nobody\n")
    assert refused.code == 126
    assert "account root is not granted to alice" in refused.error
    assert "granted: daemon, nobody" in refused.error
    assert (
        "not granted to bob; granted: nobody"
        in people["bob"]("run", "-u", "daemon", "true").error
    )


def test_info(people: dict[str, Twctl]) -> None:
    """Everybody can ask for their own role and accounts."""
    found = people["alice"]("info", "-o", "json").json
    assert (found["role"], found["accounts"]) == ("user", ["daemon", "nobody"])
    assert people["root-1"]("info", "-o", "json").json["role"] == "admin"


def test_audit(people: dict[str, Twctl], roles: Daemon, job: str) -> None:
    """A job of one that another ended: who, when, as whom, how it ended."""
    people["root-1"]("kill", job)
    people["bob"].ended(job)

    start, access, *actions = records(roles, job=job)

    assert (start["event"], start["by"]["name"], start["user"]) == (
        "start",
        "bob",
        "nobody",
    )
    assert (access["event"], access["by"]["name"], access["message"]) == (
        "access",
        "root-1",
        "kill",
    )
    assert [each["event"] for each in actions] == ["signal", "end"]
    assert actions[0]["by"]["name"] == "root-1"
    assert actions[1]["reason"] == "killed"


def test_denied_while_connected(pki: Certificates) -> None:
    """Who is denied by a reload is sent away at once; the jobs go on."""
    place = Place()

    try:
        with Daemon(place, pki, config=CONFIG) as daemon:
            bob = Twctl(daemon, pki.of("bob"))
            job = bob.shell("echo one; exec sleep 1000")

            with bob.start("tail", "-f", job) as reader:
                reader.until(b"one\n")
                config = Path(place.base / "teleworkerd.toml")
                config.write_text(CONFIG.replace('["mallory"]', '["bob"]'))
                daemon.process.send_signal(signal.SIGHUP)
                done = reader.finish()

            assert done.code == 125
            assert "bob is not admitted here any more" in done.stderr
            root = Twctl(daemon, pki.of("root-1"))
            assert root.status(job)["state"] == "running"
            assert records(daemon, event="reload", result="ok")
    finally:
        place.remove()
