"""What the documents say of the library, done at a real daemon."""

import asyncio
import inspect
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import aclosing, closing, suppress
from datetime import timedelta
from typing import Any, Final

import pytest

import twctl
from tests.e2e.daemon import Daemon
from tests.e2e.examples import Example, in_docstrings, in_markdown
from tests.e2e.pki import ROOT, Certificates


pytestmark = [pytest.mark.timeout(60), pytest.mark.slow]

DOCUMENT: Final = (ROOT / "docs/library.md").read_text()

EXAMPLES: Final = [
    *in_docstrings("twctl", twctl),
    *in_docstrings("twctl.connect", twctl.connect),
    *in_docstrings("twctl.Client", twctl.Client),
    *in_docstrings("twctl.RemoteJob", twctl.RemoteJob),
    *in_docstrings("twctl.JobInput", twctl.JobInput),
    *in_docstrings("twctl.sync", twctl.sync),
    *in_markdown("library.md", DOCUMENT),
]

COMMAND: Final = ["sh", "-c", "trap : HUP; echo out; echo err >&2; sleep 1"]


@pytest.fixture
def surroundings(
    daemon: Daemon, certs: Certificates, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """What all examples find; the directory has the files that they name."""
    alice = certs.of("alice")
    monkeypatch.chdir(certs.directory)
    monkeypatch.setenv("TWCTL_HOST", daemon.address)
    monkeypatch.setenv("TWCTL_CA", str(certs.ca))
    monkeypatch.setenv("TWCTL_CERT", str(alice.cert))
    monkeypatch.setenv("TWCTL_KEY", str(alice.key))
    return {
        "__name__": "example",
        "aclosing": aclosing,
        "asyncio": asyncio,
        "closing": closing,
        "os": os,
        "signal": signal,
        "sys": sys,
        "timedelta": timedelta,
        "twctl": twctl,
    }


@pytest.fixture
def job(surroundings: dict[str, Any]) -> Iterator[str]:
    """The ID of a job that runs, named `build`."""
    with twctl.sync.connect() as client:
        started = client.run(COMMAND, name="build")
        next(started.output("stderr"))
        yield started.id

        with suppress(twctl.JobNotFound):  # an example removed it
            started.kill()
            started.wait()


def here(example: Example, daemon: Daemon) -> Example:
    """Return the example for the server that there is."""
    code = example.code.replace("worker.example.org:7443", daemon.address)
    return Example(example.where, code)


@pytest.mark.parametrize(
    "example", [one for one in EXAMPLES if one.is_asynchronous], ids=str
)
async def test_asynchronous_example(
    example: Example, daemon: Daemon, job: str, surroundings: dict[str, Any]
) -> None:
    """An example does what it says, or at least something, without an error."""
    async with twctl.connect() as client:
        names = {"client": client, "job": client.job(job)}
        await here(example, daemon).run_async(surroundings | names)


@pytest.mark.parametrize(
    "example", [one for one in EXAMPLES if not one.is_asynchronous], ids=str
)
def test_synchronous_example(
    example: Example, daemon: Daemon, job: str, surroundings: dict[str, Any]
) -> None:
    """So does one without an event loop."""
    with twctl.sync.connect() as client:
        names = {"client": client, "job": client.job(job)}
        here(example, daemon).run(surroundings | names)


def test_every_method_has_an_example() -> None:
    """What waits for the server shows how it is used."""
    missing = [
        f"{kind}.{name}"
        for kind in ("Client", "RemoteJob")
        for name, method in vars(getattr(twctl, kind)).items()
        if not name.startswith("_")
        and (inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method))
        and name not in {"samples", "start"}  # with messages of the protocol
        and not [*in_docstrings(name, getattr(getattr(twctl, kind), name))]
    ]

    assert missing == []


def test_every_name_is_told_of() -> None:
    """Whatever can be imported stands in the document."""
    told = {*re.findall(r"\w+", DOCUMENT)}

    assert [name for name in twctl.__all__ if name not in told] == []


def test_table_of_errors() -> None:
    """The table has each error of the library, with its code, and no other."""
    errors = {
        name: getattr(getattr(twctl, name), "code", "")
        for name in twctl.__all__
        if inspect.isclass(getattr(twctl, name))
        and issubclass(getattr(twctl, name), twctl.TeleworkerError)
    }
    roots = {"TeleworkerError", "RequestError"}

    rows = re.findall(r"^\| `(\w+)` \| (?:`(\w+)`)? ?\|", DOCUMENT, re.MULTILINE)

    assert {name: code for name, code in rows if name[0].isupper()} == {
        name: code for name, code in errors.items() if name not in roots
    }
