"""What a caller writes as a command, made into the spec that goes to the server."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from teleworkerd.protocol.errors import InvalidRequest
from teleworkerd.protocol.spec import JobSpec, Limits, TerminalSize
from teleworkerd.protocol.types import OnFull


Argument = str | bytes | os.PathLike[str] | os.PathLike[bytes]

_NUMBER: Final = (int, float)
_SWITCH: Final = ((bool,), "True or False")

# What each may be, and how that is called.
_KINDS: Final[Mapping[str, tuple[tuple[type, ...], str]]] = {
    "mem": ((int,), "a whole number of megabytes"),
    "cpu": ((int,), "a whole number of percent"),
    "io": ((int,), "a whole number of percent"),
    "cpus": (_NUMBER, "a number of processors"),
    "pids": ((int,), "a whole number of processes"),
    "strict_limits": _SWITCH,
    "name": ((str,), "text"),
    "timeout": (_NUMBER, "a number of seconds"),
    "merge": _SWITCH,
    "output_limit": ((int,), "a whole number of bytes"),
    "user": ((str,), "text"),
    "stdin": _SWITCH,
    "tty": ((TerminalSize,), "a TerminalSize"),
    "wait_all": _SWITCH,
}


def build_spec(  # noqa: PLR0913 - one parameter for each thing a job can be given
    argv: Sequence[Argument],
    *,
    mem: int | None = None,
    cpu: int | None = None,
    io: int | None = None,
    cpus: float | None = None,
    pids: int | None = None,
    strict_limits: bool = False,
    env: Mapping[str, str] | Mapping[bytes, bytes] | None = None,
    workdir: Argument | None = None,
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
    timeout: float | None = None,
    merge: bool = False,
    output_limit: int | None = None,
    on_full: OnFull | str | None = None,
    user: str | None = None,
    stdin: bool = False,
    tty: TerminalSize | None = None,
    wait_all: bool = False,
) -> JobSpec:
    """Return the spec; text becomes bytes as the file system has it.

    Raises `InvalidRequest` for what no server would take, and `TypeError`, which names
    it, for an argument of another type, as for a command that is one string: nothing
    here splits it, for there is no shell.
    """
    options: dict[str, Any] = {
        "strict_limits": strict_limits,
        "name": name,
        "timeout": timeout,
        "merge": merge,
        "output_limit": output_limit,
        "user": user,
        "stdin": stdin,
        "tty": tty,
        "wait_all": wait_all,
    }
    limits: dict[str, Any] = {
        "mem": mem,
        "cpu": cpu,
        "io": io,
        "cpus": cpus,
        "pids": pids,
    }

    for key, value in (options | limits).items():
        kinds, called = _KINDS[key]

        # A bool is an int for Python, and for nobody else.
        if value is not None and type(value) not in kinds:
            raise _wrong(key, called, value)

    if output_limit is not None and output_limit < 0:
        raise InvalidRequest(
            f"output_limit {output_limit} is out of range; it must be 0 or more"
        )

    return JobSpec(
        command=_command(argv),
        env=_variables(env or {}),
        workdir=None if workdir is None else _encode("workdir", workdir),
        limits=Limits(**limits),
        labels=_labels(labels or {}),
        on_full=None if on_full is None else OnFull(on_full),
        **options,
    )


def _command(argv: Sequence[Argument]) -> tuple[bytes, ...]:
    if isinstance(argv, str | bytes | os.PathLike):
        raise TypeError("the command is one string; give a list of its arguments")

    return tuple(_encode(f"argument {n}", each) for n, each in enumerate(argv))


def _variables(env: Mapping[str, str] | Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    return {
        _encode("a name in env", name): _encode(f"env[{name!r}]", value)
        for name, value in _pairs("env", env)
    }


def _labels(labels: Mapping[str, str]) -> dict[str, str]:
    for key, value in _pairs("labels", labels):
        for name, text in (("a key of labels", key), (f"labels[{key!r}]", value)):
            if type(text) is not str:
                raise _wrong(name, "text", text)

    return dict(labels)


def _pairs(name: str, mapping: Any) -> Iterable[tuple[Any, Any]]:
    if not isinstance(mapping, Mapping):
        raise _wrong(name, "a mapping", mapping)

    return mapping.items()


def _encode(name: str, value: Argument) -> bytes:
    try:
        return os.fsencode(value)
    except TypeError:
        raise _wrong(name, "text, bytes or a path", value) from None


def _wrong(name: str, called: str, value: object) -> TypeError:
    return TypeError(f"{name} is {called}, not {value!r:.80}")
