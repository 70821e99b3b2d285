"""Limits on jobs, and the whole of a job's process tree, by control groups."""

from teleworkerd.cgroups.base import (
    CgroupDriver,
    CgroupError,
    JobCgroup,
    UnsupportedLimit,
)
from teleworkerd.cgroups.detect import detect, open_driver


__all__ = [
    "CgroupDriver",
    "CgroupError",
    "JobCgroup",
    "UnsupportedLimit",
    "detect",
    "open_driver",
]
