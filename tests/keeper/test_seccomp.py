"""The filter of a private job of root, by every calling convention it may use."""

import errno
import struct
from typing import Final

import pytest

from teleworkerd.keeper.namespaces import CLONE_NEWNS, CLONE_NEWUSER
from teleworkerd.keeper.seccomp import no_user_namespaces


ALLOWED: Final = 0x7FFF_0000
EPERM: Final = 0x0005_0000 | errno.EPERM
ENOSYS: Final = 0x0005_0000 | errno.ENOSYS

X86_64: Final = 0xC000_003E
I386: Final = 0x4000_0003
ARM64: Final = 0xC000_00B7
SIGCHLD: Final = 17

CASES: Final = [
    ("x86_64", X86_64, 272, CLONE_NEWUSER, EPERM),
    ("x86_64", X86_64, 272, CLONE_NEWUSER | CLONE_NEWNS, EPERM),
    ("x86_64", X86_64, 272, CLONE_NEWNS, ALLOWED),
    ("x86_64", X86_64, 56, SIGCHLD, ALLOWED),
    ("x86_64", X86_64, 56, SIGCHLD | CLONE_NEWUSER, EPERM),
    ("x86_64", X86_64, 435, 0, ENOSYS),
    ("x86_64", X86_64, 308, 0, EPERM),
    ("x86_64", X86_64, 0, CLONE_NEWUSER, ALLOWED),
    ("x86_64", X86_64, 0x4000_0000 + 272, CLONE_NEWUSER, ENOSYS),
    ("x86_64", I386, 310, CLONE_NEWUSER, EPERM),
    ("x86_64", I386, 120, CLONE_NEWUSER, EPERM),
    ("x86_64", I386, 346, 0, EPERM),
    ("x86_64", I386, 272, CLONE_NEWUSER, ALLOWED),
    ("x86_64", ARM64, 0, 0, ENOSYS),
    ("aarch64", ARM64, 97, CLONE_NEWUSER, EPERM),
    ("aarch64", ARM64, 220, CLONE_NEWUSER, EPERM),
    ("aarch64", ARM64, 268, 0, EPERM),
    ("aarch64", ARM64, 63, 0, ALLOWED),
    ("aarch64", X86_64, 0, 0, ENOSYS),
]


def decide(program: bytes, *, convention: int, number: int, argument: int) -> int:
    """Return what *program* answers to a system call, as the kernel would run it."""
    data = struct.pack("=IIQ6Q", number, convention, 0, argument, *[0] * 5)
    code = list(struct.iter_unpack("=HBBI", program))
    place = value = 0

    while True:
        what, then, otherwise, constant = code[place]
        place += 1

        match what:
            case 0x20:
                (value,) = struct.unpack_from("=I", data, constant)
            case 0x06:
                return int(constant)
            case 0x15:
                place += then if value == constant else otherwise
            case 0x35:
                place += then if value >= constant else otherwise
            case 0x45:
                place += then if value & constant else otherwise
            case _:
                raise AssertionError(what)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[2]}")
def test_answer(case: tuple[str, int, int, int, int]) -> None:
    """User namespaces are refused, whichever way they are asked for; no more is."""
    machine, convention, number, argument, answer = case
    program = no_user_namespaces(machine)
    assert program is not None

    found = decide(program, convention=convention, number=number, argument=argument)

    assert found == answer


def test_machine_that_is_not_known() -> None:
    """Where the numbers of system calls are not known there is no filter."""
    assert no_user_namespaces("vax") is None
