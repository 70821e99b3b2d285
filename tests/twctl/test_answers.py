"""What a terminal answers, among the keys that are typed."""

import pytest

from twctl.commands.answers import Answers


ANSWERS = {
    "where the cursor is": b"\x1b[24;80R",
    "that all is well": b"\x1b[0n",
    "what it is": b"\x1b[?64;1;9;15;22c",
    "which version": b"\x1b[>41;371;0c",
    "a mode": b"\x1b[?2026;2$y",
    "a mode of ANSI": b"\x1b[4;2$y",
    "its size": b"\x1b[8;24;80t",
    "the flags of its keyboard": b"\x1b[?1u",
    "a colour": b"\x1b]11;rgb:0000/0000/0000\x1b\\",
    "a colour, ended by BEL": b"\x1b]11;rgb:0000/0000/0000\x07",
    "a setting": b"\x1bP1$r0m\x1b\\",
    "graphics": b"\x1b_Gi=31;OK\x1b\\",
}
KEYS = {
    "text": b"ls -l\r",
    "an arrow": b"\x1b[A",
    "an arrow of an application": b"\x1bOA",
    "F5": b"\x1b[15~",
    "Ctrl-Right": b"\x1b[1;5C",
    "a mouse": b"\x1b[<0;10;10M",
    "what is pasted": b"\x1b[200~text\x1b[201~",
    "Alt-x": b"\x1bx",
    "a key of a newer kind": b"\x1b[97;5u",
}


@pytest.fixture
async def answers() -> Answers:
    """Answers that are expected."""
    answers = Answers()
    answers.expect()
    return answers


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
async def test_answer(answers: Answers, answer: bytes) -> None:
    """Each is taken out, also where it comes in two parts."""
    for cut in range(len(answer) + 1):
        typed = answers.strip(b"a" + answer[:cut]) + answers.strip(answer[cut:] + b"b")

        assert typed == b"ab"


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
async def test_key(answers: Answers, key: bytes) -> None:
    """Keys are let through, also where they come in two parts."""
    for cut in range(len(key) + 1):
        assert answers.strip(key[:cut]) + answers.strip(key[cut:]) == key


async def test_escape(answers: Answers) -> None:
    """A key that may begin an answer is given up to who says that it does not."""
    typed = answers.strip(b"a\x1b")

    assert answers.is_holding
    assert (typed, answers.release()) == (b"a", b"\x1b")
    assert not answers.is_holding


async def test_last_answer(answers: Answers) -> None:
    """After the last answer all is typed, or asked by the job."""
    assert answers.strip(b"\x1b[0n") == b""
    assert answers.last_question() == b"\x1b[5n"
    assert answers.last_question() == b""

    assert answers.strip(b"\x1b[1;1Ra\x1b[0n\x1b[2;2R") == b"a\x1b[2;2R"
    assert answers.strip(b"\x1b[3;3R") == b"\x1b[3;3R"


async def test_none_expected() -> None:
    """Where nothing is shown again, nothing is asked nor taken out."""
    answers = Answers()

    assert answers.last_question() == b""
    assert answers.strip(b"\x1b[24;80R\x1b") == b"\x1b[24;80R\x1b"


async def test_terminal_that_does_not_answer(
    answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not waited for without end."""
    monkeypatch.setattr("twctl.commands.answers.PATIENCE", 0)
    answers.last_question()

    assert answers.strip(b"\x1b[24;80R") == b"\x1b[24;80R"
