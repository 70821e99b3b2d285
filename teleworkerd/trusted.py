"""Files whose content is believed: nobody else may write them."""

import os
import stat
from pathlib import Path

from teleworkerd.settings import ConfigError


def check_trusted(path: Path, found: os.stat_result) -> None:
    """Raise `ConfigError` if others than we and root could have written *path*.

    *found* is what `fstat` says of what is open, or `stat` of a directory, in which
    another file could be put in the place of one.
    """
    is_shared = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
    group = found.st_mode & stat.S_IWGRP and found.st_gid not in (0, os.getegid())

    if not is_shared and (group or found.st_mode & stat.S_IWOTH):
        raise ConfigError(
            f"{path} can be written by others, and decides who may do what here;"
            f" 'chmod go-w {path}'"
        )
