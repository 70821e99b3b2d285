"""How many jobs can be started in a second."""

import asyncio
import json
import sys
import time
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

from bench.daemon import Daemon
from bench.openssh import MULTIPLEXED, OpenSsh
from bench.processes import Program, output_of, time_of
from bench.section import Comparison, Section
from bench.series import Values, contest
from bench.setting import Setting
from twctl import Client


IN_FLIGHT: Final = 16
CONNECTIONS: Final = 8

ONE: Final = "TeleWorker, one connection"
EIGHT: Final = f"TeleWorker, {CONNECTIONS} connections"
IN_TURN: Final = "TeleWorker, one after the other"
SSH: Final = "OpenSSH, multiplexed, one after the other"
LIMIT: Final = "limit: asyncio"


def measure(setting: Setting) -> Section:
    """Measure jobs that do nothing."""
    count, in_turn = setting.plan.launches, setting.plan.launches_in_turn
    contestants = {
        ONE: partial(_by_us, setting, count, 1, IN_FLIGHT),
        EIGHT: partial(_by_us, setting, count, CONNECTIONS, IN_FLIGHT),
        IN_TURN: partial(_by_us, setting, in_turn, 1, 1),
        SSH: setting.by_ssh(partial(_by_ssh, in_turn)),
        LIMIT: partial(_by_asyncio, count),
    }
    results = contest(setting.plan.rounds, contestants)
    return Section(
        "Launches",
        "jobs started per second",
        results,
        [
            Comparison(ONE, LIMIT, at_least=0.7),
            Comparison(EIGHT, LIMIT, at_least=0.7),
            Comparison(IN_TURN, SSH),
        ],
        [
            (
                f"{count} jobs of `true` by the library, {IN_FLIGHT} in flight over one"
                f" connection or over {CONNECTIONS} together; a job counts when `run`"
                " has returned, so when it runs. The limit starts as many, as many in"
                " flight, by `asyncio.create_subprocess_exec` with a hook in Python"
                f" that joins {_groups()} control groups, and does nothing else: no"
                " account, no pipes, no record of anything."
            ),
            (
                f"`ssh` can only be called: {in_turn} times `ssh HOST true` over a"
                " connection that stands, one after the other, until each has ended;"
                " beside it the library with one job in flight."
            ),
        ],
    )


def _by_us(setting: Setting, count: int, connections: int, in_flight: int) -> Values:
    with setting.daemon() as daemon:
        seconds = asyncio.run(_launch(daemon, count, connections, in_flight))
        return {"": count / seconds}


async def _launch(
    daemon: Daemon, count: int, connections: int, in_flight: int
) -> float:
    numbers = iter(range(count))

    async with AsyncExitStack() as exits:
        clients = [
            await exits.enter_async_context(daemon.connect())
            for _ in range(connections)
        ]

        async def launch(client: Client) -> None:
            for _ in numbers:
                await client.run(["true"])

        for client in clients:  # what is loaded at the first job does not count
            await client.run(["true"])

        begin = time.perf_counter()

        async with asyncio.TaskGroup() as tasks:
            for number in range(in_flight):
                tasks.create_task(launch(clients[number % connections]))

        return time.perf_counter() - begin


def _by_ssh(count: int, ssh: OpenSsh) -> Values:
    program = ssh.ssh("true", host=MULTIPLEXED)
    return {"": count / sum(time_of(program) for _ in range(count))}


def _by_asyncio(count: int) -> Values:
    return {"": count / float(_limit(count)["seconds"])}


def _groups() -> int:
    return int(_limit(1)["groups"])


def _limit(count: int) -> dict[str, float]:
    call = (sys.executable, "-m", "bench.limits.launch", str(count), str(IN_FLIGHT))
    result: dict[str, float] = json.loads(output_of(Program(call)))
    return result
