"""The command line, `python -m tests.chaos`: a run as long as one likes."""

import argparse
import random
import signal
import sys
import tempfile
from pathlib import Path

from tests.chaos.run import run
from tests.e2e.pki import generate


def main() -> int:
    """Run once, print the summary, and return whether something was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S")
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    parser.add_argument("--log", type=Path, help="where to keep the daemon's log")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and so clear up
    sys.stdout.write(f"seed {options.seed}\n")

    with tempfile.TemporaryDirectory(prefix="teleworker-chaos-") as directory:
        certs = generate(Path(directory) / "certs", "alice", "bob")
        report = run(options.seed, options.seconds, certs)

    if options.log is not None:
        options.log.write_text(report.log)

    if report.violations:
        sys.stdout.write(f"{report.end_of_log}\n")

    sys.stdout.write(f"{report}\n")
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
