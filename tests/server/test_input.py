"""The request `input`: one sender at a time, and each knows what was taken."""

from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from teleworkerd.execution import InputFacts
from teleworkerd.protocol.messages import (
    Cancel,
    InputData,
    InputRequest,
    ResizeRequest,
    RunRequest,
    StatusRequest,
)
from teleworkerd.protocol.responses import (
    DoneResponse,
    ErrorResponse,
    InputEnd,
    InputResponse,
    InputTaken,
    RunResponse,
    StatusResponse,
)
from teleworkerd.protocol.spec import JobSpec, TerminalSize
from teleworkerd.protocol.types import InputEndReason, JobState
from tests.e2e.pki import Certificates
from tests.fakes import FakeExecution
from tests.server.peers import error_of, until
from tests.server.scene import Scene, scene


CAT: Final = JobSpec((b"cat",), stdin=True)
SHELL: Final = JobSpec((b"sh",), tty=TerminalSize(80, 24))
EOF: Final = InputEndReason.EOF


class Play:
    """A job of alice's that takes input, and what its executor says of it."""

    def __init__(self, play: Scene, job: str) -> None:
        self.scene = play
        self.job = job

    @property
    def execution(self) -> FakeExecution:
        """What the server asks for."""
        return self.scene.executor.executions[self.job]

    async def called(self, *call: object) -> None:
        """Wait until the executor was asked for that."""
        await until(lambda: call in self.execution.calls, what=str(call))

    def moved(
        self, turn: int, sender: str, offset: int, ended: InputEndReason | None = None
    ) -> None:
        """Have the executor say how far it is."""
        facts = InputFacts(turn, sender, offset, ended)
        self.scene.executor.sinks[self.job].input_moved(facts)

    async def opened(self, *, number: int = 5, offset: int = 0) -> None:
        """Let alice begin to send."""
        self.scene.alice.flush(InputRequest(number, self.job, "a"))
        turn = await self.turn("a")
        self.moved(turn, "a", offset)
        response = await self.scene.alice.expect(InputResponse)
        assert (response.id, response.offset) == (number, offset)

    async def turn(self, sender: str) -> int:
        """Wait until it is the turn of *sender*; return its number."""

        def turns() -> list[int]:
            calls = self.execution.calls
            return [
                number
                for kind, number, *rest in calls
                if kind == "take" and rest == [sender] and isinstance(number, int)
            ]

        await until(turns, what=f"turn of {sender}")
        return turns()[-1]


async def play(of: Scene, spec: JobSpec = CAT) -> Play:
    """Let alice start a job that takes input."""
    return Play(of, await of.run(spec))


async def test_bytes_and_their_end(certs: Certificates, tmp_path: Path) -> None:
    """What comes is passed on at once; what is taken is told; the end is the last."""
    async with scene(certs, tmp_path) as of:
        it = await play(of)
        await it.opened(offset=7)
        of.alice.flush(InputData(5, 7, b"one"), InputData(5, 10, b"two", eof=True))
        await it.called("write", 1, b"one", False)
        await it.called("write", 1, b"two", True)
        it.moved(1, "a", 11)
        taken = await of.alice.expect(InputTaken)
        it.moved(1, "a", 13, EOF)

        assert taken == InputTaken(5, 11)
        assert await of.alice.receive() == InputEnd(5, 13, EOF)


async def test_another_takes_over(certs: Certificates, tmp_path: Path) -> None:
    """Who sent before is told how far that came, and that it is another's turn."""
    async with scene(certs, tmp_path) as of:
        it = await play(of)
        await it.opened()
        of.alice.flush(InputData(5, 0, b"one"), InputRequest(6, it.job, "b"))
        turn = await it.turn("b")
        it.moved(turn, "b", 2)
        messages = [await of.alice.receive(), await of.alice.receive()]

    assert sorted(messages, key=lambda each: getattr(each, "id", 0)) == [
        InputEnd(5, 2, InputEndReason.TAKEN_OVER),
        InputResponse(6, it.job, 2),
    ]


async def test_resume(certs: Certificates, tmp_path: Path) -> None:
    """The last sender may go on, an earlier one may not."""
    async with scene(certs, tmp_path) as of:
        it = await play(of)
        it.moved(3, "b", 20)
        late = await of.alice.ask(InputRequest(5, it.job, "a", resume=True), InputEnd)
        of.alice.flush(InputRequest(6, it.job, "b", resume=True))
        turn = await it.turn("b")
        it.moved(turn, "b", 20)

        assert (late.reason, late.offset) == (InputEndReason.TAKEN_OVER, 20)
        assert turn > 3
        assert await of.alice.receive() == InputResponse(6, it.job, 20)


