"""Tells operators how the daemon is: by its file, and through the service manager."""

import os
from dataclasses import asdict, replace
from typing import Any

from teleworkerd.daemon.facts import DaemonFacts, timestamp
from teleworkerd.daemon.notify import notify, status
from teleworkerd.keeper.state_dir import StateDirectory


class Report:
    """Keeps the file `daemon`, and says the same as STATUS=."""

    def __init__(self, directory: StateDirectory, *, started_at: int) -> None:
        self._directory = directory
        self._facts = DaemonFacts(os.getpid(), timestamp(started_at))

    @property
    def facts(self) -> DaemonFacts:
        """What was said last."""
        return self._facts

    def note(self, **changes: Any) -> None:
        """Write down what of the facts has changed."""
        self._facts = replace(self._facts, **changes)
        self._directory.write_facts(asdict(self._facts))

    def tell(self, text: str, *states: str, **changes: Any) -> None:
        """Write down changes, and say them: *text* to people, *states* to managers."""
        self.note(status=text, **changes)
        notify(*states, status(text))
