"""What `--check` says of limits that cannot be applied, and what to do about it."""

from collections.abc import Mapping

import pytest

from teleworkerd import check_limits
from teleworkerd.cgroups.base import Limit
from teleworkerd.cgroups.disks import NO_WEIGHTS
from teleworkerd.config import Config
from teleworkerd.settings import LimitsConfig


class Host:
    """A driver that applies what it is said to."""

    reason = None
    tracking = "unified"

    def __init__(self, name: str, **lacks: str) -> None:
        names: tuple[Limit, ...] = ("mem", "cpu", "io", "cpus", "pids")
        self.name = name
        self.supports: Mapping[Limit, str | None] = {n: lacks.get(n) for n in names}


def told(monkeypatch: pytest.MonkeyPatch, host: Host) -> dict[Limit, str]:
    """Return what is said of each limit on *host*."""
    monkeypatch.setattr(check_limits, "detect", lambda: host)
    return {
        limit: "".join(parts) for limit, parts in check_limits.describe_limits().items()
    }


def test_all_can_be_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that can do everything gets no advice."""
    assert set(told(monkeypatch, Host("v2")).values()) == {"yes"}


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        (NO_WEIGHTS, "modprobe bfq"),
        ("controller io is not delegated to /sys/fs/cgroup/x", "Delegate=yes"),
        ("cgroup v1 controller blkio is not mounted", "cgroup_disable="),
    ],
)
def test_advice(monkeypatch: pytest.MonkeyPatch, reason: str, advice: str) -> None:
    """Each reason has its advice, for the limit that cannot be applied alone."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    found = told(monkeypatch, Host("v2", io=reason))

    assert found.pop("io").startswith(f"{reason}; ")
    assert advice in told(monkeypatch, Host("v2", io=reason))["io"]
    assert set(found.values()) == {"yes"}


def test_advice_without_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is not root is told how to get limits all the same."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)

    assert "as root" in told(monkeypatch, Host("none", mem="not root"))["mem"]


def test_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Defaults and ceilings that are set are told with the driver."""
    monkeypatch.setattr(check_limits, "detect", lambda: Host("v1"))
    config = Config(limits=LimitsConfig(pids=100, owner_mem=2048))

    assert check_limits.describe_driver(config) == (
        "version 1; trees by unified; defaults: pids 100; ceilings: owner_mem 2048"
    )