async def test_cancel(certs: Certificates, tmp_path: Path) -> None:
    """Who cancels is told the exact offset; nothing of it arrives later."""
    async with scene(certs, tmp_path) as of:
        it = await play(of)
        await it.opened()
        of.alice.flush(InputData(5, 0, b"one"), Cancel(5))
        await it.called("take", 2, "a")
        it.moved(2, "a", 1)

        assert await of.alice.receive() == InputEnd(5, 1, InputEndReason.CANCELLED)


async def test_lost_connection(certs: Certificates, tmp_path: Path) -> None:
    """What a lost client had on its way is thrown away: it will send that again."""
    async with scene(certs, tmp_path) as of:
        it = await play(of)
        await it.opened()
        await of.alice.leave()
        await it.called("take", 2, "a")


async def test_job_that_ends(certs: Certificates, tmp_path: Path) -> None:
    """Its end is the end of its input, and later ones end at once."""
    async with scene(certs, tmp_path) as of:
        it = await play(of)
        await it.opened()
        it.moved(1, "a", 0)
        of.executor.exit(it.job)
        end = await of.alice.expect(InputEnd)
        later = await of.alice.ask(InputRequest(6, it.job, "b"), InputEnd)

    assert end == InputEnd(5, 0, InputEndReason.ENDED)
    assert later.reason is InputEndReason.ENDED


async def test_job_at_the_end_of_its_input(certs: Certificates, tmp_path: Path) -> None:
    """After the end was sent, nobody can send any more."""
    async with scene(certs, tmp_path) as of:
        it = await play(of)
        it.moved(1, "b", 9, EOF)

        assert await of.alice.ask(InputRequest(5, it.job, "a"), InputEnd) == InputEnd(
            5, 9, EOF
        )


async def test_resize(certs: Certificates, tmp_path: Path) -> None:
    """The size is passed on; for a job that has ended nothing is done."""
    async with scene(certs, tmp_path) as of:
        it = await play(of, SHELL)
        request = ResizeRequest(5, it.job, TerminalSize(100, 30))
        await of.alice.ask(request, DoneResponse)
        await it.called("resize", TerminalSize(100, 30))
        of.executor.exit(it.job)
        again = await of.alice.ask(request, DoneResponse)

    assert again.already_ended


async def test_resize_of_a_job_that_starts(certs: Certificates, tmp_path: Path) -> None:
    """It is answered when it is done: who asks again and again piles nothing up."""
    async with scene(certs, tmp_path) as of:
        of.executor.gate.clear()
        of.alice.flush(RunRequest(1, "r", replace(SHELL, name="shell")))
        of.alice.flush(ResizeRequest(2, "shell", TerminalSize(100, 30)))
        status = await of.alice.ask(StatusRequest(3, "shell"), StatusResponse)
        of.executor.gate.set()
        answers = {type(await of.alice.receive()) for _ in range(2)}

    assert status.status.state is JobState.STARTING
    assert answers == {RunResponse, DoneResponse}


@pytest.mark.parametrize(
    "spec",
    [JobSpec((b"true",)), CAT],
)
async def test_what_the_job_does_not_have(
    certs: Certificates, tmp_path: Path, spec: JobSpec
) -> None:
    """Without stdin there is nothing to send to, without a terminal no size."""
    async with scene(certs, tmp_path) as of:
        job = await of.run(spec)
        resize = ResizeRequest(5, job, TerminalSize())
        answers = [await of.alice.ask(resize, ErrorResponse)]

        if not spec.stdin:
            request = InputRequest(6, job, "a")
            answers.append(await of.alice.ask(request, ErrorResponse))

    assert {error_of(each)[1] for each in answers} == {"invalid_request"}


async def test_of_others(certs: Certificates, tmp_path: Path) -> None:
    """Nobody sends to another's job: it is not there."""
    async with scene(certs, tmp_path) as of:
        it = await play(of)
        answer = await of.bob.ask(InputRequest(5, it.job, "b"), ErrorResponse)

    assert error_of(answer) == (5, "job_not_found")
