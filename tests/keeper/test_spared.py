"""When memory runs out, the daemon may be spared, but no job for its sake."""

import pytest

from tests.keeper.kept import KeeperProcess, Place


SCORE = "/proc/self/oom_score_adj"


def test_inherited(place: Place) -> None:
    """A job that is to be killed rather than others keeps that."""
    change = f"open({SCORE!r}, 'w').write('300')"

    with KeeperProcess(place.config(), change=change) as keeper:
        _, printed = keeper.run("cat", SCORE)

    assert printed == b"300\n"


@pytest.mark.parametrize(("score", "after"), [("-5", b"05"), ("0", b"0"), ("7", b"7")])
def test_not_inherited(place: Place, score: str, after: bytes) -> None:
    """A score that spares the daemon is taken from the job before it begins.

    A file stands for the kernel's: to be spared takes CAP_SYS_RESOURCE.
    """
    file = place.shared / "score"
    file.write_text(score)
    change = (
        "from pathlib import Path; from teleworkerd.keeper import launch;"
        f"launch._OOM_SCORE = Path({str(file)!r})"
    )

    with KeeperProcess(place.config(), change=change) as keeper:
        keeper.run("true")

    assert file.read_bytes() == after
