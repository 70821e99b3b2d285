"""Room on the disk, without which no job is started."""

import logging
from collections.abc import Callable
from pathlib import Path

from teleworkerd.config import Config
from teleworkerd.protocol.errors import NoSpace
from teleworkerd.reserve import Room, room_at
from teleworkerd.settings import show_size


log = logging.getLogger(__name__)


def check_room(config: Config, *, look: Callable[[Path, int], Room] = room_at) -> None:
    """Raise `NoSpace` when less is free than *config* starts jobs with."""
    try:
        room = look(config.jobs_dir, config.output.min_free)
    except OSError as error:
        # What it has against a job, the disk says when one is started.
        log.warning("nobody knows what is free at %s: %s", config.jobs_dir, error)
        return

    if room.free < room.floor:
        log.warning(
            "too little is free on the disk to start jobs: %s", show_size(room.free)
        )
        raise NoSpace(
            f"{show_size(room.free)} are free on the server's disk, and no job is"
            f" started with less than {show_size(room.floor)}; remove jobs with twctl"
            " rm, or have [retention] keep less, other files removed, or the state"
            " directory on a larger disk",
            {"free": room.free, "floor": room.floor},
        )
