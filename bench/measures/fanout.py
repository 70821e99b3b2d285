"""One job, many readers: how fast its output arrives at all of them."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

from bench.gate import Gate
from bench.openssh import OpenSsh
from bench.plan import MIB
from bench.processes import Program, Running, wait_until_quiet
from bench.section import Comparison, Section
from bench.series import Contestant, Missing, Values, contest
from bench.setting import Setting


FACTOR: Final = 3  # the aim with the most readers


def measure(setting: Setting) -> Section:
    """Measure each number of readers by itself."""
    plan = setting.plan
    stored = setting.base / "output"

    with stored.open("wb") as file:
        for _ in range(plan.fanout // MIB):
            file.write(bytes(MIB))

    contestants: dict[str, Contestant | Missing] = {}
    comparisons: list[Comparison] = []

    for readers in plan.readers:
        ours, peer = _name("TeleWorker", readers), _name("OpenSSH", readers)
        contestants[ours] = partial(_by_us, setting, readers)
        contestants[peer] = setting.by_ssh(partial(_by_ssh, setting, readers, stored))
        is_the_most = readers == max(plan.readers)
        aim = FACTOR if is_the_most else None
        comparisons.append(Comparison(ours, peer, at_least=aim))

    results = contest(plan.fanout_rounds, contestants)
    stored.unlink()
    return Section(
        f"Fan-out: {plan.fanout // MIB} MiB to each reader",
        "MiB/s, all readers together",
        results,
        comparisons,
        [
            (
                "Every reader is a process, `twctl tail -f JOB > /dev/null`, connected"
                " and waiting before the job begins to write; the time ends when the"
                " last reader has ended."
            ),
            (
                "With OpenSSH nothing is shared between readers, so it gets the"
                " easiest work with the same result: as many sessions, each with a"
                " connection of its own, stand at a gate, and then `cat` a file that"
                " is complete and in memory. Neither a job nor a `tail` costs them"
                " anything."
            ),
        ],
    )


def _name(who: str, readers: int) -> str:
    return f"{who}, {readers} reader{'' if readers == 1 else 's'}"


def _by_us(setting: Setting, readers: int) -> Values:
    size = setting.plan.fanout

    with setting.gate() as gate, setting.daemon() as daemon:
        command = gate.behind(("head", "-c", str(size), "/dev/zero"))
        job = daemon.start(*command)
        return _race(gate, [daemon.twctl("tail", "-f", job)] * readers, size, jobs=1)


def _by_ssh(setting: Setting, readers: int, stored: Path, ssh: OpenSsh) -> Values:
    with setting.gate() as gate:
        program = ssh.ssh(*gate.behind(("cat", str(stored))))
        size = setting.plan.fanout
        return _race(gate, [program] * readers, size, jobs=readers)


def _race(gate: Gate, programs: Sequence[Program], size: int, *, jobs: int) -> Values:
    with ExitStack() as exits:
        readers = [exits.enter_context(Running(program)) for program in programs]
        gate.await_arrival(jobs)
        wait_until_quiet()
        begin = time.perf_counter()
        gate.open(jobs)

        for reader in readers:
            reader.finish()

        return {"": len(readers) * size / MIB / (time.perf_counter() - begin)}
