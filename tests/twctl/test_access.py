"""Who may what, as the client asks for it and shows it."""

import asyncio
import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from teleworkerd.protocol.errors import (
    PermissionDenied,
)
from teleworkerd.protocol.messages import (
    EVERYBODY,
    ListRequest,
    OutputRequest,
    RunRequest,
    WaitRequest,
)
from teleworkerd.protocol.types import Role, Stream
from tests.e2e.waiting import wait_for
from tests.twctl.calling import RUNNING, Capture, asked, error_of, read
from tests.twctl.fake import FakeServer
from tests.twctl.fake_output import JOB_ID, FakeJob, make_status
from twctl.cli import main
from twctl.client import Client
from twctl.profile import Profile
from twctl.rejection import AccessWithdrawn, ConnectionRejected


pytestmark = pytest.mark.timeout(20)

REVOKED = PermissionDenied("the certificate of alice has been revoked")


# Accounts and roles


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("option", ["-u", "--user"])
@pytest.mark.parametrize("follow", [[], ["-f"]])
def test_run_as(server: FakeServer, option: str, follow: list[str]) -> None:
    """The account goes to the server as it is."""
    server.jobs[JOB_ID] = FakeJob()

    assert main(["run", *follow, option, "svc-build$", "ls"]) == 0
    assert [spec.user for spec in server.started.values()] == ["svc-build$"]


@pytest.mark.usefixtures("environment")
def test_run_as_nobody_in_particular(server: FakeServer) -> None:
    """Without the option the server chooses."""
    main(["run", "ls"])

    assert [spec.user for spec in server.started.values()] == [None]


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("name", ["", "a b", "-x", "0", "\udcff", "a" * 65])
def test_run_as_what_is_no_account(
    server: FakeServer, capsys: Capture, name: str
) -> None:
    """What cannot be an account is refused here: 125."""
    assert main(["run", f"--user={name}", "ls"]) == 125
    assert "user" in error_of(capsys)
    assert not server.connections


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("follow", [[], ["-f"]])
def test_account_that_is_not_granted(
    server: FakeServer, capsys: Capture, follow: list[str]
) -> None:
    """A run that is not allowed is 125, for nothing was launched."""
    server.errors[RunRequest] = PermissionDenied("alice may not run jobs as root")

    assert main(["run", *follow, "-u", "root", "ls"]) == 125
    assert error_of(capsys) == "twctl: error: alice may not run jobs as root\n"


async def test_run_as_in_the_library(server: FakeServer, profile: Profile) -> None:
    """The library takes the account as well."""
    async with Client(profile) as client:
        await client.run(["ls"], user="build")

    assert [spec.user for spec in server.started.values()] == ["build"]


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    ("options", "owner"),
    [
        ([], None),
        (["--owner", "bob"], "bob"),
        (["--all-owners"], EVERYBODY),
    ],
)
def test_whose_jobs(
    server: FakeServer, capsys: Capture, options: list[str], owner: str | None
) -> None:
    """Others' jobs are listed with their owners, one's own without."""
    server.jobs[JOB_ID] = FakeJob(replace(RUNNING, owner="bob", name="n"))

    assert main(["list", *options]) == 0
    head, row = (line.split() for line in capsys.readouterr().out.splitlines())
    columns = ["OWNER"] if owner else []
    assert head == ["ID", *columns, "NAME", "STATE", "EXIT", "AGE", "COMMAND"]
    assert ("bob" in row) is (owner is not None)
    (request,) = asked(server, ListRequest)
    assert isinstance(request, ListRequest)
    assert request.owner == owner


@pytest.mark.usefixtures("environment")
def test_owner_in_json(server: FakeServer, capsys: Capture) -> None:
    """JSON has the owner always."""
    server.jobs[JOB_ID] = FakeJob(make_status(owner="bob"))

    main(["list", "-a", "-o", "json"])

    assert json.loads(capsys.readouterr().out)[0]["owner"] == "bob"


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    "options", [["--owner", "bob", "--all-owners"], ["--owner", ""]]
)
def test_odd_owners(server: FakeServer, capsys: Capture, options: list[str]) -> None:
    """One of the two options is enough, and an owner has a name: 2."""
    assert main(["list", *options]) == 2
    assert "--owner" in error_of(capsys)
    assert not server.connections


