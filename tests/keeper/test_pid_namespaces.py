"""`[jobs] private_pids`: a PID namespace for each job, and for nobody else."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from teleworkerd.keeper.account import find_account
from teleworkerd.keeper.isolation import namespaces_of
from teleworkerd.keeper.launch import LaunchPlan, launch
from teleworkerd.keeper.orders import StopJob
from teleworkerd.keeper.orphans import use_pidfds
from teleworkerd.keeper.privileges import privileges_of
from teleworkerd.protocol.spec import JobSpec
from teleworkerd.protocol.types import Reason
from tests.keeper.isolated import ROOTS, VisiblePlace, private, shell, start
from tests.keeper.kept import KeeperProcess


@pytest.fixture
def own_place() -> Iterator[VisiblePlace]:
    """Directories for a keeper of the test's own."""
    directories = VisiblePlace()
    yield directories
    directories.remove()


def pid_namespace(pid: int | str, name: str = "pid") -> str:
    """Return the PID namespace of a process, or of its children."""
    return str(Path(f"/proc/{pid}/ns/{name}").readlink())


def test_pid_of_the_machine(own_place: VisiblePlace) -> None:
    """The pid that is reported is the machine's; in the job it is 1."""
    with KeeperProcess(own_place.config(private(private_pids=True))) as keeper:
        job = keeper.launch("sh", "-c", "echo $$; exec sleep 300")
        pid = job.launched().launched.pid
        job.wait_for_output(b"1\n")
        text = Path(f"/proc/{pid}/status").read_text()

    pids = next(line for line in text.splitlines() if line.startswith("NSpid:"))
    assert pids.split()[1:] == [str(pid), "1"]


def test_no_other_processes(own_place: VisiblePlace) -> None:
    """With a PID namespace a job finds only its own processes in /proc."""
    script = "cd /proc; echo [0-9]*; cat /proc/self/oom_score_adj; ls -d sys irq"

    with KeeperProcess(own_place.config(private(private_pids=True))) as keeper:
        start(keeper, "true")
        record, out, _ = shell(keeper, script)
        _, refused, _ = shell(
            keeper, "true > /proc/sys/kernel/core_pattern || echo no", owner=ROOTS
        )

    assert record.exit_code == 0
    assert out.split() == ["1", "0", "irq", "sys"]
    assert refused == "no\n"


def test_signal_without_a_handler(own_place: VisiblePlace) -> None:
    """The first process of a namespace survives SIGTERM, and not what follows it."""
    with KeeperProcess(own_place.config(private(private_pids=True))) as keeper:
        job = keeper.launch("sleep", "300")
        job.launched()
        keeper.send(StopJob(job.id, Reason.KILLED, grace=0.2))
        record = job.exited()

    assert (record.reason, record.signal) == (Reason.KILLED, signal.SIGKILL)


@pytest.mark.slow
def test_namespace_is_of_one_fork(own_place: VisiblePlace) -> None:
    """Of many launches at once each is in a PID namespace or not, as it was to be.

    Nor is any other process that is started meanwhile, or after a launch failed.
    """
    use_pidfds()

    with ExitStack() as stack:
        found, others, for_children = asyncio.run(_launch_mixed(own_place, stack))

    ours = pid_namespace("self")
    apart = [namespace for own, namespace in found if own]
    assert len(apart) == len(set(apart)) == 30
    assert ours not in apart
    assert {namespace for own, namespace in found if not own} == {ours}
    assert set(others) == {ours}
    assert for_children == ours


async def _launch_mixed(
    own_place: VisiblePlace, stack: ExitStack
) -> tuple[list[tuple[bool, str]], list[str], str]:
    """Return the namespaces of launches by whether they are apart, and of others."""
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    stack.callback(os.close, null)

    async def one(number: int) -> tuple[bool, str]:
        plan = _plan(own_place, null, own_pids=number % 2 == 0)

        if number % 7 == 0:
            bad = JobSpec((b"/no/such/program",))
            await asyncio.gather(
                launch(replace(plan, spec=bad)), return_exceptions=True
            )

        return number % 2 == 0, await _namespace_of(await launch(plan))

    async def other() -> str:
        return await _namespace_of(
            await asyncio.create_subprocess_exec("sleep", "300", stdin=null)
        )

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(number)) for number in range(60)]
        others = [group.create_task(other()) for _ in range(20)]

    for_children = pid_namespace("self", "pid_for_children")
    found = [task.result() for task in tasks]
    return found, [task.result() for task in others], for_children


async def _namespace_of(process: asyncio.subprocess.Process) -> str:
    namespace = pid_namespace(process.pid)
    process.kill()
    await process.wait()
    return namespace


def _plan(own_place: VisiblePlace, null: int, *, own_pids: bool) -> LaunchPlan:
    config = own_place.config(private(private_pids=own_pids))
    account = find_account("nobody")
    own = namespaces_of(config, account.uid)
    return LaunchPlan(
        spec=JobSpec((b"sleep", b"300")),
        env={b"PATH": b"/usr/bin:/bin"},
        account=account,
        change_account=True,
        procs=(),
        stdin=null,
        stdout=null,
        stderr=null,
        has_terminal=False,
        open_files=(1024, 1024),
        privileges=privileges_of(account.uid, own, is_root=True),
        namespaces=own,
    )
