"""The command line, `python -m tests.security`: testssl against a daemon of its own."""

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from tests.e2e.daemon import Daemon, Place
from tests.e2e.pki import generate
from tests.security.testssl import ScanError, judge, scan


def main() -> int:
    """Scan once, print what was found, and return whether something is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.security", description=__doc__
    )
    parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and so clear up
    place = Place()

    try:
        with tempfile.TemporaryDirectory(prefix="teleworker-security-") as directory:
            certs = generate(Path(directory) / "certs", "alice")

            with Daemon(place, certs) as daemon:
                findings = scan(daemon.address, directory=Path(directory))
    except ScanError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    finally:
        place.remove()

    wrong = list(judge(findings))
    sys.stdout.writelines(f"{finding}\n" for finding in findings)
    sys.stdout.writelines(f"wrong: {line}\n" for line in wrong)
    sys.stdout.write(f"{len(findings)} findings, {len(wrong)} of them wrong\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