@pytest.mark.usefixtures("environment")
def test_list_that_is_not_allowed(server: FakeServer, capsys: Capture) -> None:
    """Who may not see others' jobs is told so: 1."""
    server.errors[ListRequest] = PermissionDenied("alice may see their own jobs only")

    assert main(["list", "--all-owners"]) == 1
    assert error_of(capsys) == "twctl: error: alice may see their own jobs only\n"


async def test_owners_in_the_library(server: FakeServer, profile: Profile) -> None:
    """Every page asks for the same owner."""
    server.jobs = {f"{n}": FakeJob(make_status(id=f"{n}")) for n in range(600)}

    async with Client(profile) as client:
        assert len(await client.list(owner=EVERYBODY)) == 600

    owners = [r.owner for r in server.asked if isinstance(r, ListRequest)]
    assert owners == [EVERYBODY, EVERYBODY]


@pytest.mark.usefixtures("environment")
def test_role_and_accounts(server: FakeServer, capsys: Capture) -> None:
    """`info` shows what one is and as whom one's jobs may run."""
    server.role = Role.OPERATOR
    server.accounts = ("nobody", "build")

    main(["info"])
    text = capsys.readouterr().out.splitlines()
    main(["info", "-o", "json"])
    found = json.loads(capsys.readouterr().out)

    assert "role:        operator" in text
    assert "jobs run as: nobody or build" in text
    assert (found["role"], found["accounts"]) == ("operator", ["nobody", "build"])


# Not let in, and shown out


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("is_polite", [False, True], ids=["", "after hello"])
@pytest.mark.parametrize("verb", ["info", "status", "wait", "tail", "kill", "run"])
def test_not_let_in(
    server: FakeServer, capsys: Capture, *, verb: str, is_polite: bool
) -> None:
    """Who is refused before being seen has no connection: 125 for every verb."""
    server.greetings = [PermissionDenied("the certificate has 2 common names")]
    server.is_polite = is_polite

    assert main([verb, *([] if verb == "info" else [JOB_ID])]) == 125
    assert "the certificate has 2 common names\n" in error_of(capsys)


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    "arguments",
    [
        ["tail", "-f", JOB_ID],
        ["tail", "-f", "--exit-code", JOB_ID],
        ["wait", JOB_ID],
        ["run", "-f", "ls"],
    ],
)
@pytest.mark.slow
def test_shown_out(server: FakeServer, arguments: list[str]) -> None:
    """Who may no longer ends with that, and does not come back."""
    server.jobs[JOB_ID] = FakeJob(RUNNING)

    with subprocess.Popen(
        [sys.executable, "-m", "twctl", *arguments], stderr=subprocess.PIPE
    ) as process:
        try:
            wait_for(lambda: is_watched(server), what="a request that lasts")
            server.dismiss(REVOKED)
            _, said = process.communicate(timeout=10)
        finally:
            process.kill()

    assert process.returncode == 125
    assert re.fullmatch(
        rb"twctl: error: 127\.0\.0\.1:\d+: the certificate of alice has been revoked\n",
        said,
    )
    assert server.connections == 1


def is_watched(server: FakeServer) -> bool:
    """Whether something was asked that lasts as long as the job."""
    return any(isinstance(r, OutputRequest | WaitRequest) for r in server.asked)


async def test_shown_out_of_the_library(server: FakeServer, profile: Profile) -> None:
    """All that waits fails with an error of its own, and there is no coming back."""
    server.jobs[JOB_ID] = FakeJob(RUNNING)
    notices: list[str] = []

    async with Client(profile, notice=notices.append) as client:
        job = client.job(JOB_ID)
        waiting = [asyncio.create_task(work) for work in (job.wait(), read(client))]
        await server.until(lambda: len(server.asked) >= 2)
        server.dismiss(REVOKED)
        errors = await asyncio.gather(*waiting, return_exceptions=True)

        with pytest.raises(AccessWithdrawn, match="has been revoked"):
            await client.info()

    assert [type(error) for error in errors] == [AccessWithdrawn, AccessWithdrawn]
    assert errors[0] is not errors[1]
    assert server.connections == 1
    assert notices == []


async def test_not_let_in_again(server: FakeServer, profile: Profile) -> None:
    """Who comes back and may not is told at once."""
    server.jobs[JOB_ID] = FakeJob(output={Stream.STDOUT: b"all"})
    server.cuts = [250]
    server.greetings = [None, REVOKED, REVOKED]

    async with Client(profile) as client:
        with pytest.raises(ConnectionRejected, match="has been revoked") as caught:
            await read(client)

    assert type(caught.value) is ConnectionRejected
    assert server.connections == 2
