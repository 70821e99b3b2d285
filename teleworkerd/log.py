"""Log lines for the person woken at night: text or JSON, on stderr."""

import json
import logging
import sys
import time


class TextFormatter(logging.Formatter):
    """One line: time in UTC, level, module, message."""

    default_msec_format = "%s.%03dZ"
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        """Return the line; control characters of the message are escaped."""
        line = super().formatMessage(record)
        return line if line.isprintable() else _escape(line)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message and traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return *record* as JSON."""
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }

        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)

        return json.dumps(entry)


def set_up(*, level: str, form: str) -> None:
    """Send everything from *level* up to stderr, in the *form* text or json."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # A log whose reader has gone must not take the daemon with it.
    logging.raiseExceptions = False


def _escape(line: str) -> str:
    return "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape").decode()
        for character in line
    )
