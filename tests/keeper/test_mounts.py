"""What a private job may not write, by the mount table of its machine."""

from typing import Final

from teleworkerd.config import Config
from teleworkerd.keeper.isolation import namespaces_of
from teleworkerd.keeper.mounts import read_mounts, read_only
from teleworkerd.settings import DaemonConfig, Isolation, JobsConfig


# id, parent, device, root, point, options, optional fields, -, kind, source, options
TABLE: Final = rb"""
22 27 0:21 / /proc rw,relatime shared:5 - proc proc rw
23 27 0:22 / /sys rw,nosuid,nodev,noexec shared:6 - sysfs sysfs rw
24 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw
25 24 0:29 / /sys/fs/cgroup/cpu rw,nosuid - cgroup cgroup rw,cpu
26 24 0:30 / /sys/fs/cgroup rw - tmpfs tmpfs rw
27 1 254:0 / / rw - ext4 /dev/vda rw
28 26 0:31 / /sys/fs/cgroup/memory rw,noexec - cgroup cgroup rw,memory
29 27 0:32 / /srv/my\040groups rw - cgroup2 cgroup2 rw
30 27 0:33 / /system rw - tmpfs tmpfs rw
31 22 0:34 / /proc/sys/fs/binfmt_misc rw - autofs systemd-1 rw
32 28 0:31 /a /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
""".strip()


def test_mounts_that_are_made_read_only() -> None:
    """Of the mount table count those that can be seen; the flags of each are kept."""
    mounts = read_mounts(TABLE)
    found = {mounted.point: mounted.flags for mounted in mounts}

    assert found == {
        b"/proc": 0,
        b"/sys": 2 | 4 | 8,
        b"/sys/fs/cgroup": 0,
        b"/sys/fs/cgroup/memory": 0,
        b"/srv/my groups": 0,
        b"/proc/sys/fs/binfmt_misc": 0,
    }


def test_root_that_the_kernel_unpacked() -> None:
    """A root that is mounted on itself hides nothing of what is mounted in it."""
    table = rb"""
1 1 0:2 / / rw - rootfs rootfs rw
2 1 0:22 / /sys rw - sysfs sysfs rw
3 2 0:29 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
""".strip()

    points = {mounted.point for mounted in read_mounts(table)}

    assert points == {b"/sys", b"/sys/fs/cgroup"}


def test_mounts_that_are_not_touched() -> None:
    """/proc itself stays writable, and what is mounted on demand is not asked for."""
    steps = read_only(read_mounts(TABLE), own_processes=False)
    remounts = [step for step in steps if getattr(step, "source", None) is None]
    targets = {getattr(step, "target", b"") for step in remounts}

    assert not targets & {b"/proc", b"/proc/sys/fs/binfmt_misc"}
    assert {b"/sys", b"/srv/my groups", b"/proc/sys"} <= targets


def test_configuration_of_the_daemon_is_covered() -> None:
    """The certificates' directory is covered as well as the state's."""
    config = Config(
        DaemonConfig(state_dir="/var/lib", certs="/etc/ssl"),
        JobsConfig(isolation=Isolation.PRIVATE),
    )
    own = namespaces_of(config, 1)

    assert own is not None
    targets = [getattr(step, "target", b"") for step in own.steps]
    assert {b"/var/lib", b"/etc/ssl"} <= set(targets)
