"""How long to go on connecting again, and when to try next."""

import math

import pytest

from twctl.cli import main
from twctl.outage import FIRST_PAUSE, LONGEST_PAUSE, Outage, Patience, patience
from twctl.profile import BadSetting


def attempts(outage: Outage, now: float, *, refused: bool) -> tuple[list[float], float]:
    """Let every attempt fail; return the pauses, and the time of the giving up."""
    pauses = []

    while (pause := outage.next_pause(now)) is not None:
        pauses.append(pause)
        now += pause
        outage.failed(now, refused=refused)

    return pauses, now


def lost(at: float, how_patient: Patience | None = None) -> Outage:
    """Return an outage that has begun."""
    outage = Outage(how_patient or Patience())
    outage.lost(at)
    return outage


def test_silence() -> None:
    """A network that says nothing is tried for five minutes, at last once more."""
    pauses, end = attempts(lost(1000), 1000, refused=False)

    assert end == pytest.approx(1300)
    assert max(pauses) <= LONGEST_PAUSE
    assert FIRST_PAUSE / 2 <= pauses[0] <= FIRST_PAUSE


def test_wish_to_be_left_alone() -> None:
    """A pause that the server asks for is kept, but not beyond the patience."""
    outage = lost(1000, Patience(silent=10))

    assert 1003 <= 1000 + (outage.next_pause(1000, at_least=3) or 0) <= 1003.1
    assert outage.next_pause(1004, at_least=60) == 6
    assert outage.next_pause(1010, at_least=60) is None


def test_refusals() -> None:
    """A host that answers that nothing listens is tried for half a minute."""
    _, end = attempts(lost(1000), 1000, refused=True)

    assert 1030 < end < 1031


def test_refusals_after_silence() -> None:
    """A host that is started has its half minute from its first word on."""
    outage = lost(1000)
    outage.failed(1100, refused=False)
    outage.failed(1200, refused=True)
    outage.failed(1210, refused=True)

    assert outage.deadline == 1230

    outage.failed(1220, refused=False)

    assert outage.deadline == 1300


def test_short_patience() -> None:
    """A patience of our own holds for both; 0 leaves no attempt."""
    for refused in (False, True):
        short = lost(1000, patience(2.0))

        assert attempts(short, 1000, refused=refused)[1] == pytest.approx(1002)
        assert lost(1000, patience(0)).next_pause(1000) is None


def test_progress() -> None:
    """Whoever gets something through starts afresh, with short pauses too."""
    outage = lost(1000)
    attempts(outage, 1000, refused=False)
    outage.answered()
    outage.lost(5000)

    assert outage.deadline == 5300
    assert (outage.next_pause(5000) or math.inf) <= FIRST_PAUSE


def test_word_without_progress() -> None:
    """A server that is there but answers nothing is asked ever more rarely."""
    outage = lost(1000)
    attempts(outage, 1000, refused=False)
    outage.heard()
    outage.lost(5000)

    assert outage.deadline == 5300
    assert (outage.next_pause(5000) or 0) >= LONGEST_PAUSE / 2


def test_lost_without_a_word() -> None:
    """A session on which nothing came gives no more time."""
    outage = lost(1000)
    outage.lost(1100)

    assert outage.deadline == 1300
    assert outage.tried(1250) == 250


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, Patience()),
        ("", Patience()),
        ("0", Patience(0, 0)),
        ("1.5", Patience(1.5, 1.5)),
    ],
)
def test_environment(text: str | None, expected: Patience) -> None:
    """`TWCTL_RETRY_FOR` overrides both; who calls with a number overrides that."""
    environ = {} if text is None else {"TWCTL_RETRY_FOR": text}

    assert patience(None, environ=environ) == expected
    assert patience(7, environ=environ) == Patience(7, 7)


@pytest.mark.parametrize("text", ["x", "-1", "nan", "inf", "5m"])
def test_bad_environment(text: str) -> None:
    """What is no number of seconds is said to be none."""
    with pytest.raises(BadSetting, match="TWCTL_RETRY_FOR"):
        patience(None, environ={"TWCTL_RETRY_FOR": text})


@pytest.mark.usefixtures("environment")
def test_usage_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command line ends at once with a line, and 2 (125 for a run)."""
    monkeypatch.setenv("TWCTL_RETRY_FOR", "soon")

    assert main(["tail", "-f", "job"]) == 2
    assert main(["wait", "job"]) == 2
    assert main(["run", "-f", "true"]) == 125
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("twctl: error: TWCTL_RETRY_FOR=") for line in lines)
