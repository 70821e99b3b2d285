"""The units in docs/systemd, as systemd reads them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from teleworkerd.config import Config
from teleworkerd.daemon.servers import GOODBYE
from tests.e2e.pki import ROOT


UNITS = ROOT / "docs" / "systemd"
SERVICE = UNITS / "teleworker.service"
INSTALLED = "/opt/teleworker/bin/teleworkerd"


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units with the path of a `teleworkerd` that is there."""
    program = Path(sys.executable).with_name("teleworkerd")

    for unit in UNITS.glob("teleworker.*"):
        text = unit.read_text().replace(INSTALLED, str(program))
        (tmp_path / unit.name).write_text(text)

    return tmp_path


def settings() -> dict[str, str]:
    """Return what the service is set to."""
    lines = SERVICE.read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and line[0] != "#")


def verify(*units: Path) -> tuple[int, str]:
    """Return what `systemd-analyze verify` says of *units*."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze: the package systemd")

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


def test_units(installed: Path) -> None:
    """systemd has nothing to say against them."""
    units = (installed / "teleworker.service", installed / "teleworker.socket")

    assert verify(*units) == (0, "")


def test_leave(installed: Path) -> None:
    """Nor with what a daemon needs that leaves its jobs running."""
    directory = installed / "teleworker.service.d"
    directory.mkdir()
    shutil.copy(UNITS / "leave.conf", directory)

    assert verify(installed / "teleworker.service") == (0, "")


def test_mistake(installed: Path) -> None:
    """A setting that there is not would be noticed."""
    service = installed / "teleworker.service"
    service.write_text(service.read_text().replace("KillMode=", "KilMode="))

    status, output = verify(service)

    assert "KilMode" in output, status


def test_time_to_end() -> None:
    """Jobs have their grace, and the server its goodbye, before systemd kills."""
    config = Config()

    assert int(settings()["TimeoutStopSec"]) > config.jobs.shutdown_grace + GOODBYE


def test_keeper_is_not_killed() -> None:
    """systemd does not end a keeper that is slow: no job outlives it."""
    assert "WatchdogSec" not in settings()


def test_state_directory() -> None:
    """systemd makes the state directory that is the default."""
    assert Config().state_dir == Path("/var/lib") / settings()["StateDirectory"]
