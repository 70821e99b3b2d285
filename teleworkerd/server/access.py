"""Who may do what with whose jobs: the table of roles, and who may name which."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from teleworkerd.execution import Caller
from teleworkerd.jobs.job import Job
from teleworkerd.jobs.manager import JobManager
from teleworkerd.keeper.orders import Noted
from teleworkerd.protocol.errors import JobNotFound, PermissionDenied
from teleworkerd.protocol.messages import EVERYBODY
from teleworkerd.protocol.types import Role
from teleworkerd.server.trail import Trail
from teleworkerd.settings import AccessConfig


class Right(StrEnum):
    """What may be done with a job; the value is what a message calls it."""

    START = "start"
    SEE = "see"
    END = "end"  # by any signal
    REMOVE = "remove"
    SEND = "send to"  # which may have it do anything, as its account


@dataclass(frozen=True, slots=True)
class Grant:
    """What a role may do with one's own jobs, and with those of others."""

    own: frozenset[Right]
    others: frozenset[Right]


_ALL: Final = frozenset(Right)
_NONE: Final = frozenset[Right]()
_SEE: Final = frozenset({Right.SEE})

GRANTS: Final[Mapping[Role, Grant]] = {
    Role.ADMIN: Grant(own=_ALL, others=_ALL - {Right.START}),
    Role.OPERATOR: Grant(own=_ALL, others=frozenset({Right.SEE, Right.END})),
    Role.VIEWER: Grant(own=_SEE, others=_SEE),
    Role.USER: Grant(own=_ALL, others=_NONE),
    Role.DENY: Grant(own=_NONE, others=_NONE),
}


def has_less(new: Role, *, than: Role) -> bool:
    """Whether *new* lacks a right that *than* has."""
    return not (
        GRANTS[than].own <= GRANTS[new].own
        and GRANTS[than].others <= GRANTS[new].others
    )


class Access:
    """Finds the jobs of *manager* for callers, as far as their roles go.

    *trail* is told of every look at somebody else's job, granted or not.
    """

    def __init__(self, config: AccessConfig, manager: JobManager, trail: Trail) -> None:
        self._config = config
        self._manager = manager
        self._trail = trail

    @property
    def config(self) -> AccessConfig:
        """Who has which role now."""
        return self._config

    def configure(self, config: AccessConfig) -> None:
        """Use *config* from now on."""
        self._config = config

    def role(self, name: str) -> Role:
        """Return the role of who has this name."""
        return self._config.role(name)

    def check(self, name: str, right: Right) -> None:
        """Raise `PermissionDenied` unless *name* has *right* on jobs of its own."""
        role = self.role(name)

        if right not in GRANTS[role].own:
            raise PermissionDenied(
                f"{name} has the role {role}, and may not {right} jobs"
            )

    def job(self, ref: str, caller: Caller, right: Right, *, what: str) -> Job:
        """Return the job that *caller* calls *ref*, for the request *what*.

        It needs *right*. One's own comes first; others' have only their ids. Raises
        `JobNotFound`, `AmbiguousJob`, `PermissionDenied`.
        """
        name = caller.name
        grant = GRANTS[self.role(name)]

        try:
            job = self._manager.get(
                ref, owner=name, everybody=Right.SEE in grant.others
            )
        except JobNotFound as error:
            if (other := self._manager.find(ref)) is not None:
                self._tell(caller, error.code, what, other)

            raise

        if job.owner == name:
            self.check(name, right)
        elif right in grant.others:
            self._tell(caller, "ok", what, job)
        else:
            self._tell(caller, PermissionDenied.code, what, job)
            raise PermissionDenied(
                f"job {job.id} belongs to {job.owner}; as {self.role(name)}"
                f" {name} may not {right} it",
                {"job": job.id},
            )

        return job

    def owner_to_list(self, caller: Caller, wanted: str | None) -> str | None:
        """Return whose jobs are to be listed, None: everybody's.

        Raises `PermissionDenied`.
        """
        name = caller.name
        self.check(name, Right.SEE)

        if wanted is None or wanted == name:
            return name

        is_granted = Right.SEE in GRANTS[self.role(name)].others
        result = "ok" if is_granted else PermissionDenied.code
        # Of those who do not exist one is as good as another.
        is_known = wanted == EVERYBODY or self._manager.has_owner(wanted)
        self._trail.tell(
            Noted(
                "access", result, "list", by=caller, owner=wanted if is_known else None
            )
        )

        if not is_granted:
            raise PermissionDenied(
                f"{name} has the role {self.role(name)}, and may see no jobs of others"
            )

        return None if wanted == EVERYBODY else wanted

    def _tell(self, caller: Caller, result: str, what: str, job: Job) -> None:
        self._trail.tell(
            Noted("access", result, what, by=caller, job=job.id, owner=job.owner)
        )
