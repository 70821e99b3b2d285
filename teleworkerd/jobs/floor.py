"""Room on the disk, without which no job is started."""

import logging
from collections.abc import Callable
from pathlib import Path

from teleworkerd.config import Config
from teleworkerd.protocol.errors import NoSpace
from teleworkerd.reserve import Room, room_at
from teleworkerd.settings import show_size


log = logging.getLogger(__name__)


class Floor:
    """Lets no job be started when less is free, as *look* says, than there must be.

    The log has when that begins and when it is over, and not how often it is so.
    """

    def __init__(self, look: Callable[[Path, int], Room] = room_at) -> None:
        self._look = look
        self._is_unknown = False
        self._is_low = False

    def check(self, config: Config) -> None:
        """Raise `NoSpace` when less is free than *config* starts jobs with."""
        try:
            room = self._look(config.jobs_dir, config.output.min_free)
        except OSError as error:
            # What it has against a job, the disk says when one is started.
            if not self._is_unknown:
                log.warning(
                    "nobody knows what is free at %s: %s", config.jobs_dir, error
                )

            self._is_unknown = True
            return

        self._is_unknown = False
        self._tell(room)

        if self._is_low:
            raise NoSpace(
                f"{show_size(room.free)} are free on the server's disk, and no job is"
                f" started with less than {show_size(room.floor)}; remove jobs with"
                " twctl rm, or have [retention] keep less, other files removed, or the"
                " state directory on a larger disk",
                {"free": room.free, "floor": room.floor},
            )

    def _tell(self, room: Room) -> None:
        was_low, self._is_low = self._is_low, room.free < room.floor

        if self._is_low and not was_low:
            log.warning(
                "too little is free on the disk to start jobs: %s", show_size(room.free)
            )
        elif was_low and not self._is_low:
            log.info("enough is free on the disk to start jobs again")
