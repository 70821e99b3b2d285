"""One who uses the command line, and takes down all that it prints."""

import asyncio
import random
import re
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from teleworkerd.protocol.types import Stream
from tests.chaos.board import Board, Known
from tests.chaos.history import (
    UNSAID,
    Action,
    Exited,
    History,
    Output,
    Read,
    Refused,
    Result,
    Run,
    Started,
    Unknown,
    Wait,
)
from tests.e2e.commandline import MODULE
from tests.e2e.pki import ROOT


PAUSE: Final = 1.5  # seconds between two commands, on average
NOTICE: Final = re.compile(rb"twctl: [^\n]*; connecting again\n")
DROPPED: Final = re.compile(rb"twctl: [^\n]* dropped[^\n]*\n")
ADVICE: Final = ("--request-id", "twctl tail", "twctl wait", "the same command")
ERROR: Final = re.compile(rb"twctl: error: [^\n]*\n\Z")


@dataclass(frozen=True, slots=True)
class Printed:
    """What a `twctl` printed, without its own lines; `error` is its last one."""

    code: int
    stdout: bytes
    stderr: bytes
    error: Refused | Unknown | None

    def of(self, stream: Stream) -> bytes:
        """Return what was printed to the descriptor of *stream*."""
        return self.stdout if stream is Stream.STDOUT else self.stderr


class Terminal:
    """A person at a terminal, in an environment that says who and where."""

    def __init__(
        self,
        name: str,
        owner: str,
        *,
        environment: Mapping[str, str],
        board: Board,
        history: History,
        dice: random.Random,
    ) -> None:
        self.name = name
        self.owner = owner
        self._environment = environment
        self._board = board
        self._history = history
        self._dice = dice

    async def live(self, over: asyncio.Event) -> None:
        """Run one command after the other until it is *over*."""
        ways: list[Callable[[], Awaitable[None]]] = [
            self._run,
            self._run_and_follow,
            self._run_and_follow,
            self._tail,
            self._tail,
            self._wait,
        ]

        while not over.is_set():
            await self._dice.choice(ways)()
            await asyncio.sleep(self._dice.expovariate(1 / PAUSE))

    async def _run(self) -> None:
        known = self._board.new(self.owner)
        began = self._history.now
        done = await self._call("run", *self._spec(known))
        result: Result = done.error or Started(done.stdout.decode().strip())
        self._note(began, Run(known.number, known.request_id), result)

        if isinstance(result, Started):
            known.job = result.job

    async def _run_and_follow(self) -> None:
        known = self._board.new(self.owner)
        began = self._history.now
        done = await self._call("run", "-f", *self._spec(known))
        result = done.error or Unknown("'run -f' does not say the ID")
        self._note(began, Run(known.number, known.request_id), result)

        # Who was told how to go on had a job.
        if done.error is None or "twctl tail" in done.error.sentence:
            self._note_output(began, known, done, tuple(Stream))

        if done.error is None:
            self._note(began, Wait(known.number), Exited(done.code))

    async def _tail(self) -> None:
        known = self._board.pick(self.owner, self._dice, is_over=None)

        if known is None:
            return

        streams = self._dice.choice([(Stream.STDOUT,), tuple(Stream)])
        options = ["--all"] if len(streams) > 1 else []
        began = self._history.now

        with known.pinned():
            done = await self._call("tail", "-f", *options, known.ref)

        self._note_output(began, known, done, streams)

    async def _wait(self) -> None:
        known = self._board.pick(self.owner, self._dice, is_over=False)

        if known is None:
            return

        began = self._history.now

        with known.pinned():
            done = await self._call("wait", known.ref)

        self._note(began, Wait(known.number), done.error or Exited(int(done.stdout)))

    def _spec(self, known: Known) -> list[str]:
        options = ["--name", known.name, "--request-id", known.request_id]
        return [*options, "--", *self._board.argv(known)]

    def _note(self, began: float, action: Action, result: Result) -> None:
        self._history.note(began, self.name, self.owner, action, result)

    def _note_output(
        self, began: float, known: Known, done: Printed, streams: tuple[Stream, ...]
    ) -> None:
        if DROPPED.search(done.stderr):
            return  # it does not say in all places where they are missing

        for stream in streams:
            data = self._history.keep([done.of(stream)])
            result = Output(
                stdout=data if stream is Stream.STDOUT else b"",
                stderr=data if stream is Stream.STDERR else b"",
                is_complete=done.error is None,
                error=done.error,
            )
            self._note(began, Read(known.number, (stream,)), result)

    async def _call(self, *arguments: str) -> Printed:
        """Run `twctl` to its end, or kill it when nobody waits any more."""
        process = await asyncio.create_subprocess_exec(
            *MODULE,
            *arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env=self._environment,
        )

        try:
            stdout, stderr = await process.communicate()
        except BaseException:
            process.kill()
            await process.communicate()
            raise

        assert process.returncode is not None
        stderr = NOTICE.sub(b"", stderr)
        found = ERROR.search(stderr)
        error = None if found is None else _failed(found[0].decode().strip())
        return Printed(process.returncode, stdout, ERROR.sub(b"", stderr), error)


def _failed(sentence: str) -> Refused | Unknown:
    # How to go on is said only to who has begun.
    if any(advice in sentence for advice in ADVICE):
        return Unknown(sentence)

    return Refused(UNSAID, sentence)
