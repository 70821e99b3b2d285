"""What a measurement finds when it begins."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.daemon import Certificates, Daemon
from bench.gate import Gate
from bench.openssh import OpenSsh
from bench.plan import Plan
from bench.series import Contestant, Missing, Values


@dataclass(frozen=True, slots=True)
class Setting:
    """The plan, the peers, and *base*, where all files of the run are."""

    plan: Plan
    base: Path
    certificates: Certificates
    ssh: OpenSsh | Missing

    def daemon(self) -> Daemon:
        """Start a daemon without jobs, for a `with` block."""
        return Daemon(self.base, self.certificates)

    def gate(self) -> Gate:
        """Return a gate, for a `with` block; there is one at a time."""
        return Gate(self.base)

    def by_ssh(self, measure: Callable[[OpenSsh], Values]) -> Contestant | Missing:
        """Return *measure* as a contestant, if there is an OpenSSH."""
        return self.ssh if isinstance(self.ssh, Missing) else partial(measure, self.ssh)
