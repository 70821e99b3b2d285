"""How long nobody serves after a server that has died."""

from typing import Final


FIRST: Final = 0.1  # seconds; one that has served well is followed soon
_MOST: Final = 10.0  # … when servers die before they are ready, again and again
_MOST_READY: Final = 1.0  # … when they die soon after: clients get something done
_WELL: Final = 10.0  # seconds that a server must have served for that


class Backoff:
    """Doubles the pause for each server that dies soon."""

    def __init__(self) -> None:
        self._unready = self._ready = FIRST

    def pause(self, served: float | None) -> float:
        """Return how many seconds to wait after a server that has *served* so long.

        None is for one that was never ready.
        """
        if served is None:
            pause, self._unready = self._unready, min(2 * self._unready, _MOST)
            return pause

        self._unready = FIRST

        if served >= _WELL:
            self._ready = FIRST

        pause, self._ready = self._ready, min(2 * self._ready, _MOST_READY)
        return pause
