"""What a caller writes as a command, made into the spec that goes to the server."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from teleworkerd.protocol.errors import InvalidRequest
from teleworkerd.protocol.spec import JobSpec, Limits, TerminalSize
from teleworkerd.protocol.types import OnFull


Argument = str | bytes | os.PathLike[str] | os.PathLike[bytes]


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

    Raises `InvalidRequest` for what no server would take, and `TypeError` for what is
    of a wrong type: also for a command that is one string, as nothing here splits it,
    for there is no shell.
    """
    limits: dict[str, Any] = {
        "mem": mem,
        "cpu": cpu,
        "io": io,
        "cpus": cpus,
        "pids": pids,
    }
    others: dict[str, Any] = {
        "name": name,
        "timeout": timeout,
        "merge": merge,
        "output_limit": output_limit,
        "user": user,
        "strict_limits": strict_limits,
        "stdin": stdin,
        "tty": tty,
        "wait_all": wait_all,
    }
    _check_types({**limits, **others, "env": env, "labels": labels})

    if output_limit is not None and output_limit < 0:
        raise InvalidRequest(
            f"output_limit {output_limit} is out of range; it must be 0 or more"
        )

    return JobSpec(
        command=_command(argv),
        env={
            _encode("a name in env", key): _encode(f"env[{key!r}]", value)
            for key, value in (env or {}).items()
        },
        workdir=None if workdir is None else _encode("workdir", workdir),
        limits=Limits(**limits),
        labels=_labels(labels or {}),
        on_full=None if on_full is None else OnFull(on_full),
        **others,
    )


_WHOLE: Final = (int,)
_NUMBER: Final = (int, float)
_FLAG: Final = ((bool,), "True or False")
_TYPES: Final[Mapping[str, tuple[tuple[type, ...], str]]] = {
    "mem": (_WHOLE, "a whole number of megabytes"),
    "cpu": (_WHOLE, "a whole number of percent"),
    "io": (_WHOLE, "a whole number of percent"),
    "cpus": (_NUMBER, "a number of processors"),
    "pids": (_WHOLE, "a whole number of processes"),
    "timeout": (_NUMBER, "a number of seconds"),
    "output_limit": (_WHOLE, "a whole number of bytes"),
    "name": ((str,), "text"),
    "user": ((str,), "text"),
    "env": ((Mapping,), "a mapping"),
    "labels": ((Mapping,), "a mapping"),
    "tty": ((TerminalSize,), "a TerminalSize"),
    "strict_limits": _FLAG,
    "merge": _FLAG,
    "stdin": _FLAG,
    "wait_all": _FLAG,
}


def _check_types(values: Mapping[str, object]) -> None:
    for name, value in values.items():
        types, what = _TYPES[name]
        # To Python, True is a whole number.
        is_flag = isinstance(value, bool) and bool not in types

        if value is not None and (is_flag or not isinstance(value, types)):
            raise TypeError(f"{name} is {what}, not {value!r:.80}")


def _command(argv: object) -> tuple[bytes, ...]:
    if isinstance(argv, str | bytes):
        raise TypeError("the command is one string; give a list of its arguments")

    if not isinstance(argv, Iterable):
        raise TypeError(f"the command is a list of arguments, not {argv!r:.80}")

    return tuple(
        _encode(f"argument {number}", argument) for number, argument in enumerate(argv)
    )


def _labels(labels: Mapping[Any, Any]) -> dict[str, str]:
    for key, value in labels.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"labels are text, not {key!r:.80}: {value!r:.80}")

    return dict(labels)


def _encode(what: str, value: Argument) -> bytes:
    try:
        return os.fsencode(value)
    except TypeError:
        raise TypeError(f"{what} is text, bytes or a path, not {value!r:.80}") from None
