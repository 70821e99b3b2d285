"""Warnings that are heard once a day."""

from pathlib import Path

from twctl.daily import is_due


NOW = 1_800_000_000.0
DAY = 86_400.0


def test_once_a_day(tmp_path: Path) -> None:
    """The same is due again a day later, though the days that are left are others."""
    environ = {"XDG_STATE_HOME": str(tmp_path)}

    def due(text: str, after: float) -> bool:
        return is_due(text, now=NOW + after, environ=environ)

    assert due("cert.pem ends in 12 days", 0)
    assert not due("cert.pem ends in 12 days", 60)
    assert not due("cert.pem ends in 11 days", 0.9 * DAY)
    assert due("other.pem ends in 12 days", 60)
    assert due("cert.pem ends in 11 days", 1.1 * DAY)


def test_nowhere_to_note_it(tmp_path: Path) -> None:
    """Where nothing can be written it is due each time."""
    (tmp_path / "twctl").write_text("in the way")
    environ = {"XDG_STATE_HOME": str(tmp_path)}

    assert is_due("x", now=NOW, environ=environ)
    assert is_due("x", now=NOW, environ=environ)
