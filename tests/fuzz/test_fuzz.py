"""What `python -m tests.fuzz` does at length, tried for a moment, without atheris."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import corpus, mutation, targets


INPUTS = corpus.by_target()
ROUNDS = 3  # of changes to one input


def nearly(seed: int) -> bytes:
    """Return one of the inputs of one of the targets, after some changes."""
    rng = random.Random(seed)
    data = rng.choice(rng.choice(INPUTS))

    for _ in range(rng.randint(1, ROUNDS)):
        data = mutation.mutated(data, rng)

    return data


def test_every_target_has_seeds() -> None:
    """Nothing is fuzzed from nothing."""
    assert len(INPUTS) == len(targets.TARGETS)
    assert all(INPUTS)


def test_seeds_pass() -> None:
    """The inputs that fuzzing begins with, and those that once failed, are in order."""
    for inputs in INPUTS:
        for data in inputs:
            targets.run(data)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    """Of bytes without any sense nothing comes but the errors that are documented."""
    targets.run(data)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
@given(st.integers(0, 1 << 32))
def test_changed_messages(seed: int) -> None:
    """Nor does it of what is nearly a message, or nearly a conversation."""
    targets.run(nearly(seed))


def test_the_targets_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that lets another error out is found by the first bad message."""

    def careless(frame: bytes, known: object) -> None:
        raise KeyError(frame)

    monkeypatch.setattr(targets, "decode", careless)

    with pytest.raises(KeyError):
        targets.run(targets.chosen("client-message", b"\x81"))


def test_without_atheris_it_fails(tmp_path: Path) -> None:
    """Where nothing can be fuzzed the command says so, and does not pass."""
    script = (
        "import importlib.util, runpy, sys\n"
        "importlib.util.find_spec = lambda name: None\n"
        "sys.argv = ['tests.fuzz', '--seconds', '1']\n"
        "from tests.fuzz.__main__ import main\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=corpus.FOUND.parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == 2
    assert "nothing was fuzzed: atheris is not installed" in done.stderr
