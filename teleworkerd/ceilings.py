"""What jobs may ask for at most: each, those of one owner, and all together.

The server refuses by it early and in words; the keeper judges by it once more, with
its own copy of the configuration.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, fields, replace
from typing import Final, Literal

from teleworkerd.protocol.errors import TeleworkerError
from teleworkerd.protocol.spec import Limits
from teleworkerd.settings import LimitsConfig


Measure = Literal["mem", "cpus", "pids"]

_MEASURES: Final[tuple[Measure, ...]] = ("mem", "cpus", "pids")
_DIGITS: Final = 6  # after the point, so that what is released leaves nothing behind
_UNITS: Final[dict[str, str]] = {
    "mem": " MB",
    "cpus": " processors",
    "pids": " processes",
    "timeout": " s",
}


class CeilingReached(TeleworkerError):
    """A job asks for more than a ceiling allows.

    *ceiling* is the name of the setting, *limit* that of the job's limit, *most* what
    the setting says. *passes* is whether it may be had when other jobs have ended.
    """

    def __init__(
        self, message: str, *, ceiling: str, limit: str, most: float, passes: bool
    ) -> None:
        super().__init__(message)
        self.ceiling = ceiling
        self.limit = limit
        self.most = most
        self.passes = passes


@dataclass(frozen=True, slots=True)
class _Held:
    """What one job that runs holds of what there is."""

    owner: str
    limits: Limits


def defaults_of(limits: Limits, config: LimitsConfig) -> Limits:
    """Return what *config* sets of what *limits* leave open, and nothing else."""
    return Limits(
        mem=config.mem or None if limits.mem is None else None,
        cpus=config.cpus or None if limits.cpus is None else None,
        pids=config.pids or None if limits.pids is None else None,
    )


def named_defaults(config: LimitsConfig) -> dict[str, float]:
    """Return what is set of what a job gets that names none, by the settings' names."""
    return _set(config, are_ceilings=False)


def named_ceilings(config: LimitsConfig) -> dict[str, float]:
    """Return the ceilings that are set, by the settings' names."""
    return _set(config, are_ceilings=True)


def _set(config: LimitsConfig, *, are_ceilings: bool) -> dict[str, float]:
    values = {item.name: getattr(config, item.name) for item in fields(config)}
    return {
        name: value
        for name, value in values.items()
        if value and ("_" in name) is are_ceilings
    }


def completed(limits: Limits, config: LimitsConfig) -> Limits:
    """Return *limits* with the defaults of *config* for what they leave open."""
    return replace(limits, **defaults_of(limits, config).as_dict())  # type: ignore[arg-type]


def timeout_of(timeout: float | None, config: LimitsConfig) -> float | None:
    """Return the *timeout* of a job, in seconds, or that of one that names none."""
    return config.timeout or None if timeout is None else timeout


class Ceilings:
    """Adds up what the jobs that run may take, by `[limits]`.

    What counts is what they were promised, not what they use.
    """

    def __init__(self, config: LimitsConfig) -> None:
        self._config = config
        self._held: dict[str, _Held] = {}
        self._jobs: Counter[str] = Counter()  # by their owners
        self._total: dict[str, float] = dict.fromkeys(_MEASURES, 0)
        self._by_owner: defaultdict[str, dict[str, float]] = defaultdict(
            lambda: dict.fromkeys(_MEASURES, 0)
        )

    def configure(self, config: LimitsConfig) -> None:
        """Use *config* from now on; what runs keeps what it has."""
        self._config = config

    def hold(self, job_id: str, owner: str, limits: Limits) -> None:
        """Count the job, which has *limits*, as asked for; again is no harm."""
        if job_id in self._held:
            return

        held = _Held(owner, completed(limits, self._config))
        self._held[job_id] = held
        self._jobs[owner] += 1
        self._count(held, 1)

    def release(self, job_id: str) -> None:
        """Count the job no more, if it was."""
        if (held := self._held.pop(job_id, None)) is not None:
            self._count(held, -1)
            self._jobs[held.owner] -= 1

            if not self._jobs[held.owner]:
                del self._jobs[held.owner], self._by_owner[held.owner]

    def check(self, owner: str, limits: Limits, timeout: float | None) -> None:
        """Raise `CeilingReached` unless *owner* may have a job with these."""
        whole = completed(limits, self._config)
        self._check_job("timeout", timeout_of(timeout, self._config))

        for measure in _MEASURES:
            asked: float | None = getattr(whole, measure)
            self._check_job(measure, asked)
            of_owner = self._by_owner.get(owner, {})
            self._check_sum(f"owner_{measure}", owner, measure, asked, of_owner)
            self._check_sum(f"total_{measure}", "all", measure, asked, self._total)

    def _check_job(self, limit: str, asked: float | None) -> None:
        name = f"job_{limit}"
        most: float = getattr(self._config, name)

        if not most or (asked is not None and asked <= most):
            return

        rule = f"one job may have {most:.10g}{_UNITS[limit]} ([limits] {name})"
        raise CeilingReached(
            _too_much(limit, asked, rule),
            ceiling=name,
            limit=limit,
            most=most,
            passes=False,
        )

    def _check_sum(
        self,
        name: str,
        whose: str,
        limit: str,
        asked: float | None,
        held: dict[str, float],
    ) -> None:
        most: float = getattr(self._config, name)

        if not most:
            return

        unit = _UNITS[limit]
        taken = held.get(limit, 0)
        rule = (
            f"the running jobs of {whose} together may have {most:.10g}{unit}"
            f" ([limits] {name})"
        )

        if asked is None or asked > most:
            raise CeilingReached(
                _too_much(limit, asked, rule),
                ceiling=name,
                limit=limit,
                most=most,
                passes=False,
            )

        if round(taken + asked, _DIGITS) > most:
            raise CeilingReached(
                f"{limit}: {rule}, and {taken:.10g}{unit} of it are taken; ask for less"
                f" with --{limit}, or wait until jobs have ended",
                ceiling=name,
                limit=limit,
                most=most,
                passes=True,
            )

    def _count(self, held: _Held, sign: int) -> None:
        for measure in _MEASURES:
            value: float = getattr(held.limits, measure) or 0
            for sums in (self._total, self._by_owner[held.owner]):
                sums[measure] = round(sums[measure] + sign * value, _DIGITS)


def _too_much(limit: str, asked: float | None, rule: str) -> str:
    if asked is None:
        return f"{limit}: each job needs a limit: {rule}; give one with --{limit}"

    what = f"{asked:.10g}{_UNITS[limit]}"
    return f"{limit}: {what} is too much: {rule}; ask for at most that with --{limit}"
