"""What the server's side takes of memory, before, during and after much output."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Final

from bench.openssh import OpenSsh, open_ssh
from bench.plan import GIB, MIB
from bench.processes import Program, Running, resident, time_of, wait_until_quiet
from bench.section import By, Comparison, Section
from bench.series import MeasurementError, Missing, Values, contest
from bench.setting import Setting


OURS: Final = "TeleWorker"
SSH: Final = "OpenSSH"

INTERVAL: Final = 0.05  # seconds between two looks
BOUND: Final = 128  # MiB above idle


def measure(setting: Setting) -> Section:
    """Measure resident memory around one long output."""
    size = setting.plan.memory
    amount = f"{size // GIB} GiB" if size >= GIB else f"{size // MIB} MiB"
    rise = partial(Comparison, base=f"{OURS}, idle", by=By.DIFFERENCE, at_most=BOUND)
    return Section(
        f"Memory around {amount} to one reader",
        "MiB",
        contest(
            setting.plan.memory_rounds,
            {
                OURS: partial(_by_us, setting),
                SSH: setting.by_ssh(partial(_by_ssh, setting)),
            },
        ),
        [
            rise(f"{OURS}, during"),
            rise(f"{OURS}, after"),
            Comparison(f"{OURS}, during", f"{SSH}, during"),
        ],
        [
            (
                "The resident memory of server and keeper, or of sshd and its session,"
                " added up (what they share counts twice): idle, the most that was"
                f" seen every {INTERVAL * 1000:g} ms during `run -f` of {amount} of"
                " zeros, and after the job has ended."
            ),
            (
                "sshd's sessions are processes that end with their commands; the"
                " server goes on, and keeps the output on disk for whoever comes"
                " later."
            ),
        ],
    )


def _by_us(setting: Setting) -> Values:
    with setting.daemon() as daemon:
        # One call before, so that what is loaded at the first job counts as idle.
        time_of(daemon.twctl("run", "-f", "--", "true"))
        command = ("head", "-c", str(setting.plan.memory), "/dev/zero")
        return _watch(
            daemon.twctl("run", "-f", "--", *command),
            lambda: resident(daemon.pids),
        )


def _by_ssh(setting: Setting, _: OpenSsh) -> Values:
    # A server of its own: the other one has the multiplexed connection as well.
    ssh = open_ssh()

    if isinstance(ssh, Missing):
        raise MeasurementError(ssh.why)

    with ssh:
        command = ("head", "-c", str(setting.plan.memory), "/dev/zero")
        return _watch(ssh.ssh(*command), ssh.resident)


def _watch(program: Program, look: Callable[[], int]) -> Values:
    wait_until_quiet()
    idle = look()
    most = idle
    is_over = threading.Event()

    def watch() -> None:
        nonlocal most

        while not is_over.wait(INTERVAL):
            most = max(most, look())

    watcher = threading.Thread(target=watch)
    watcher.start()

    try:
        with Running(program) as running:
            running.finish()
    finally:
        is_over.set()
        watcher.join()

    wait_until_quiet()
    return {"idle": idle / MIB, "during": most / MIB, "after": look() / MIB}
