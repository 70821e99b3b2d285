"""What `-o json` prints has all the keys that docs/json.md names, and no others."""

import json
import re
from pathlib import Path
from typing import Any, Final

from tests.e2e.commandline import Twctl


TEXT: Final = (Path(__file__).parents[2] / "docs" / "json.md").read_text("utf-8")
TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z")
KINDS: Final[dict[str, type | tuple[type, ...]]] = {
    "number": (int, float),
    "text": str,
    "time": str,
    "boolean": bool,
    "map of text": dict,
    "map of numbers": dict,
    "array of text": list,
    "array of numbers": list,
}

TAIL: Final = "tail, run -f, attach"

Keys = dict[str, str]


def tables(section: str) -> list[Keys]:
    """Return the tables of that section: the keys, and their types."""
    pattern = rf"^## ({section})\n(.*?)(?=^## |\Z)"
    [(_, text)] = re.findall(pattern, TEXT, re.MULTILINE | re.DOTALL)
    return [
        dict(re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", table, re.MULTILINE))
        for table in text.split("| key | type | is |")[1:]
    ]


def check(found: Any, keys: Keys, *, prefix: str = "") -> set[str]:
    """Check that the values of *found* are as *keys* say; return its keys."""
    seen = set()

    for key, value in found.items():
        path = f"{prefix}{key}"

        if path in keys:
            seen.add(path)
            check_kind(path, value, keys[path])
        else:
            assert isinstance(value, dict), f"{path} is not documented"
            seen |= check(value, keys, prefix=f"{path}.")

    return seen


def check_kind(path: str, value: object, kinds: str) -> None:
    """Check that *value* is of one of *kinds*."""
    kind, _, rest = kinds.strip().partition(" or ")

    if value is None:
        assert rest == "null", path
        return

    assert isinstance(value, KINDS[kind]), (path, value)
    assert kind != "time" or TIME.fullmatch(str(value)), (path, value)


def check_all(found: Any, section: str, table: int = 0) -> None:
    """Check that *found* has all keys of that table and no others."""
    keys = tables(section)[table]
    assert check(found, keys) == set(keys)


def lines(data: bytes) -> list[Any]:
    """Return the objects, one a line."""
    return [json.loads(line) for line in data.splitlines()]


def test_jobs(alice: Twctl) -> None:
    """Of a job: run, status, list, wait."""
    started = alice("run", "-o", "json", "--name", "j", "--", "sh", "-c", "exit 3").json
    waited = alice("wait", "-o", "json", started["id"]).json
    failed = alice("run", "nosuchprogram")

    assert failed.code == 127
    check_all(started, "run")
    check_all(alice.status(started["id"]), "status")

    for each in (*waited, *alice("list", "-a", "-o", "json").json):
        check_all(each, "status")


def test_tail(alice: Twctl) -> None:
    """What was written, and the end."""
    job = alice.shell("echo text")
    binary = alice.shell("printf '\\377'")
    alice("wait", job, binary)
    piece, end = lines(alice("tail", "-f", "-o", "json", job).stdout)
    [other] = lines(alice("tail", "-o", "json", binary).stdout)[:1]

    check_all(piece, TAIL)
    check_all(end, TAIL, 1)
    assert other.pop("base64") == "/w=="
    assert check(other, tables(TAIL)[0]) == set(piece) - {"text"}


def test_followed(alice: Twctl) -> None:
    """run -f prints the same."""
    done = alice("run", "-f", "-o", "json", "--", "sh", "-c", "echo text; exit 3")
    first, end = lines(done.stdout)

    assert done.code == 3
    check_all(first, TAIL)
    assert set(end["end"]) == {"stdout", "stderr", "state", "exit_code", "reason"}


def test_environment(alice: Twctl) -> None:
    """What is in the environment makes no JSON of a job's bytes."""
    alice.environment["TWCTL_OUTPUT"] = "json"

    followed = alice("run", "-f", "--", "echo", "raw")
    job = alice("run", "--", "echo", "raw").json["id"]

    assert followed.stdout == b"raw\n"
    assert alice("tail", "-f", job).stdout == b"raw\n"


def test_top(alice: Twctl) -> None:
    """Jobs with their rates."""
    job = alice.run("sleep", "300")
    [sample] = lines(alice("top", "-n", "1", "-o", "json", job).stdout)
    [use] = sample.pop("jobs")
    rates = {
        key: kind for key, kind in tables("top")[0].items() if key.startswith("jobs.")
    }
    own = {key: value for key, value in use.items() if f"jobs.{key}" in rates}
    alice("kill", job)

    assert set(sample) == {"schema", "at"}
    assert check(own, rates, prefix="jobs.") == set(rates)
    check_all({key: value for key, value in use.items() if key not in own}, "status")


def test_others(alice: Twctl) -> None:
    """Events, the server, what was removed, contexts."""
    job = alice.shell("true")
    alice.ended(job)
    alice("context", "set", "c", "--host", "c:1")

    check_all(alice("rm", "-o", "json", job).json, "kill, stop, rm", 2)
    check_all(alice("info", "-o", "json").json, "info")
    check_all(alice("context", "ls", "-o", "json").json[0], "context ls")

    for each in lines(alice("events", "-o", "json").stdout):
        check_all(each, "events")


def test_ended(alice: Twctl) -> None:
    """Kill and stop say of which jobs, and of which there was nothing to do."""
    first, second = alice.run("sleep", "1000"), alice.run("sleep", "1000")
    killed = alice("kill", "-o", "json", first).json
    alice("wait", first)
    stopped = alice("stop", "-o", "json", first, second).json

    check_all(killed, "kill, stop, rm")
    check_all(stopped, "kill, stop, rm", 1)
    assert (killed["signalled"], killed["already_ended"]) == ([first], [])
    assert (stopped["stopped"], stopped["already_ended"]) == ([second], [first])


def test_attached(alice: Twctl) -> None:
    """attach prints what run -f does."""
    job = alice.shell("echo text; exit 3")
    done = alice("attach", "--no-stdin", "-o", "json", job)
    piece, end = lines(done.stdout)

    assert done.code == 3
    check_all(piece, TAIL)
    assert set(end["end"]) == {"stdout", "stderr", "state", "exit_code", "reason"}
