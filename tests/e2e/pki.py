"""Certificates for the tests: good ones from gen_certs.sh, odd ones from openssl."""

import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Final


ROOT: Final = Path(__file__).resolve().parents[2]

DAY: Final = timedelta(days=1)

# `openssl ca` is the only command of OpenSSL 3.0 that sets both ends of the validity.
CA_CONFIG: Final = """\
[ca]
default_ca = this
[this]
database = index.txt
new_certs_dir = .
rand_serial = yes
unique_subject = no
default_md = sha256
policy = anything
[anything]
commonName = optional
organizationName = optional
[client]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = DNS:localhost, IP:127.0.0.1
[stranger]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = DNS:elsewhere.invalid
"""


class Purpose(StrEnum):
    """Which section of the configuration a certificate is made from."""

    CLIENT = "client"
    SERVER = "server"
    SERVER_ELSEWHERE = "stranger"


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its key."""

    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Certificates:
    """A directory as gen_certs.sh makes it."""

    directory: Path

    @property
    def ca(self) -> Path:
        return self.directory / "ca.pem"

    @property
    def ca_key(self) -> Path:
        return self.directory / "ca-key.pem"

    def of(self, name: str) -> Identity:
        """Return the certificate and key of the client (or server) *name*."""
        return Identity(
            self.directory / f"{name}.pem", self.directory / f"{name}-key.pem"
        )


def generate(directory: Path, *names: str) -> Certificates:
    """Make a CA, a server for loopback and a client for each of *names*."""
    _run(ROOT / "gen_certs.sh", "--dir", directory, *names)
    return Certificates(directory)


def revoke(certificates: Certificates, name: str) -> None:
    """Write a `crl.pem` that says that the certificate of *name* is revoked."""
    _run(ROOT / "gen_certs.sh", "--dir", certificates.directory, "--revoke", name)


def issue(
    certificates: Certificates,
    subject: str,
    *,
    into: Path,
    purpose: Purpose = Purpose.CLIENT,
    begins: timedelta = -DAY,
    ends: timedelta = 90 * DAY,
) -> Identity:
    """Make a certificate by the CA of *certificates* that may be odd in any way.

    *subject* is in openssl's notation, `/CN=alice`. *begins* and *ends* are
    relative to now. The files are written to the directory *into*.
    """
    into.mkdir(parents=True, exist_ok=True)
    (into / "ca.cnf").write_text(CA_CONFIG)
    (into / "index.txt").touch()
    identity = Identity(into / "odd.pem", into / "odd-key.pem")
    _run(
        *("openssl", "req", "-new", "-newkey", "ec", "-nodes", "-batch"),
        *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", subject),
        *("-keyout", identity.key, "-out", "odd.csr"),
        directory=into,
    )
    _run(
        *("openssl", "ca", "-batch", "-notext", "-config", "ca.cnf"),
        *("-cert", certificates.ca, "-keyfile", certificates.ca_key),
        *("-in", "odd.csr", "-out", identity.cert, "-extensions", purpose),
        *("-startdate", _date(begins), "-enddate", _date(ends)),
        directory=into,
    )
    return identity


def _date(relative: timedelta) -> str:
    return (datetime.now(UTC) + relative).strftime("%Y%m%d%H%M%SZ")


def _run(*command: str | Path, directory: Path | None = None) -> None:
    done = subprocess.run(
        command,
        cwd=directory,
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"
