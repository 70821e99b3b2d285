"""What the keeper does with the input of jobs: turns, counts, bounds, terminals."""

import json
from contextlib import suppress

import pytest

from teleworkerd.execution import Caller, InputFacts
from teleworkerd.keeper.messages import InputMoved
from teleworkerd.keeper.orders import ResizeTerminal, TakeInput, WriteInput
from teleworkerd.protocol.messages import MAX_INPUT
from teleworkerd.protocol.spec import TerminalSize
from teleworkerd.protocol.types import InputEndReason
from tests.keeper.kept import KeeperProcess, KeptJob, Place
from tests.keeper.lasting import LastingKeeper


ALICE = Caller("alice", "0A", "203.0.113.7:4711")
BOB = Caller("bob", "0B", "203.0.113.8:4711")
EOF = InputEndReason.EOF


def moved(job: KeptJob, turn: int, offset: int, *, ended: bool = False) -> InputFacts:
    """Wait until *job* has taken so much in that turn, or its input has ended."""
    return job.keeper.expect(
        InputMoved,
        lambda told: (
            told.job == job.id
            and told.input.turn == turn
            and told.input.offset >= offset
            and (told.input.ended is not None) is ended
        ),
    ).input


def take(job: KeptJob, turn: int, sender: str, by: Caller = ALICE) -> InputFacts:
    """Let *sender* send from now on."""
    job.keeper.send(TakeInput(job.id, turn, sender, by))
    return moved(job, turn, 0)


def test_bytes(keeper: KeeperProcess) -> None:
    """What is written is read, counted, and ended."""
    job = keeper.launch("cat", stdin=True)
    job.launched()
    take(job, 1, "a")
    keeper.send(WriteInput(job.id, 1, b"one"))
    keeper.send(WriteInput(job.id, 1, b"two", eof=True))

    assert moved(job, 1, 6, ended=True) == InputFacts(1, "a", 6, EOF)
    assert job.exited().exit_code == 0
    assert job.output() == b"onetwo"


def test_turns(keeper: KeeperProcess) -> None:
    """What was on its way of an earlier sender is thrown away, at an exact place."""
    job = keeper.launch("sleep", "300", stdin=True)
    job.launched()
    take(job, 1, "a")
    keeper.send(WriteInput(job.id, 1, bytes(MAX_INPUT)))
    first = moved(job, 1, 1)
    second = take(job, 2, "b")
    keeper.send(WriteInput(job.id, 1, b"late", eof=True))
    third = take(job, 3, "b")

    assert 0 < first.offset < MAX_INPUT  # as much as the pipe holds
    assert (second.offset, third.offset) == (first.offset, first.offset)
    assert (second.ended, third.ended) == (None, None)


def test_next_server(place: Place) -> None:
    """A later server hears who sent, and how far that came."""
    with LastingKeeper(place.config()) as keeper:
        job = keeper.launch("sleep", "300", stdin=True)
        without = keeper.launch("sleep", "300")
        job.launched()
        without.launched()
        take(job, 1, "a")
        keeper.send(WriteInput(job.id, 1, b"four"))
        moved(job, 1, 4)
        keeper.replace_server()
        kept = {each.job: each.input for each in keeper.welcome.jobs}

    assert kept == {job.id: InputFacts(1, "a", 4), without.id: None}


def test_too_much(place: Place) -> None:
    """A server that sends more than any client may is none: it is cut off."""
    with LastingKeeper(place.config()) as keeper:
        job = keeper.launch("sleep", "300", stdin=True)
        job.launched()
        take(job, 1, "a")

        with suppress(BrokenPipeError):
            for _ in range(3):
                keeper.send(WriteInput(job.id, 1, bytes(MAX_INPUT)))

        keeper.replace_server()
        (kept,) = keeper.welcome.jobs

    assert kept.input is not None
    assert kept.input.offset < MAX_INPUT


def test_before_the_launch(keeper: KeeperProcess) -> None:
    """A turn that is asked for too early begins when the job does."""
    job = keeper.launch("cat", stdin=True)
    take(job, 1, "a")
    keeper.send(WriteInput(job.id, 1, b"early", eof=True))
    job.launched()
    job.exited()

    assert job.output() == b"early"


def test_audit(place: Place) -> None:
    """Each new sender is written down, before; not each turn, and not what is sent."""
    with KeeperProcess(place.config()) as keeper:
        job = keeper.launch("cat", stdin=True)
        job.launched()
        take(job, 1, "a")
        take(job, 2, "a")
        take(job, 3, "b", by=BOB)
        keeper.send(WriteInput(job.id, 3, b"secret", eof=True))
        job.exited()

    text = place.state.joinpath("audit.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    found = [line for line in lines if line["event"] == "input"]
    assert [line["by"]["name"] for line in found] == ["alice", "bob"]
    assert {line["job"] for line in found} == {job.id}
    assert "secret" not in text


@pytest.mark.parametrize("order", ["take", "write", "resize"])
def test_job_without(keeper: KeeperProcess, order: str) -> None:
    """What is asked of a job that has no stdin or terminal is passed over."""
    job = keeper.launch("sh", "-c", "cat; echo over")
    job.launched()
    keeper.send(
        {
            "take": TakeInput(job.id, 1, "a"),
            "write": WriteInput(job.id, 1, b"x"),
            "resize": ResizeTerminal(job.id, TerminalSize()),
        }[order]
    )

    assert job.exited().exit_code == 0
    assert job.output() == b"over\n"


def test_end_of_the_terminal(keeper: KeeperProcess) -> None:
    """What is left of a terminal's job is ended, and its last words are there."""
    script = "sleep 300 & echo last; exit 3"
    job = keeper.launch("sh", "-c", script, tty=TerminalSize())
    record = job.exited()

    assert record.exit_code == 3
    assert job.output() == b"last\r\n"


def test_terminal_that_is_opened_again(keeper: KeeperProcess) -> None:
    """A job may close all of its terminal, and write to it by its name later."""
    script = "exec <&- >&- 2>&-; sleep 0.2; echo again > /dev/tty"
    job = keeper.launch("sh", "-c", script, tty=TerminalSize())
    job.exited()

    assert job.output() == b"again\r\n"


def test_much_at_once(keeper: KeeperProcess) -> None:
    """More than a pipe holds goes through it, as the job reads."""
    job = keeper.launch("sha256sum", stdin=True)
    job.launched()
    take(job, 1, "a")
    sent = 0

    for _ in range(20):
        keeper.send(WriteInput(job.id, 1, bytes(MAX_INPUT)))
        sent += MAX_INPUT
        moved(job, 1, sent)

    keeper.send(WriteInput(job.id, 1, eof=True))

    assert moved(job, 1, sent, ended=True).ended is EOF
    assert job.exited().exit_code == 0
