"""What jobs may ask for at most, each and together."""

import re

import pytest

from teleworkerd.ceilings import (
    CeilingReached,
    Ceilings,
    completed,
    defaults_of,
    named_ceilings,
    named_defaults,
    timeout_of,
)
from teleworkerd.protocol.spec import Limits
from teleworkerd.settings import LimitsConfig


def refused(
    ceilings: Ceilings,
    limits: Limits,
    *,
    owner: str = "alice",
    timeout: float | None = None,
) -> CeilingReached:
    """Return why the job is not let in."""
    with pytest.raises(CeilingReached) as caught:
        ceilings.check(owner, limits, timeout)

    return caught.value


def test_defaults_fill_what_is_open() -> None:
    """A default is for what a job does not name, and leaves alone what it does."""
    config = LimitsConfig(mem=64, cpus=1.5, pids=0)

    assert defaults_of(Limits(mem=8), config) == Limits(cpus=1.5)
    assert completed(Limits(mem=8), config) == Limits(mem=8, cpus=1.5)


def test_default_timeout() -> None:
    """A job that names no time has that of the settings, if there is one."""
    assert timeout_of(None, LimitsConfig(timeout=60)) == 60
    assert timeout_of(5, LimitsConfig(timeout=60)) == 5
    assert timeout_of(None, LimitsConfig()) is None


def test_names() -> None:
    """What is set is told by the names of the settings; what is not is left out."""
    config = LimitsConfig(owner_mem=100, job_cpus=2)

    assert named_defaults(config) == {"pids": 4096}
    assert named_ceilings(config) == {"owner_mem": 100, "job_cpus": 2}


def test_nothing_is_set() -> None:
    """Without ceilings a job may ask for anything, or for nothing."""
    ceilings = Ceilings(LimitsConfig())

    ceilings.check("alice", Limits(), None)
    ceilings.check("alice", Limits(mem=1 << 30, cpus=4096), 1e6)


@pytest.mark.parametrize(
    ("name", "limit", "limits", "timeout"),
    [
        ("job_mem", "mem", Limits(mem=101), None),
        ("job_cpus", "cpus", Limits(cpus=100.5), None),
        ("job_pids", "pids", Limits(pids=101), None),
        ("job_timeout", "timeout", Limits(), 100.5),
        ("owner_mem", "mem", Limits(mem=101), None),
        ("total_cpus", "cpus", Limits(cpus=100.5), None),
    ],
)
def test_more_than_a_ceiling(
    name: str, limit: str, limits: Limits, timeout: float | None
) -> None:
    """Who asks for more than a ceiling alone allows is refused for good."""
    error = refused(Ceilings(LimitsConfig(**{name: 100})), limits, timeout=timeout)

    assert (error.ceiling, error.limit, error.most) == (name, limit, 100)
    assert not error.passes
    assert f"[limits] {name}" in str(error)
    assert f"--{limit}" in str(error)


@pytest.mark.parametrize("name", ["job_mem", "owner_mem", "total_mem"])
def test_no_limit_is_more_than_any_ceiling(name: str) -> None:
    """A job without a limit is beyond its ceiling, unless there is a default."""
    error = refused(Ceilings(LimitsConfig(**{name: 100})), Limits())

    assert error.ceiling == name
    assert str(error).startswith("mem: each job needs a limit")
    assert re.search(f"100 MB .*{name}.*; give .* with --mem$", str(error))
    Ceilings(LimitsConfig(mem=50, **{name: 100})).check("alice", Limits(), None)


def test_sum_of_an_owner() -> None:
    """The jobs of one owner share a ceiling; it passes when one ends."""
    ceilings = Ceilings(LimitsConfig(owner_mem=100))
    ceilings.hold("1", "alice", Limits(mem=60))
    ceilings.hold("1", "alice", Limits(mem=60))

    error = refused(ceilings, Limits(mem=41))

    assert error.passes
    assert "60 MB of it are taken" in str(error)
    ceilings.check("alice", Limits(mem=40), None)
    ceilings.check("bob", Limits(mem=100), None)

    ceilings.release("1")
    ceilings.release("1")
    ceilings.check("alice", Limits(mem=100), None)


def test_sum_of_all() -> None:
    """The jobs of everybody share a ceiling."""
    ceilings = Ceilings(LimitsConfig(total_pids=100))
    ceilings.hold("1", "alice", Limits(pids=60))

    assert refused(ceilings, Limits(pids=41), owner="bob").ceiling == "total_pids"


def test_defaults_count() -> None:
    """A job that names nothing holds what it gets by default."""
    ceilings = Ceilings(LimitsConfig(pids=60, owner_pids=100))
    ceilings.hold("1", "alice", Limits())

    assert refused(ceilings, Limits()).ceiling == "owner_pids"


def test_fractions_leave_nothing_behind() -> None:
    """After many fractions of processors were held, all can be had again."""
    ceilings = Ceilings(LimitsConfig(owner_cpus=1))

    for number in range(10):
        ceilings.hold(str(number), "alice", Limits(cpus=0.1))

    assert refused(ceilings, Limits(cpus=0.01)).passes

    for number in range(10):
        ceilings.release(str(number))

    ceilings.hold("0", "alice", Limits(cpus=0.3))
    ceilings.check("alice", Limits(cpus=0.7), None)


def test_other_settings() -> None:
    """After a reload the new ceiling counts; who runs keeps what it has."""
    ceilings = Ceilings(LimitsConfig())
    ceilings.hold("1", "alice", Limits(mem=200))
    ceilings.configure(LimitsConfig(owner_mem=100))

    assert refused(ceilings, Limits(mem=8)).passes
