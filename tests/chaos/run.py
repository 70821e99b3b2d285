"""One run: a daemon, its users, the nemesis, and what the checker says."""

import asyncio
import shutil
import time
from contextlib import ExitStack

from tests.chaos.board import Board
from tests.chaos.checker import check
from tests.chaos.clock import WallClock
from tests.chaos.history import History
from tests.chaos.nemesis import Nemesis
from tests.chaos.place import read_ledger, small_disk
from tests.chaos.plan import plan
from tests.chaos.report import Report
from tests.chaos.scene import Scene
from tests.e2e.daemon import Daemon
from tests.e2e.pki import Certificates
from tests.e2e.proxy import Proxy


def run(seed: int, seconds: float, certs: Certificates) -> Report:
    """Let the nemesis of *seed* loose for some seconds, and check what came of it."""
    begin = time.monotonic()
    history = History()

    with ExitStack() as stack:
        place = stack.enter_context(small_disk())
        clock = WallClock(place.base)
        stack.callback(clock.tidy)
        daemon = stack.enter_context(
            Daemon(place, certs, environment=clock.environment)
        )
        proxy = stack.enter_context(Proxy(daemon.address))
        board = Board(seed, _python(), place)
        nemesis = Nemesis(daemon, proxy, clock, history)
        scene = Scene(daemon, proxy, board, history)
        complaint = asyncio.run(scene.play(nemesis, plan(seed, seconds)))
        nemesis.see_server()
        daemon.stop()
        log = daemon.log()
        truth = read_ledger(place.ledger)

    return Report(
        seed=seed,
        seconds=time.monotonic() - begin,
        history=history.entries,
        jobs=len(board.jobs),
        restarts=log.count("; starting another"),
        violations=[*complaint, *check(history.entries, truth)],
        log=log,
    )


def _python() -> str:
    """Return a Python that the account of the jobs may run."""
    path = shutil.which("python3", path="/usr/bin:/usr/local/bin:/bin")
    assert path is not None, "there is no python3 in the system's directories"
    return path
