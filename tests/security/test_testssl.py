"""What testssl found is judged as it should be."""

import pytest

from tests.security.testssl import EXPECTED, Finding, judge


GOOD = [
    Finding(name, "OK", f"{begin} as it should") for name, begin in EXPECTED.items()
]


def replaced(finding: Finding) -> list[Finding]:
    """Return what is good, with *finding* in the place of its own."""
    return [*(each for each in GOOD if each.id != finding.id), finding]


def test_good_port_passes() -> None:
    """Nothing is wrong where all is as it should be, and what is meant to be so."""
    meant = Finding("cert_chain_of_trust", "CRITICAL", "failed")

    assert list(judge([*GOOD, meant])) == []


@pytest.mark.parametrize(
    "finding",
    [
        Finding("TLS1_2", "OK", "offered"),
        Finding("TLS1_3", "INFO", "not offered"),
        Finding("cipherlist_NULL", "INFO", "offered"),
        Finding("sessionresumption_ticket", "INFO", "supported"),
        Finding("BEAST", "LOW", "VULNERABLE"),
        Finding("ROBOT", "WARN", "test failed"),
        Finding("heartbleed", "CRITICAL", "VULNERABLE"),
        Finding("DH_groups", "OK", "ffdhe8192"),
        Finding("cert_expirationStatus", "HIGH", "expires soon"),
    ],
    ids=lambda finding: str(finding.id),
)
def test_bad_port_does_not(finding: Finding) -> None:
    """One thing that is wrong is named, and nothing else."""
    (line,) = judge(replaced(finding))

    assert line.startswith(str(finding))


def test_nothing_found_is_wrong() -> None:
    """A scan that found nobody is no good news."""
    assert [*judge([])] == [f"{name}: testssl did not look" for name in EXPECTED]
