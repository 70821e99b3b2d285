"""What names a job is looked up, and never becomes a path."""

import pytest

from tests.e2e.commandline import Twctl


REFERENCES = [
    "../../../../etc/passwd",
    "/etc/passwd",
    "..",
    "./spec",
    "*",
    "%2e%2e%2f",
    "a\nb",
    "é" * 64,
]


@pytest.mark.parametrize("ref", REFERENCES)
def test_no_path_is_a_job(alice: Twctl, ref: str) -> None:
    """A reference that looks like a path is one of a job that does not exist."""
    done = alice("status", "--", ref)

    assert "there is no job" in done.error


@pytest.mark.parametrize("verb", ["tail", "kill", "rm"])
def test_no_path_is_acted_upon(alice: Twctl, verb: str) -> None:
    """Neither is anything read there, nor removed."""
    done = alice(verb, "--", REFERENCES[0])

    assert "there is no job" in done.error
