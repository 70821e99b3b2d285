"""What `teleworkerd --check` says of limits: which can be had here; and how."""

import os
from pathlib import Path
from typing import Final

from teleworkerd.ceilings import named_ceilings, named_defaults
from teleworkerd.cgroups.base import CgroupDriver, Limit
from teleworkerd.cgroups.detect import detect
from teleworkerd.cgroups.disks import NO_WEIGHTS
from teleworkerd.config import Config


_SWAP: Final = Path("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
_BFQ: Final = (
    "; 'modprobe bfq' and 'echo bfq > /sys/block/DISK/queue/scheduler' give a disk one"
)
_NOT_ROOT: Final = (
    "; start the daemon as root, or have a part of the hierarchy delegated to it"
    " (Delegate=yes)"
)
_NOT_DELEGATED: Final = (
    "; the unit needs Delegate=yes, and the group above has to enable the controller"
)
_NOT_THERE: Final = (
    "; the kernel's command line may disable it (cgroup_disable=, cgroup_no_v1=), or"
    " nobody has mounted it"
)
_SWAPS: Final = (
    "; but a job over its limit goes on in swap: the kernel needs swapaccount=1, or the"
    " machine no swap"
)


def describe_driver(config: Config) -> str:
    """Return how limits are applied here, and what the configuration says of them."""
    driver = detect()
    found = [
        f"version {driver.name[1:]}" if driver.reason is None else driver.name,
        f"trees by {driver.tracking}",
    ]

    for what, values in (
        ("defaults", named_defaults(config.limits)),
        ("ceilings", named_ceilings(config.limits)),
    ):
        if values:
            shown = ", ".join(f"{name} {value:.10g}" for name, value in values.items())
            found.append(f"{what}: {shown}")

    return "; ".join(found)


def describe_limits() -> dict[Limit, tuple[str, str]]:
    """Return of each limit whether it can be applied here, and what to do if not.

    None of this is a reason not to start: jobs without limits run all the same.
    """
    driver = detect()
    return {
        limit: _without_swap(driver) if limit == "mem" and not reason else _told(reason)
        for limit, reason in driver.supports.items()
    }


def _told(reason: str | None) -> tuple[str, str]:
    return ("yes", "") if reason is None else (reason, _remedy(reason))


def _remedy(reason: str) -> str:
    if reason == NO_WEIGHTS:
        return _BFQ

    if os.geteuid() != 0:
        return _NOT_ROOT

    return _NOT_DELEGATED if "not delegated" in reason else _NOT_THERE


def _without_swap(driver: CgroupDriver) -> tuple[str, str]:
    is_counted = driver.name != "v1" or _SWAP.exists()
    return "yes", "" if is_counted else _SWAPS
