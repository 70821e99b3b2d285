"""Whatever happens, nothing is lost, doubled, mixed up or told to the wrong owner."""

from typing import Final

import pytest

from tests.chaos.run import run
from tests.e2e.pki import Certificates


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("root")]

SEED: Final = 40  # nearly all kinds of faults in a minute; it has found something

# More seeds that have found something, and the seconds by which they had.
FOUND: Final = ((1, 12.0),)


@pytest.mark.timeout(300)
def test_a_minute_of_faults(certs: Certificates) -> None:
    """Ten clients see every job to its right end, while all goes wrong that can."""
    report = run(SEED, 60, certs)

    assert not report.violations, f"{report.end_of_log}\n{report}"


@pytest.mark.timeout(200)
@pytest.mark.parametrize(("seed", "seconds"), FOUND)
def test_what_was_found(certs: Certificates, seed: int, seconds: float) -> None:
    """What was found once does not come back."""
    report = run(seed, seconds, certs)

    assert not report.violations, f"{report.end_of_log}\n{report}"
