"""Room that is kept back: really taken, given up piece by piece, taken again."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from teleworkerd.reserve import RESERVE, Reserve, Room, room_at
from tests.keeper.moving import DISK, fill, no_room, small_disk


pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts disks")

MIB = 1 << 20
GIB = 1 << 30


def free_in(path: Path) -> int:
    """Return how many bytes are free on the disk of *path*."""
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize


def disk_of(size: int, *, free: int, block: int = 4096) -> Any:
    """Return what `statvfs` says of a disk, of which root may use somewhat more."""
    return SimpleNamespace(
        f_frsize=block,
        f_blocks=size // block,
        f_bfree=(free + GIB) // block,
        f_bavail=free // block,
    )


@pytest.fixture
def reserve(tmp_path: Path) -> Reserve:
    """A reserve that is whole."""
    reserve = Reserve(tmp_path / "reserve")
    assert reserve.fill()
    return reserve


def test_has_blocks(reserve: Reserve, tmp_path: Path) -> None:
    """It is really taken from the disk, and nobody else's to read."""
    facts = (tmp_path / "reserve").stat()

    assert facts.st_size == RESERVE <= facts.st_blocks * 512
    assert facts.st_mode & 0o777 == 0o600
    assert reserve.fill()


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_without_fallocate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Where blocks cannot be asked for, zeros are written."""

    def unknown(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", unknown)
    path = tmp_path / "reserve"
    path.write_bytes(b"\0" * 5000)

    assert Reserve(path).fill()
    assert path.stat().st_blocks * 512 >= RESERVE
    assert path.read_bytes() == bytes(RESERVE)


def test_given_up_in_pieces(reserve: Reserve, tmp_path: Path) -> None:
    """Each release frees a piece, until there is nothing left."""
    sizes = []

    while reserve.release():
        sizes.append((tmp_path / "reserve").stat().st_size)

    assert len(sizes) == 64
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 0
    assert not reserve.release()


def test_nothing_to_give_up(tmp_path: Path) -> None:
    """One that was never filled is empty, and may be anything."""
    assert not Reserve(tmp_path / "missing").release()
    assert not Reserve(tmp_path).release()
    assert not Reserve(tmp_path).fill()
    assert not Reserve(tmp_path / "no" / "directory").fill()


def test_spent_while_the_disk_is_full(tmp_path: Path) -> None:
    """What must be written is, on a full disk, as long as there are pieces."""
    with small_disk(tmp_path / "disk") as disk:
        reserve = Reserve(disk / "reserve")
        assert reserve.fill()
        fill(disk / "ballast")
        held = (disk / "reserve").stat().st_size

        reserve.spend(lambda: (disk / "small").write_bytes(b"x"))
        left = (disk / "reserve").stat().st_size
        assert 0 < left < held

        reserve.spend(lambda: (disk / "large").write_bytes(bytes(left)))
        assert (disk / "reserve").stat().st_size < left

        with pytest.raises(OSError, match="No space left"):
            reserve.spend(lambda: (disk / "huge").write_bytes(bytes(DISK)))

        assert not reserve.release()


@pytest.mark.parametrize(
    ("number", "is_spent"),
    [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EIO, False)],
)
def test_spent_for_room_only(
    reserve: Reserve, tmp_path: Path, number: int, *, is_spent: bool
) -> None:
    """It is given up where that helps, and not for any other fault."""

    def fail() -> None:
        raise OSError(number, os.strerror(number))

    with pytest.raises(OSError, match=os.strerror(number)):
        reserve.spend(fail)

    assert ((tmp_path / "reserve").stat().st_size == 0) is is_spent


def test_taken_with_plenty_only(tmp_path: Path) -> None:
    """It is not taken from a disk that has little more; it is once there is room."""
    with small_disk(tmp_path / "disk") as disk:
        reserve = Reserve(disk / "reserve")
        fill(disk / "ballast")
        os.truncate(disk / "ballast", (disk / "ballast").stat().st_size - (128 << 10))

        assert not reserve.fill()
        assert (disk / "reserve").stat().st_size == 0

        (disk / "ballast").unlink()
        assert reserve.fill()


def test_part_of_a_small_disk(tmp_path: Path) -> None:
    """Of a small disk it is a small part."""
    with small_disk(tmp_path / "disk") as disk:
        before = free_in(disk)

        assert Reserve(disk / "reserve").fill()
        assert 0 < before - free_in(disk) <= DISK // 20


def test_half_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full after all keeps nothing of the attempt."""

    def half(file: int, start: int, count: int) -> None:
        os.pwrite(file, bytes(count // 2), start)
        no_room()

    monkeypatch.setattr(os, "posix_fallocate", half)
    path = tmp_path / "reserve"
    path.write_bytes(b"\0" * 4096)

    assert not Reserve(path).fill()
    assert path.stat().st_size == 4096


@pytest.mark.parametrize(
    ("size", "min_free", "floor"),
    [
        (100 * GIB, GIB, GIB),
        (100 * GIB, 50 * GIB, 5 * GIB),
        (10 * GIB, GIB, 512 * MIB),
        (100 * GIB, 0, 0),
    ],
)
def test_floor(tmp_path: Path, size: int, min_free: int, floor: int) -> None:
    """What is to be free is what was said, and of a small disk a part."""
    looked: list[Path] = []

    def statvfs(path: Path) -> Any:
        looked.append(path)
        return disk_of(size, free=3 * MIB)

    assert room_at(tmp_path, min_free, statvfs=statvfs) == Room(3 * MIB, floor)
    assert looked == [tmp_path]


def test_real_disk(tmp_path: Path) -> None:
    """A disk is asked what this account may use."""
    with small_disk(tmp_path / "disk") as disk:
        room = room_at(disk, GIB)

        assert room == Room(free_in(disk), DISK // 20 // 4096 * 4096)
