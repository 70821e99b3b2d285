"""The command line, `python -m tests.fuzz`: fuzzes for as long as one likes."""

import argparse
import importlib.util
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.fuzz import corpus


ROOT: Final = Path(__file__).parents[2]

# An input must not take longer: the largest takes milliseconds.
_TIMEOUT: Final = 10  # seconds
_GRACE: Final = 120.0  # seconds to begin and end in, and for the last input

_STATISTIC: Final = re.compile(r"^stat::(\w+):\s*(\d+)", re.MULTILINE)
_COVERAGE: Final = re.compile(r"cov: (\d+)")


def main() -> int:
    """Fuzz once; return 0 only if it ran to its end and nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, metavar="S")
    parser.add_argument("--seed", type=int, default=random.randrange(1, 1 << 31))
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="a corpus that grows from run to run"
    )
    options = parser.parse_args()

    if importlib.util.find_spec("atheris") is None:
        sys.stderr.write(
            "nothing was fuzzed: atheris is not installed. It comes with"
            " pip install -e '.[dev]' where it exists: for CPython up to 3.14 on"
            " x86-64; elsewhere only the tests in tests/fuzz run.\n"
        )
        return 2

    if options.seconds < 1:
        parser.error("--seconds must be 1 or more; without an end it would hide one")

    with tempfile.TemporaryDirectory(prefix="teleworker-fuzz-") as directory:
        seeds = Path(directory)
        count = corpus.write(seeds)
        sys.stdout.write(f"seed {options.seed}, {count} inputs to begin with\n")
        sys.stdout.flush()
        return _fuzz(seeds, options.keep, seconds=options.seconds, seed=options.seed)


def _fuzz(seeds: Path, keep: Path | None, *, seconds: int, seed: int) -> int:
    grown = keep or seeds / "grown"
    grown.mkdir(parents=True, exist_ok=True)
    broken = seeds / "broken-"
    command = (
        *(sys.executable, "-m", "tests.fuzz.engine"),
        *(f"-max_total_time={seconds}", f"-seed={seed}", f"-timeout={_TIMEOUT}"),
        *("-print_final_stats=1", f"-artifact_prefix={broken}"),
        *(str(grown), str(seeds)),
    )
    done = subprocess.run(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        timeout=seconds + _GRACE,
    )
    counts = {name: int(value) for name, value in _STATISTIC.findall(done.stdout)}
    executed = counts.get("number_of_executed_units", 0)

    if done.returncode != 0 or not executed:
        sys.stdout.write(f"{done.stdout}\n")
        _show(sorted(seeds.glob("broken-*")))
        return 1

    covered = _COVERAGE.findall(done.stdout)[-1]
    sys.stdout.write(
        f"{executed} inputs in {seconds} s,"
        f" {counts['average_exec_per_sec']} a second;"
        f" {covered} places in the code reached, nothing wrong\n"
    )
    return 0


def _show(inputs: list[Path]) -> None:
    """Say how to see it again, and where it belongs once it is mended."""
    for path in inputs:
        sys.stdout.write(
            f"again: python -c 'from tests.fuzz.targets import run;"
            f' run(bytes.fromhex("{path.read_bytes().hex()}"))\'\n'
            f"once it is mended, add this input to {corpus.FOUND.relative_to(ROOT)}/\n"
        )


if __name__ == "__main__":
    sys.exit(main())
