"""Points at which a test lets a process die: once, and only where it is asked for."""

import errno
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from teleworkerd.failpoints import VARIABLE
from tests.e2e.daemon import clean_environment
from tests.e2e.pki import ROOT


# Comes by each point that it is given, and says how that went.
PROGRAM: Final = """\
import sys
from teleworkerd.failpoints import failpoint

for name in sys.argv[1:]:
    try:
        failpoint(name)
    except OSError as error:
        print(name, error.errno, error.strerror, flush=True)
    else:
        print(name, flush=True)
"""


def come_by(*names: str, directory: Path | None) -> subprocess.CompletedProcess[str]:
    """Let a process of its own come by the points *names*, one after the other."""
    environment = clean_environment()

    if directory is not None:
        environment[VARIABLE] = str(directory)

    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *names],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
        timeout=20,
    )


def test_nobody_asks() -> None:
    """Without the variable nothing happens."""
    done = come_by("one", "two", directory=None)

    assert (done.returncode, done.stdout, done.stderr) == (0, "one\ntwo\n", "")


def test_not_armed(tmp_path: Path) -> None:
    """Nor does it at a point that is not armed, or in a directory that is not there."""
    (tmp_path / "other").touch()

    for directory in (tmp_path, tmp_path / "missing"):
        done = come_by("one", "two", directory=directory)
        assert (done.returncode, done.stdout) == (0, "one\ntwo\n")

    assert (tmp_path / "other").exists()


def test_death(tmp_path: Path) -> None:
    """At a point with an empty file a process dies at once; the next goes on."""
    (tmp_path / "two").touch()

    first = come_by("one", "two", "three", directory=tmp_path)
    second = come_by("one", "two", "three", directory=tmp_path)

    assert (first.returncode, first.stdout) == (-signal.SIGKILL, "one\n")
    assert (second.returncode, second.stdout) == (0, "one\ntwo\nthree\n")


@pytest.mark.parametrize("name", ["ENOSPC", "EIO", "EMFILE"])
def test_error(tmp_path: Path, name: str) -> None:
    """At one whose file names an error a call fails by it, once."""
    (tmp_path / "one").write_text(f"{name}\n")

    done = come_by("one", "one", directory=tmp_path)

    number = getattr(errno, name)
    first, second = done.stdout.splitlines()
    assert done.returncode == 0
    assert first.startswith(f"one {number} ")
    assert second == "one"


def test_unknown_error(tmp_path: Path) -> None:
    """A name that is none is the test's mistake, and is not passed over."""
    (tmp_path / "one").write_text("ENOSUCH")

    done = come_by("one", directory=tmp_path)

    assert done.returncode == 1
    assert "ENOSUCH" in done.stderr
