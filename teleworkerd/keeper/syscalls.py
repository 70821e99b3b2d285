"""System calls of Linux that Python does not have; each raises `OSError`."""

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple


PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_NO_NEW_PRIVS: Final = 38
PR_SET_SECCOMP: Final = 22
PR_CAPBSET_READ: Final = 23
PR_CAPBSET_DROP: Final = 24

_SECCOMP_MODE_FILTER: Final = 2
_HEADER: Final = struct.pack("=Ii", 0x2008_0522, 0)  # a version, and ourselves
# Effective, permitted and inheritable: the low halves, then the high ones.
_SETS: Final = struct.Struct("=6I")
_CREATE_RULESET: Final = 444  # Landlock's numbers are those of every machine
_RESTRICT_SELF: Final = 446
_RULESET_VERSION: Final = 1
_RULESET_BYTES: Final = 24
_INSTRUCTION_BYTES: Final = 8
_KEYCTL: Final = {"x86_64": 250}.get(os.uname().machine, 219)  # others have one table
_JOIN_SESSION_KEYRING: Final = 1
_WAITID: Final = {"x86_64": 247, "ppc64le": 272, "s390x": 281}.get(
    os.uname().machine, 95
)
_WNOWAIT: Final = 0x0100_0000
_SIGINFO_BYTES: Final = 128
_RUSAGE: Final = struct.Struct("@18l")

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
# Looked up once: after each fork it would cost again.
_PRCTL: Final = _LIBC.prctl
_PRCTL.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
_MOUNT: Final = _LIBC.mount
_MOUNT.argtypes = (*[ctypes.c_char_p] * 3, ctypes.c_ulong, ctypes.c_char_p)
_SYSCALL: Final = _LIBC.syscall
_SYSCALL.argtypes = (ctypes.c_long, ctypes.c_void_p, *[ctypes.c_ulong] * 2)
_SYSCALL.restype = ctypes.c_long
_WAIT: Final = _LIBC["syscall"]
_WAIT.argtypes = (
    *[ctypes.c_long] * 3,
    ctypes.c_char_p,
    ctypes.c_long,
    ctypes.c_char_p,
)
_WAIT.restype = ctypes.c_long
_CAPSET: Final = _LIBC.capset
_CAPSET.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
_UNSHARE: Final = _LIBC.unshare
_UNSHARE.argtypes = (ctypes.c_int,)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Have an `OSError` of the block name *what* could not be done."""
    try:
        yield
    except OSError as error:
        error.filename = what
        raise


def prctl(option: int, value: int) -> int:
    """Call prctl(2)."""
    return _checked(_PRCTL(option, value, 0, 0, 0))


def unshare(flags: int) -> None:
    """Leave the namespaces that *flags* say."""
    _checked(_UNSHARE(flags))


def setns(fd: int, kind: int) -> None:
    """Enter the namespace of *fd*; one of PIDs is for children yet to come."""
    _checked(_LIBC.setns(fd, kind))


def mount(
    source: bytes | None,
    target: bytes,
    kind: bytes | None,
    flags: int,
    options: bytes | None,
) -> None:
    """Call mount(2)."""
    _checked(_MOUNT(source, target, kind, flags, options))


def permitted_capabilities() -> int:
    """Return the permitted set of this process, one bit for each."""
    sets = ctypes.create_string_buffer(_SETS.size)
    _checked(_LIBC.capget(_HEADER, sets))
    _, low, _, _, high, _ = _SETS.unpack(sets.raw)
    return int(low | high << 32)


def capability_sets(permitted: int) -> bytes:
    """Return what `set_capabilities` takes to leave a process these and no others."""
    low, high = permitted & 0xFFFF_FFFF, permitted >> 32
    return _SETS.pack(low, low, 0, high, high, 0)


def set_capabilities(sets: bytes) -> None:
    """Have those *sets*; what is not inheritable is not ambient either."""
    _checked(_CAPSET(_HEADER, sets))


def filter_calls(program: bytes) -> None:
    """Have a seccomp *program* decide about system calls from now on."""
    wanted = _Program(len(program) // _INSTRUCTION_BYTES, program)
    _checked(
        _PRCTL(PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(wanted), 0, 0)
    )


def landlock_version() -> int:
    """Return what this kernel knows of Landlock; 0 if nothing."""
    return max(0, int(_SYSCALL(_CREATE_RULESET, None, 0, _RULESET_VERSION)))


def scope(scopes: int) -> None:
    """Be in a Landlock domain that reaches out in none of *scopes*, nor by ptrace."""
    # What is handled of files and of networks, which is nothing; then the scopes.
    ruleset = (ctypes.c_uint64 * 3)(0, 0, scopes)
    made = _SYSCALL(_CREATE_RULESET, ctypes.addressof(ruleset), _RULESET_BYTES, 0)
    fd = _checked(made)

    try:
        _checked(_SYSCALL(_RESTRICT_SELF, fd, 0, 0))
    finally:
        os.close(fd)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

    return result


class Rusage(NamedTuple):
    """What a process that has exited used, with the children that it waited for."""

    cpu_seconds: float
    max_rss: int  # bytes, of the largest of them


def rusage_of(pid: int) -> Rusage | None:
    """Return what the child *pid* used, without reaping it; None while it runs."""
    info = ctypes.create_string_buffer(_SIGINFO_BYTES)
    used = ctypes.create_string_buffer(_RUSAGE.size)
    options = os.WEXITED | os.WNOHANG | _WNOWAIT
    _checked(_WAIT(_WAITID, os.P_PID, pid, info, options, used))

    if not any(info.raw):
        return None

    seconds, micros, more_seconds, more_micros, kibibytes, *_ = _RUSAGE.unpack(used.raw)
    cpu = seconds + more_seconds + (micros + more_micros) / 1e6
    return Rusage(cpu, kibibytes << 10)


def own_session_keyring() -> None:
    """Have a session keyring of our own, where the kernel has keyrings."""
    _SYSCALL(_KEYCTL, _JOIN_SESSION_KEYRING, 0, 0)
