"""Files of a client, good ones and spoilt ones."""

import re
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from tests.e2e.authority import Authority, Signed
from tests.e2e.pki import DAY
from tests.twctl.fake import context_of
from twctl.credentials import Credentials, read_credentials
from twctl.profile import Profile, ProfileError


ROOT: Final = Authority.root(ends=400 * DAY)
ALICE: Final = ROOT.client(ends=365 * DAY)

# What OpenSSL would say, and what a person can do nothing with.
WORDS_OF_OPENSSL: Final = re.compile(
    r"(?i)start.line|bad.base64|pem.lib|end.line|asn1|_ssl\.c|\[SSL|SSLError|mismatch"
    r"|not enough data|wrong tag|header too long|unsupported|decoder|errno|assigned"
)


def key_bytes(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
    form: PrivateFormat = PrivateFormat.PKCS8,
    encoding: Encoding = Encoding.PEM,
) -> bytes:
    """Return *key* as it stands in a file."""
    return key.private_bytes(encoding, form, NoEncryption())


CERT: Final = ALICE.pem
KEY: Final = key_bytes(ALICE.key)
CA: Final = ROOT.pem


def good_files(directory: Path) -> Profile:
    """Return three good files; nothing listens where they are for."""
    identity = ALICE.save(directory, "alice")
    ca = directory / "ca.pem"
    ca.write_bytes(Authority.root().pem + CA)
    return Profile("h", 1, ca, identity.cert, identity.key)


def refused(profile: Profile) -> str:
    """Return what is said of the files of *profile*, which must not be taken."""
    with pytest.raises(ProfileError) as caught:
        context_of(profile)

    text = str(caught.value)
    assert not WORDS_OF_OPENSSL.search(text)
    assert "\n" not in text
    return text


def spoil(path: Path, data: bytes) -> None:
    """Put *data* into *path*, which stays as private as it is."""
    with path.open("r+b") as file:
        file.truncate()
        file.write(data)


def read(profile: Profile) -> Credentials:
    """Return the files, which must be usable as well."""
    context_of(profile)
    return read_credentials(profile)


def with_files(profile: Profile, signed: Signed) -> Profile:
    """Put *signed* into the files of *profile*."""
    spoil(profile.cert, signed.pem)
    spoil(profile.key, key_bytes(signed.key))
    return profile
