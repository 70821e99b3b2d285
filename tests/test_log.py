"""Log lines: one for each thing that happened, whatever it is called."""

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest

from teleworkerd.log import set_up


Stderr = pytest.CaptureFixture[str]


@pytest.fixture
def stderr(capsys: Stderr) -> Iterator[Stderr]:
    """What is written to stderr; the logging of the tests is put back after."""
    root = logging.getLogger()
    handlers, level, raises = root.handlers[:], root.level, logging.raiseExceptions
    root.handlers = []
    yield capsys
    root.handlers, logging.raiseExceptions = handlers, raises
    root.setLevel(level)


def explode() -> None:
    """Log an exception."""
    try:
        _ = 1 // 0
    except ZeroDivisionError:
        logging.getLogger("a.b").exception("outside")


def test_text(stderr: Stderr) -> None:
    """A line has time in UTC, level, module and message."""
    set_up(level="info", form="text")
    record = logging.makeLogRecord(
        {"name": "a.b", "levelname": "INFO", "levelno": 20, "msg": "job %s", "args": 7}
    )
    record.created, record.msecs = 1_000_000_000.25, 250.0
    logging.getLogger("a.b").handle(record)

    assert stderr.readouterr().err == "2001-09-09T01:46:40.250Z INFO    a.b: job 7\n"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\nb", r"a\nb"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\udcff", r"\udcff"),
        ("\u2028\u202e", r"\u2028\u202e"),
        ("grün", "grün"),
    ],
)
def test_text_is_one_line(stderr: Stderr, name: str, shown: str) -> None:
    """Nobody writes a second line, or to the terminal, through a name."""
    set_up(level="info", form="text")
    logging.getLogger("x").info("job %s", name)

    text = stderr.readouterr().err
    assert text.endswith(f" x: job {shown}\n")
    assert text.count("\n") == 1


def test_text_shows_the_traceback(stderr: Stderr) -> None:
    """A bug has its traceback below its line."""
    set_up(level="info", form="text")
    explode()

    assert "a.b: outside\nTraceback" in stderr.readouterr().err


def test_json(stderr: Stderr) -> None:
    """A line is one object; a message of any bytes is text in it."""
    set_up(level="info", form="json")
    logging.getLogger("a.b").warning("job %s", "x\n\udcff")
    (line,) = stderr.readouterr().err.splitlines()
    entry = json.loads(line)

    assert entry.pop("time").endswith("Z")
    assert entry == {"level": "warning", "logger": "a.b", "message": "job x\n\udcff"}


def test_json_holds_the_traceback(stderr: Stderr) -> None:
    """A traceback is a field, not more lines."""
    set_up(level="info", form="json")
    explode()
    (line,) = stderr.readouterr().err.splitlines()

    assert "ZeroDivisionError" in json.loads(line)["traceback"]


def test_level(stderr: Stderr) -> None:
    """What is below the level is not there; setting up again counts alone."""
    set_up(level="debug", form="text")
    set_up(level="warning", form="text")
    logging.getLogger("x").info("quiet")
    logging.getLogger("x").warning("loud")

    (line,) = stderr.readouterr().err.splitlines()
    assert line.endswith("x: loud")


def test_reader_gone(stderr: Stderr, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that nobody can write to stops nothing."""
    closed = io.StringIO()
    monkeypatch.setattr(sys, "stderr", closed)
    set_up(level="info", form="text")
    closed.close()

    logging.getLogger("x").info("unheard")
