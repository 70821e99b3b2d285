"""The command line, `python -m bench`: one run of everything, and its page."""

import argparse
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bench.daemon import make_certificates
from bench.machine import LoadWatch, describe, touch_memory
from bench.measures import fanout, latency, launches, memory, slow, start, stream
from bench.openssh import OpenSsh, open_ssh, version
from bench.plan import FULL, MIB, QUICK, Plan
from bench.processes import ROOT, time_of, wait_until_quiet
from bench.report import Measured, render
from bench.section import Section
from bench.series import Missing
from bench.setting import Setting
from teleworkerd import __version__


log = logging.getLogger("bench")

RESULTS: Final = Path(__file__).with_name("results.md")

# The most sensitive to what the others leave behind come first.
MEASURES: Final[tuple[Callable[[Setting], Section], ...]] = (
    latency.measure,
    start.measure,
    launches.measure,
    stream.measure_zeros,
    stream.measure_lines,
    fanout.measure,
    slow.measure,
    memory.measure,
)


def main() -> None:
    """Measure, and write the page."""
    options = _parse()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and so end the others
    plan = QUICK if options.quick else FULL

    with tempfile.TemporaryDirectory(
        prefix="teleworker-bench-", dir=options.state_dir
    ) as directory:
        page = _run(plan, Path(directory))

    options.output.write_text(page)
    log.info("written: %s", options.output)


def _run(plan: Plan, base: Path) -> str:
    base.chmod(0o755)  # neither the server nor the jobs run as we do
    begin = time.monotonic()
    log.info("touching memory")
    touched = touch_memory(plan.touched)

    with ExitStack() as exits:
        ssh = open_ssh()

        if isinstance(ssh, OpenSsh):
            exits.enter_context(ssh)

        setting = Setting(plan, base, make_certificates(base / "certs"), ssh)
        _warm_up(setting)
        measured = [_measure(measure, setting) for measure in MEASURES]

    seconds = time.monotonic() - begin
    return render(
        measured,
        facts=_facts(base, ssh),
        remarks=_remarks(plan, touched, ssh, seconds=seconds),
    )


def _measure(measure: Callable[[Setting], Section], setting: Setting) -> Measured:
    wait_until_quiet()
    log.info("%s", measure.__module__)
    watch = LoadWatch()
    section = measure(setting)
    return Measured(section, watch.look())


def _warm_up(setting: Setting) -> None:
    with setting.daemon() as daemon:
        time_of(daemon.twctl("run", "-f", "--", "true"))


def _facts(base: Path, ssh: OpenSsh | Missing) -> dict[str, str]:
    peer = ssh.why if isinstance(ssh, Missing) else version()
    account = "root" if os.geteuid() == 0 else "not root"
    return {
        "TeleWorker": f"{__version__}, run as {account}",
        "OpenSSH": peer,
        **describe(base),
    }


def _remarks(
    plan: Plan, touched: int, ssh: OpenSsh | Missing, *, seconds: float
) -> list[str]:
    day = datetime.now(UTC).date()
    remarks = [
        f"{day}, in {seconds:.0f} s; all of it in one run.",
        (
            f"Before, {touched // MIB} MiB of memory were touched and freed: in a"
            " virtual machine a page is slow at its first use, for whoever comes"
            " first."
        ),
    ]

    if isinstance(ssh, Missing):
        remarks.append(f"**OpenSSH is not in these results.** {ssh.why}")

    if plan is QUICK:
        remarks.append("**A quick run (`--quick`): the numbers mean nothing.**")

    return remarks


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure TeleWorker beside OpenSSH."
    )
    parser.add_argument(
        "--quick", action="store_true", help="try everything, measure nothing well"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=RESULTS,
        metavar="FILE",
        help=f"the page (default: {RESULTS.relative_to(ROOT)})",
    )
    parser.add_argument(
        "--state-dir",
        type=Path,
        metavar="DIR",
        help=(
            "where the daemons keep their state, in a directory of the run's own"
            " (default: $TMPDIR); all accounts must be able to enter it"
        ),
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
