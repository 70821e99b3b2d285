"""`twctl events` and `list --watch`: what becomes of jobs, as lines."""

import json
import re

from tests.e2e.commandline import Twctl
from tests.e2e.daemon import StartDaemon
from tests.e2e.pki import Certificates
from tests.e2e.waiting import wait_for


LINE = re.compile(
    r"(\d+)  (20\d\d-[-0-9T:.]+Z)  ([-0-9a-f]{36})  (\S+(?: \([^)]*\))?)(?:  (\S+))?"
)


def test_lines(alice: Twctl) -> None:
    """Each state of a job is a line, with its number, and so is its removal."""
    job = alice.shell("exit 3", "--name", "build")
    alice.ended(job)
    alice("rm", job)

    done = alice("events")

    lines = [LINE.fullmatch(line) for line in done.stdout.decode().splitlines()]
    own = [match for match in lines if match and match[3] == job]
    assert all(lines)
    assert [match[4] for match in own] == [
        "starting",
        "running",
        "finished (exited, exit code 3)",
        "removed",
    ]
    assert {match[5] for match in own} == {"build"}


def test_json(alice: Twctl) -> None:
    """With -o json each is an object, and --since-seq goes on after a number."""
    job = alice.shell("exit 3")
    alice.ended(job)
    done = alice("events", "-o", "json")
    news = [json.loads(line) for line in done.stdout.splitlines()]
    own = [each for each in news if each["job"] == job]
    later = alice("events", "-o", "json", "--since-seq", str(own[0]["seq"]))

    assert [json.loads(line) for line in later.stdout.splitlines()][:2] == own[1:]
    assert own[2] == own[2] | {
        "schema": 1,
        "owner": "alice",
        "name": None,
        "state": "finished",
        "reason": "exited",
        "exit_code": 3,
        "removed": False,
    }


def test_follow(alice: Twctl) -> None:
    """With -f it goes on, live, until Ctrl-C, which is 130."""
    before = alice.shell("true")
    alice.ended(before)

    with alice.start("events", "-f", "--since-seq", "now") as events:
        # It listens from some time on: until then the jobs are others.
        jobs = [alice.shell("true")]

        def is_told() -> bool:
            jobs.append(alice.shell("true"))
            alice.ended(jobs[-1])
            return bool(events.seen())

        wait_for(is_told, what="an event")
        job = alice.shell("true")
        lines = events.until(f"{job}  finished".encode())
        events.interrupt()
        done = events.finish()

    assert done.code == 130
    assert before.encode() not in lines


def test_restart(start_daemon: StartDaemon, certs: Certificates) -> None:
    """Over a restart of the whole daemon the numbers go on."""
    daemon = start_daemon()
    alice = Twctl(daemon, certs.of("alice"))
    alice.ended(alice.shell("true"))
    before = alice("events").stdout
    daemon.stop()
    alice = Twctl(start_daemon(), certs.of("alice"))
    alice.ended(alice.shell("true"))

    after = alice("events").stdout

    numbers = [int(line.split()[0]) for line in after.splitlines()]
    assert after.startswith(before)
    assert numbers == list(range(1, len(numbers) + 1))


def test_server_gone_for_good(start_daemon: StartDaemon, certs: Certificates) -> None:
    """Who cannot hear more is told how to go on after what was told."""
    daemon = start_daemon()
    alice = Twctl(daemon, certs.of("alice"))
    alice.ended(alice.shell("true"))

    with alice.start("events", "-f", "--no-reconnect") as events:
        seen = events.until(b"finished").splitlines()
        daemon.stop()
        done = events.finish()

    assert done.code == 125
    number = int(seen[-1].split()[0])
    assert done.stderr.startswith("twctl: error: ")
    assert done.stderr.endswith(f"go on with 'twctl events -f --since-seq {number}'\n")


def test_of_others(alice: Twctl, bob: Twctl) -> None:
    """Who may not see others' jobs hears nothing of them."""
    job = alice.shell("true")
    alice.ended(job)

    assert job not in bob("events").stdout.decode()
    assert "may see no jobs of others" in bob("events", "--all-owners").error


def test_number_yet_to_come(alice: Twctl) -> None:
    """A number that nobody has told says so, and what there is."""
    done = alice("events", "--since-seq", "999999")

    assert done.code == 1
    assert "event 999999 has not come to pass: the newest is" in done.error


def test_watched_list(alice: Twctl) -> None:
    """A list that is watched is printed again when something has changed."""
    with alice.start("list", "--watch", "-a", "-o", "json") as watched:
        watched.until(b"]\n")
        job = alice.shell("true")
        alice.ended(job)
        watched.until(b'"state": "finished"')
        seen = watched.until(f'"id": "{job}"'.encode())
        watched.interrupt()
        done = watched.finish()

    assert done.code == 130
    assert all(isinstance(json.loads(line), list) for line in seen.splitlines()[:-1])
