"""Several jobs in one call: their lines, all that fit filters, the first that ends."""

import json
import signal

import pytest

from tests.e2e.commandline import Twctl


def lines(data: bytes, label: str) -> list[str]:
    """Return the lines that have *label* before them, without it."""
    return [
        line.split(" | ", 1)[1]
        for line in data.decode().splitlines()
        if line.split(" | ", 1)[0].strip() == label
    ]


def test_tail_of_several(alice: Twctl) -> None:
    """Each line has its job before it; a last one without newline gets one."""
    alice.shell("seq 1 5000; printf end", "--name", "first")
    second = alice.shell("seq 5001 9000; exit 3")

    done = alice("tail", "-f", "--exit-code", "first", second)

    assert done.code == 3
    assert lines(done.stdout, "first") == [*map(str, range(1, 5001)), "end"]
    assert lines(done.stdout, second[:12]) == [*map(str, range(5001, 9001))]
    assert "job first finished: exited, exit code 0" in done.stderr
    assert f"job {second[:12]} finished: exited, exit code 3" in done.stderr


def test_tail_of_several_live(alice: Twctl) -> None:
    """Lines of running jobs come as they are written, and never in pieces."""
    gate = alice.daemon.gate()
    alice.shell(f"printf be; {gate.wait}; echo gin", "--name", "one")
    alice.shell("echo between", "--name", "two")

    with alice.start("tail", "-f", "one", "two") as tail:
        tail.until(b"two | between\n")
        gate.open()
        done = tail.finish()

    assert sorted(done.stdout.splitlines()) == [b"one | begin", b"two | between"]


def test_both_names_of_one(alice: Twctl) -> None:
    """A job that is named twice is one job, and its bytes are as they are."""
    job = alice.shell("printf raw", "--name", "twice")

    assert alice("tail", "-f", "twice", job).stdout == b"raw"


def test_json_of_several(alice: Twctl) -> None:
    """JSON lines say of which job they are."""
    jobs = [alice.shell(f"echo {number}") for number in (1, 2)]
    done = alice("tail", "-f", "-o", "json", *jobs)
    objects = [json.loads(line) for line in done.stdout.splitlines()]

    texts = {each["job"]: each["text"] for each in objects if "text" in each}
    assert texts == {jobs[0]: "1\n", jobs[1]: "2\n"}
    assert {each["job"] for each in objects if "end" in each} == set(jobs)


def test_one_that_is_not_there(alice: Twctl) -> None:
    """Before anything is written, all are looked for."""
    job = alice.shell("echo one")

    assert "no job 'nosuch'" in alice("tail", "-f", job, "nosuch").error


def test_kill_by_filter(alice: Twctl) -> None:
    """All that fit are ended, and named; others are not."""
    meant = {alice.run("-l", "set=a", "--", "sleep", "300") for _ in range(3)}
    other = alice.run("-l", "set=b", "--", "sleep", "300")

    done = alice("kill", "--filter", "label=set=a")
    codes = alice("wait", *meant)

    assert set(done.stdout.decode().split()) == meant
    assert codes.code == 128 + signal.SIGKILL
    assert alice.status(other)["state"] == "running"
    assert alice("stop", "--filter", "label=set=b").stdout.decode() == f"{other}\n"


def test_wait_and_rm_by_filter(alice: Twctl) -> None:
    """Those that go on are waited for, those that have ended are removed."""
    gate = alice.daemon.gate()
    jobs = [
        alice.run("-l", "set=c", "--", "sh", "-c", f"{gate.wait}; exit {code}")
        for code in (0, 5)
    ]

    with alice.start("wait", "--filter", "label=set=c") as waiting:
        gate.open()
        done = waiting.finish()

    again = alice("wait", "--filter", "label=set=c")
    removed = alice("rm", "--filter", "label=set=c", "-o", "json")

    assert done.code == again.code == 5
    assert sorted(again.stdout.decode().split()) == ["0", "5"]
    assert set(removed.json["removed"]) == set(jobs)


@pytest.mark.parametrize("verb", ["kill", "stop", "wait", "rm"])
def test_nothing_fits(alice: Twctl, verb: str) -> None:
    """Where nothing fits there is nothing to do, and that is no failure."""
    done = alice(verb, "--filter", "name=nobody")

    assert (done.code, done.stdout, done.stderr) == (0, b"", "twctl: no job fits\n")


@pytest.mark.parametrize("verb", ["kill", "stop", "wait", "rm"])
def test_which_jobs(alice: Twctl, verb: str) -> None:
    """Jobs or filters, one of the two."""
    both = alice(verb, "abcd", "--filter", "name=x")
    neither = alice(verb)

    assert (both.code, neither.code) == (2, 2)
    assert "give one of the two" in both.error
    assert "name a job, or give --filter" in neither.error


def test_wait_for_one_twice(alice: Twctl) -> None:
    """A job that is named twice has its code twice, in the order of the names."""
    first, second = alice.shell("exit 4"), alice.shell("exit 5")

    done = alice("wait", first, second, first)
    as_json = alice("wait", "-o", "json", first, first)

    assert (done.code, done.stdout) == (5, b"4\n5\n4\n")
    assert [each["id"] for each in as_json.json] == [first, first]


def test_any(alice: Twctl) -> None:
    """The first that ends is named, with its code, which is ours."""
    long = alice.run("sleep", "300")
    short = alice.shell("exit 4")

    done = alice("wait", "--any", long, short)

    assert (done.code, done.stdout.decode()) == (4, f"{short} 4\n")
    alice("kill", long)


def test_any_that_fits(alice: Twctl) -> None:
    """One that had ended before is the first, and nothing is waited for."""
    running = alice.run("-l", "set=d", "--", "sleep", "300")
    ended = alice.run("-l", "set=d", "--", "sh", "-c", "exit 6")
    alice.ended(ended)

    done = alice("wait", "--any", "--filter", "label=set=d")

    assert (done.code, done.stdout.decode()) == (6, f"{ended} 6\n")
    alice("kill", running)


def test_any_within_a_time(alice: Twctl) -> None:
    """When none has ended in time, that is 124."""
    job = alice.run("sleep", "300")

    done = alice("wait", "--any", "--timeout", "0.2", job)

    assert (done.code, done.stdout) == (124, b"")
    alice("kill", job)


def test_look(alice: Twctl) -> None:
    """Without any time, those that have ended have their code."""
    ended = alice.shell("exit 7")
    alice.ended(ended)
    running = alice.run("sleep", "300")

    assert alice("wait", "--timeout", "0", ended).code == 7
    assert alice("wait", "--timeout", "0", running).code == 124
    alice("kill", running)


@pytest.mark.parametrize("option", ["-9", "-KILL", "-SIGKILL", "-s9", "-sKILL"])
def test_signals_as_fingers_know_them(alice: Twctl, option: str) -> None:
    """As with kill(1), a signal may be an option of its own."""
    job = alice.run("sleep", "300")

    done = alice("kill", option, job)

    assert (done.code, done.stderr) == (0, "")
    assert alice.ended(job)["signal"] == signal.SIGKILL


def test_signal_of_its_own(alice: Twctl) -> None:
    """It need not be the one that ends."""
    job = alice.shell("trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done")
    alice.until_printed(job, b"ready")
    alice("kill", "-TERM", job)

    assert alice.ended(job)["exit_code"] == 9
