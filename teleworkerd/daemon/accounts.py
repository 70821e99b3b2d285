"""Whether the Unix accounts that jobs are to run as are there."""

import os
import pwd

from teleworkerd.config import ConfigError, JobsConfig


def check_accounts(jobs: JobsConfig) -> None:
    """Raise `ConfigError` for an account of *jobs* that is not there.

    Without root jobs run as who we are, and none is looked for.
    """
    if os.geteuid() != 0:
        return

    for name in sorted({jobs.user, *jobs.users.values()}):
        try:
            pwd.getpwnam(name)
        except (KeyError, ValueError):
            raise ConfigError(
                f"there is no Unix account {name!r}; make it, or name another in"
                " [jobs] user or users"
            ) from None
