"""Both streams of a job in the order in which their bytes came."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from teleworkerd.output.fanout import Fanout
from teleworkerd.output.index import OutputIndex, Step
from teleworkerd.output.subscription import Reading
from teleworkerd.protocol.messages import MAX_TIMES
from teleworkerd.protocol.types import Chunk, Gap, Piece, Stream


_TOGETHER: Final = 256 << 10  # bytes of one stream that are taken as one


class Interleaving(Reading):
    """A place in both streams at once; the index says which one is next.

    The order is that of the index, the same for every reader. What no record
    covers (a full disk had no room for it) comes last, stdout first.
    """

    def __init__(
        self,
        fanouts: Mapping[Stream, Fanout],
        index: OutputIndex,
        *,
        offsets: dict[Stream, int],
        stops: dict[Stream, int] | None,
        times: bool,
    ) -> None:
        self._fanouts = fanouts
        self._index = index
        self._offsets = offsets
        self._stops = stops
        self._times = times
        self._grown = asyncio.Event()
        self._planned = dict(offsets)  # how far the steps go that we know
        self._steps: Iterator[Step | None] = iter(())
        self._ahead: Step | None = None  # known, and not of the run before it
        self._run: list[Step] = []  # of one stream, without a break: what is next

        for fanout in fanouts.values():
            fanout.watch(self.wake)

    @property
    def offsets(self) -> dict[Stream, int]:
        return self._offsets

    async def ready(self) -> bool:
        while True:
            self._grown.clear()

            for fanout in self._fanouts.values():
                if fanout.failure is not None:
                    raise fanout.failure

            if self._is_over():
                return False

            if self.is_held:
                await self._grown.wait()
                continue

            if not self._run:
                await self._plan()

            if self._run and self._available(self._run[-1]) > 0:
                await asyncio.sleep(0)
                return True

            if self._run and self._is_complete():
                # The index knows more than the spools hold.
                self._run = []
                continue

            await self._grown.wait()

    def take(self, limit: int) -> Piece | None:
        if self.is_held or not self._run:
            return None

        last = self._run[-1]
        offset = self._offsets[last.stream]
        available = self._available(last)
        piece = self._fanouts[last.stream].read(offset, min(limit, available))

        if piece is None:
            raise AssertionError("take before ready")

        if isinstance(piece, Gap):
            # Costs the client nothing, so its limit does not count.
            piece = replace(piece, stop=min(piece.stop, offset + available))

        runs = [step for step in self._run if step.stop > offset]
        self._offsets[last.stream] = piece.stop
        self._run = [step for step in runs if step.stop > piece.stop]

        if isinstance(piece, Chunk) and self._times and last.time:
            times = [
                value
                for step in runs
                if step.offset < piece.stop
                for value in (max(step.offset, offset), step.time)
            ]
            return replace(piece, times=tuple(times))

        return piece

    def wake(self) -> None:
        self._grown.set()

    def stop_at(self, stops: dict[Stream, int]) -> None:
        self._stops = {
            stream: max(self._offsets[stream], stop) for stream, stop in stops.items()
        }
        self._run = [cut for step in self._run if (cut := self._cut(step))]
        self._ahead = self._ahead and self._cut(self._ahead)
        self.until = None
        self.wake()

    def close(self) -> None:
        for fanout in self._fanouts.values():
            fanout.unwatch(self.wake)

    def _available(self, step: Step) -> int:
        """Return how many bytes up to the end of *step* can be read now."""
        size = self._fanouts[step.stream].size
        return min(step.stop, size) - self._offsets[step.stream]

    def _is_over(self) -> bool:
        return self._is_complete() and all(
            offset >= self._end(stream) for stream, offset in self._offsets.items()
        )

    def _is_complete(self) -> bool:
        """Whether nothing beyond what can be read now is wanted."""
        if all(fanout.ended for fanout in self._fanouts.values()):
            return True

        return self._stops is not None and all(
            self._fanouts[stream].size >= stop for stream, stop in self._stops.items()
        )

    def _end(self, stream: Stream) -> int:
        size = self._fanouts[stream].size
        return size if self._stops is None else min(size, self._stops[stream])

    async def _plan(self) -> None:
        """Find the next steps, all of one stream; none if nothing is known."""
        step = await self._next_step()

        if step is None:
            self._run = self._rest() if self._is_complete() else []
            return

        # `stop_at` may come in between, and cuts what is there by then.
        self._run = [step]
        start = step.offset

        while step.stop - start < _TOGETHER and len(self._run) < MAX_TIMES:
            self._ahead = await self._next_step()

            if self._ahead is None or self._ahead.stream is not step.stream:
                break

            step, self._ahead = self._ahead, None
            self._run.append(step)

    async def _next_step(self) -> Step | None:
        if (step := self._ahead) is not None:
            self._ahead = None
            return step

        is_new = False

        # Beyond the stops there may be very much more.
        while self._stops is None or any(
            self._planned[stream] < stop for stream, stop in self._stops.items()
        ):
            try:
                step = next(self._steps)
            except StopIteration:
                if is_new:
                    break

                # The index may have grown since.
                is_new = True
                self._steps = self._index.steps(
                    self._planned[Stream.STDOUT], self._planned[Stream.STDERR]
                )
                continue

            if step is None:
                await asyncio.sleep(0)
                continue

            self._planned[step.stream] = step.stop

            if cut := self._cut(step):
                return cut

        return None

    def _cut(self, step: Step) -> Step | None:
        """Return what is wanted of *step* and has not been taken."""
        if self._stops is None:
            return step

        start = max(step.offset, self._offsets[step.stream])
        stop = min(step.stop, self._stops[step.stream])
        return replace(step, stop=stop) if start < stop else None

    def _rest(self) -> list[Step]:
        for stream, offset in self._offsets.items():
            if offset < self._end(stream):
                return [Step(0, stream, offset, self._end(stream))]

        return []
