"""`python -m tests.vm`: the tests marked v2, on a kernel that has version 2 alone."""

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.vm.error import VmError
from tests.vm.image import DRIVERS, plan, write_image
from tests.vm.kernel import fetch_kernel
from tests.vm.machine import (
    DISK_NAME,
    PROGRAM,
    Accelerator,
    choose_accelerator,
    run,
)
from tests.vm.outcome import Outcome, check, read_outcome


CACHE: Final = Path.home() / ".cache" / "teleworker"
WITHIN: Final = 900.0  # seconds
LEAST: Final = 20  # tests; with fewer something was not found
# Where those marked v2 are: to look for them elsewhere would take a minute there.
TESTS: Final = (
    *("tests/cgroups/test_host.py", "tests/cgroups/test_io_weight.py"),
    *("tests/keeper/test_ends_of_limits.py", "tests/keeper/test_confinement.py"),
    "tests/e2e/test_limits_hold.py",
)

# How much longer things may take there than the tests allow here.
PATIENCE: Final[dict[Accelerator, int]] = {"kvm": 1, "tcg": 5}


def main() -> int:
    """Run the tests in a machine of their own; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.vm", description=__doc__)
    parser.add_argument("--within", type=float, default=WITHIN, help="seconds")
    parser.add_argument("--least", type=int, help="tests that must run")
    options, chosen = parser.parse_known_args()
    least = options.least or (1 if chosen else LEAST)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and so clear up

    try:
        outcome = run_in_machine(chosen, within=options.within)

        if outcome.status == 0:
            check(outcome, least=least)
    except VmError as error:
        sys.stderr.write(f"test-v2: {error}\n")
        return 2

    return outcome.status


def run_in_machine(chosen: list[str], *, within: float) -> Outcome:
    """Run pytest with the arguments *chosen*; raises `VmError`."""
    if shutil.which(PROGRAM) is None:
        raise VmError(f"{PROGRAM} is missing: install qemu-system-x86")

    kernel = fetch_kernel(CACHE)
    accelerator = choose_accelerator(kernel)
    sys.stdout.write(f"test-v2: {kernel.name}, by {accelerator}\n")
    sys.stdout.flush()
    modules = kernel.modules(DRIVERS)
    patience = PATIENCE[accelerator]
    what = plan(
        [
            *("-v", "--color=no", "-p", "no:cacheprovider", "--durations=10"),
            *("-m", "v2", "-o", f"timeout={60 * patience}", *(chosen or TESTS)),
        ],
        {
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "TELEWORKER_TEST_DISK": DISK_NAME,
            "TELEWORKER_TEST_PATIENCE": str(patience),
        },
        modules,
    )

    with tempfile.TemporaryDirectory(prefix="teleworker-vm-") as scratch:
        image = Path(scratch, "image")

        with image.open("wb") as file:
            write_image(file, what, modules=modules)

        said = run(kernel, image, accelerator=accelerator, within=within)

    return read_outcome(said)


if __name__ == "__main__":
    sys.exit(main())
