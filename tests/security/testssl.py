"""Runs testssl against a port, and judges what it found."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final


# Protocols, ciphers, forward secrecy, what the server is set to, vulnerabilities.
FLAGS: Final = ("-p", "-s", "-f", "-S", "-U")

TIMEOUT: Final = 600.0  # seconds; it takes half a minute

BELOW: Final = ("SSLv2", "SSLv3", "TLS1", "TLS1_1", "TLS1_2")
NEVER: Final = ("cipherlist_NULL", "cipherlist_aNULL", "cipherlist_EXPORT")
WEAK: Final = ("cipherlist_LOW", "cipherlist_3DES_IDEA", "cipherlist_AVERAGE")
VULNERABILITIES: Final = (
    "heartbleed",
    "CCS",
    "ROBOT",
    "secure_renego",
    "secure_client_renego",
    "CRIME_TLS",
    "POODLE_SSL",
    "FREAK",
    "DROWN",
    "LOGJAM",
    "BEAST",
    "LUCKY13",
    "RC4",
)

EXPECTED: Final[Mapping[str, str]] = {
    **dict.fromkeys((*BELOW, *NEVER, *WEAK), "not offered"),
    "TLS1_3": "offered",
    "cipherlist_STRONG": "offered",
    "sessionresumption_ticket": "not supported",
    "TLS_session_ticket": "no",
    "TLS_extensions": "",
    **dict.fromkeys(VULNERABILITIES, ""),
}
"""What must have been looked at, and how what was found must begin."""

UNWANTED: Final[Mapping[str, str]] = {
    "DH_groups": "a client that is nobody can have the server compute for long",
}
"""What must not have been found, which testssl takes for good."""

GOOD: Final = frozenset({"OK", "INFO"})
MILD: Final = GOOD | {"LOW", "WARN", "DEBUG"}

BY_DESIGN: Final[Mapping[str, str]] = {
    "cert_chain_of_trust": "the CA is our own, which nobody else trusts",
    "cert_revocation": "the revocation list is a file, of which no certificate tells",
}


class ScanError(Exception):
    """There is no testssl, or it did not do its work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of what testssl found."""

    id: str
    severity: str
    finding: str

    def __str__(self) -> str:
        return f"{self.id}: {self.severity}: {self.finding}"


def scan(address: str, *, directory: Path) -> list[Finding]:
    """Return what testssl finds at HOST:PORT; *directory* is for its files."""
    program = shutil.which("testssl") or shutil.which("testssl.sh")

    if program is None:
        raise ScanError("testssl is not installed; its package is testssl.sh")

    file = directory / "found.json"
    done = subprocess.run(
        (
            *(program, "--quiet", "--warnings", "off", "--color", "0"),
            *("--nodns", "none", "--jsonfile", str(file), *FLAGS, address),
        ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        timeout=TIMEOUT,
        env={**os.environ, "TMPDIR": str(directory)},
    )

    # Its exit code counts what it did not like; only the file tells what that was.
    if not file.exists():
        raise ScanError(f"testssl found nothing at all:\n{done.stdout}")

    return read(json.loads(file.read_text("utf-8")))


def read(rows: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """Return the rows of testssl's JSON."""
    return [Finding(row["id"], row["severity"], row["finding"]) for row in rows]


def judge(findings: Iterable[Finding]) -> Iterator[str]:
    """Yield what is wrong, a line each: also what was not looked at."""
    found = list(findings)
    looked_at = {finding.id for finding in found}

    for name in EXPECTED:
        if name not in looked_at:
            yield f"{name}: testssl did not look"

    for each in found:
        if not each.finding.startswith(EXPECTED.get(each.id, "")):
            yield str(each)
        elif each.id in UNWANTED:
            yield f"{each} ({UNWANTED[each.id]})"
        elif each.id not in BY_DESIGN and each.severity not in _harmless(each.id):
            yield str(each)


def _harmless(name: str) -> frozenset[str]:
    # Of a vulnerability, a warning is that nobody knows.
    return GOOD if name in VULNERABILITIES else MILD
