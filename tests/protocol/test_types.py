"""A spec is valid or does not exist."""

from dataclasses import replace
from typing import Any

import pytest

from teleworkerd.protocol.errors import InvalidRequest
from teleworkerd.protocol.messages import MAX_GRACE, RunRequest, StopRequest
from teleworkerd.protocol.spec import (
    MAX_ARGUMENTS,
    MAX_COMMAND_BYTES,
    MAX_LABEL_VALUE,
    MAX_LABELS,
    MAX_MEMORY_MB,
    MAX_TIMEOUT,
    MIN_MEMORY_MB,
    JobSpec,
    Limits,
)
from teleworkerd.protocol.types import MAX_ARGUMENT, JobState


SPEC = JobSpec((b"true",))


@pytest.mark.parametrize(
    "changes",
    [
        {"command": (b"x" * MAX_ARGUMENT,)},
        {"command": (b"x",) * MAX_ARGUMENTS},
        {"command": (b"sh", b"", b"\xff\n")},
        {"env": {b"A": b"=", b"\xff": b""}},
        {"workdir": b"/"},
        {"name": "0"},
        {"name": "a" * 64},
        {"labels": {"a/b.c-d_e": ""}},
        {"labels": {"k": "ü" * MAX_LABEL_VALUE}},
        {"labels": {str(n): "" for n in range(MAX_LABELS)}},
        {"timeout": 1e-9},
        {"timeout": MAX_TIMEOUT},
    ],
)
def test_what_a_kernel_can_run_is_valid(changes: dict[str, Any]) -> None:
    """The bounds themselves are allowed."""
    assert replace(SPEC, **changes) != SPEC


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"command": ()}, "the command is empty"),
        ({"command": (b"",)}, "the command is empty"),
        ({"command": (b"a\0b",)}, r"'a\\x00b' holds a NUL byte"),
        ({"command": (b"x" * (MAX_ARGUMENT + 1),)}, "has 131072 bytes"),
        ({"command": (b"x",) * (MAX_ARGUMENTS + 1)}, "16385 arguments are too many"),
        ({"command": (b"x" * MAX_ARGUMENT,) * 9}, f"is {MAX_COMMAND_BYTES}"),
        ({"env": {b"": b""}}, "is empty or holds '='"),
        ({"env": {b"A=B": b""}}, "is empty or holds '='"),
        ({"env": {b"A": b"\0"}}, "NUL"),
        ({"env": {b"PATH": b":" * 128}}, "PATH has 129 directories in 128 bytes"),
        ({"env": {b"PATH": b"x" * 4097}}, "PATH has 1 directories in 4097 bytes"),
        (
            {"env": {b"%d" % n: b"" for n in range(MAX_ARGUMENTS + 1)}},
            "16385 environment variables are too many",
        ),
        ({"workdir": b"tmp"}, "'tmp' is not absolute"),
        ({"workdir": b"/\0"}, "NUL"),
        ({"name": ""}, "name '' is not valid"),
        ({"name": ".a"}, "is not valid"),
        ({"name": "a\n"}, "is not valid"),
        ({"name": "a" * 65}, "is not valid"),
        ({"labels": {"": ""}}, "label key '' is not valid"),
        ({"labels": {"a b": ""}}, "is not valid"),
        ({"labels": {"a": "x" * (MAX_LABEL_VALUE + 1)}}, "the value of label a"),
        ({"labels": {"a": "\udcff"}}, "the value of label a"),
        ({"labels": {str(n): "" for n in range(MAX_LABELS + 1)}}, "65 labels are too"),
        ({"timeout": 0.0}, "timeout 0 s"),
        ({"timeout": -1.0}, "timeout -1 s"),
        ({"timeout": float("nan")}, "timeout nan s"),
        ({"timeout": float("inf")}, "timeout inf s"),
        ({"timeout": MAX_TIMEOUT * 1.01}, "is out of range"),
    ],
)
def test_what_no_kernel_can_run_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    """The message says what is wrong and what would be right."""
    with pytest.raises(InvalidRequest, match=message):
        replace(SPEC, **changes)


@pytest.mark.parametrize(
    "limits",
    [{"mem": MIN_MEMORY_MB, "cpu": 1, "io": 1}, {"mem": MAX_MEMORY_MB, "cpu": 100}],
)
def test_limits_hold_their_bounds(limits: dict[str, int]) -> None:
    """Limits that are set are told by name."""
    assert limits == Limits(**limits).as_dict()


@pytest.mark.parametrize("name", ["mem", "cpu", "io"])
@pytest.mark.parametrize("value", [-1, 0, MAX_MEMORY_MB + 1])
def test_limits_out_of_range_are_refused(name: str, value: int) -> None:
    """The message names the limit and its range."""
    with pytest.raises(InvalidRequest, match=f"limit {name} = {value} is out of range"):
        Limits(**{name: value})


def test_limits_are_true_when_one_is_set() -> None:
    """A job without any limit gets no group of its own."""
    assert not Limits()
    assert Limits(io=1)


def test_final_states() -> None:
    """Four states are final."""
    final = {state for state in JobState if state.is_final}

    assert final == {
        JobState.FINISHED,
        JobState.STOPPED,
        JobState.FAILED,
        JobState.LOST,
    }


@pytest.mark.parametrize("grace", [None, 0.0, MAX_GRACE])
def test_grace_may_be_for_ever(grace: float | None) -> None:
    """No grace at all and no end of it are both allowed."""
    assert grace == StopRequest(1, "j", grace).grace


@pytest.mark.parametrize("grace", [-0.1, MAX_GRACE + 1, float("nan"), float("inf")])
def test_grace_out_of_range_is_refused(grace: float) -> None:
    """A grace that no timer holds is refused."""
    with pytest.raises(InvalidRequest, match="grace"):
        StopRequest(1, "j", grace)


def test_a_request_id_says_something() -> None:
    """An empty request id would make one job of all."""
    with pytest.raises(InvalidRequest, match="request_id is empty"):
        RunRequest(1, "", SPEC)
