"""The system calls by which a job of root could leave its limits; it has no others.

User namespaces are what they have in common: whoever makes one has in it all that was
taken from him, and may mount his control groups there, whose files are root's.
"""

import errno
import struct
from collections.abc import Mapping
from functools import cache
from typing import Final, NamedTuple

from teleworkerd.keeper.namespaces import CLONE_NEWUSER


class _Calls(NamedTuple):
    """Their numbers by one calling convention, *convention* in the kernel's audit."""

    convention: int
    clone: int
    clone3: int
    setns: int
    unshare: int


_I386: Final = _Calls(0x4000_0003, clone=120, clone3=435, setns=346, unshare=310)
_X86_64: Final = _Calls(0xC000_003E, clone=56, clone3=435, setns=308, unshare=272)
_ARM: Final = _Calls(0x4000_0028, clone=120, clone3=435, setns=375, unshare=337)
_ARM64: Final = _Calls(0xC000_00B7, clone=220, clone3=435, setns=268, unshare=97)
_RISCV64: Final = _Calls(0xC000_00F3, clone=220, clone3=435, setns=268, unshare=97)

# A machine runs programs by each of these conventions.
_MACHINES: Final[Mapping[str, tuple[_Calls, ...]]] = {
    "x86_64": (_X86_64, _I386),
    "aarch64": (_ARM64, _ARM),
    "riscv64": (_RISCV64,),
}

_X32: Final = 0x4000_0000  # and above: a convention of its own within x86_64
_NUMBER: Final = 0  # offsets in struct seccomp_data
_CONVENTION: Final = 4
_FLAGS: Final = 16  # the low half of the first argument

_LOAD: Final = 0x20  # classic BPF, as in linux/bpf_common.h
_JUMP_IF_EQUAL: Final = 0x15
_JUMP_IF_AT_LEAST: Final = 0x35
_JUMP_IF_SET: Final = 0x45
_RETURN: Final = 0x06

_ALLOW: Final = 0x7FFF_0000
_ERRNO: Final = 0x0005_0000


@cache
def no_user_namespaces(machine: str) -> bytes | None:
    """Return a filter that refuses them on *machine*, None if we do not know it.

    `clone3`, whose arguments a filter cannot see, is told to be missing: the C
    library then uses `clone`.
    """
    conventions = _MACHINES.get(machine)

    if conventions is None:
        return None

    return b"".join(
        (*map(_decide, conventions), _instruction(_RETURN, _ERRNO | errno.ENOSYS))
    )


def _decide(calls: _Calls) -> bytes:
    """Return the part for one convention, which goes on behind it for others."""
    look, missing, refuse = 9, 12, 13  # where these begin

    def jump(code: int, value: int, *, at: int, to: int) -> bytes:
        return _instruction(code, value, then=to - at - 1)

    return b"".join(
        (
            _instruction(_LOAD, _CONVENTION),
            _instruction(_JUMP_IF_EQUAL, calls.convention, otherwise=refuse - 1),
            _instruction(_LOAD, _NUMBER),
            jump(_JUMP_IF_AT_LEAST, _X32, at=3, to=missing),
            jump(_JUMP_IF_EQUAL, calls.clone, at=4, to=look),
            jump(_JUMP_IF_EQUAL, calls.unshare, at=5, to=look),
            jump(_JUMP_IF_EQUAL, calls.setns, at=6, to=refuse),
            jump(_JUMP_IF_EQUAL, calls.clone3, at=7, to=missing),
            _instruction(_RETURN, _ALLOW),
            _instruction(_LOAD, _FLAGS),
            jump(_JUMP_IF_SET, CLONE_NEWUSER, at=10, to=refuse),
            _instruction(_RETURN, _ALLOW),
            _instruction(_RETURN, _ERRNO | errno.ENOSYS),
            _instruction(_RETURN, _ERRNO | errno.EPERM),
        )
    )


def _instruction(code: int, value: int, *, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("=HBBI", code, then, otherwise, value)
