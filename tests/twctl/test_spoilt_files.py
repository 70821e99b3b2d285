"""What is said of files that are not there, or not what they should be."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
)

from tests.e2e.authority import new_key
from tests.twctl.fake import context_of
from tests.twctl.files import (
    ALICE,
    CA,
    CERT,
    KEY,
    ROOT,
    WORDS_OF_OPENSSL,
    good_files,
    key_bytes,
    refused,
    spoil,
)
from twctl.profile import Profile, ProfileError


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    """Three good files."""
    return good_files(tmp_path)


SPOILT: Final[dict[str, tuple[str, bytes, str]]] = {
    **{
        f"empty {flag}": (flag, b"", "is empty; give the path of")
        for flag in ("ca", "cert", "key")
    },
    **{
        f"blank {flag}": (flag, b" \n\r\n", "is empty; give the path of")
        for flag in ("ca", "cert", "key")
    },
    **{
        f"text {flag}": (flag, b"hello\n", "holds something else; give the path of")
        for flag in ("ca", "cert", "key")
    },
    **{
        f"binary {flag}": (flag, bytes(range(256)), "is binary; 'openssl")
        for flag in ("ca", "cert", "key")
    },
    **{
        f"line {flag}": (flag, b"-----BEGIN CERTIFICATE-----\n", "is cut off")
        for flag in ("ca", "cert", "key")
    },
    "cut ca": ("ca", CA[: len(CA) // 2], "is cut off"),
    "cut cert": ("cert", CERT[: len(CERT) // 2], "is cut off"),
    "cut key": ("key", KEY[: len(KEY) // 2], "is cut off"),
    "shortened ca": ("ca", CA[:200] + b"\n" + CA[-26:], "is damaged"),
    "shortened cert": ("cert", CERT[:200] + b"\n" + CERT[-26:], "is damaged"),
    "shortened key": ("key", KEY[:100] + b"\n" + KEY[-26:], "is damaged"),
    "DER ca": ("ca", ROOT.certificate.public_bytes(Encoding.DER), "'openssl x509"),
    "DER cert": ("cert", ALICE.certificate.public_bytes(Encoding.DER), "'openssl x509"),
    "DER key": (
        "key",
        key_bytes(ALICE.key, encoding=Encoding.DER),
        "'openssl pkey -inform DER'",
    ),
    "key as ca": ("ca", KEY, "holds a private key; give the path of the server's CA"),
    "key as cert": ("cert", KEY, "holds a private key; give the path of your cert"),
    "cert as key": ("key", CERT, "holds a certificate; give the path of your private"),
    "CA as key": ("key", CA, "holds a certificate; give the path of your private"),
    "public key": (
        "key",
        ALICE.key.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        ),
        "holds a public key",
    ),
    "CA as cert": ("cert", CA, "is the certificate of an authority (CA); give"),
    "cert as CA": ("ca", CERT, "is not the certificate of an authority (CA); give"),
    "key of another": ("key", key_bytes(new_key()), "is not the key of --cert"),
    "key of another kind": (
        "key",
        key_bytes(rsa.generate_private_key(65537, 2048)),
        "is not the key of --cert",
    ),
    "encrypted key": (
        "key",
        ALICE.key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")
        ),
        "is encrypted",
    ),
    "old encrypted key": (
        "key",
        ALICE.key.private_bytes(
            Encoding.PEM,
            PrivateFormat.TraditionalOpenSSL,
            BestAvailableEncryption(b"x"),
        ),
        "is encrypted",
    ),
    "garbage in cert": (
        "cert",
        b"-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n",
        "is damaged: what it holds is no usable certificate",
    ),
    "no base64 in cert": (
        "cert",
        b"-----BEGIN CERTIFICATE-----\n!$%&\n-----END CERTIFICATE-----\n",
        "is damaged: what it holds is no usable certificate",
    ),
    "garbage in key": (
        "key",
        b"-----BEGIN PRIVATE KEY-----\naGVsbG8=\n-----END PRIVATE KEY-----\n",
        "is damaged: what it holds is no usable private key",
    ),
    "garbage after cert": (
        "cert",
        CERT + b"-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n",
        "is damaged: what it holds is no usable certificate",
    ),
    "garbage after CA": (
        "ca",
        CA + b"-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n",
        "is damaged: what it holds is no usable certificate",
    ),
    "endless ca": ("ca", bytes(5 << 20), "has more than 4 MiB"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_spoilt_file(profile: Profile, name: str) -> None:
    """Each spoilt file is named with its flag, what it is, and what to do."""
    flag, data, words = SPOILT[name]
    path: Path = getattr(profile, flag)
    spoil(path, data)

    text = refused(profile)

    assert text.startswith(f"--{flag} {path} ")
    assert words in text


@pytest.mark.parametrize("flag", ["ca", "cert", "key"])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("change", ["drop", "flip", "line"])
def test_any_damage(profile: Profile, flag: str, share: float, change: str) -> None:
    """Whatever befalls a file, OpenSSL's words about it are not passed on."""
    path: Path = getattr(profile, flag)
    data = bytearray(path.read_bytes())
    at = int(len(data) * share)

    if change == "drop":
        del data[at : at + 4]
    elif change == "flip":
        data[at] = ord("A") if data[at] != ord("A") else ord("B")
    else:
        data[at : at + 64] = b"A" * 64

    spoil(path, bytes(data))

    text = ""

    try:
        context_of(profile)
    except ProfileError as error:
        text = str(error)

    # Much of a certificate may be changed, and only its signature tells.
    assert re.match(f"(--{flag} {path} |$)", text)
    assert not WORDS_OF_OPENSSL.search(text)


def become_a_directory(path: Path) -> None:
    """Put a directory where a file is."""
    path.unlink()
    path.mkdir()


def become_a_loop(path: Path) -> None:
    """Put a link where a file is that leads to itself."""
    path.unlink()
    path.symlink_to(path)


MISSING: Final[dict[str, tuple[Callable[[Path], None], str]]] = {
    "missing": (Path.unlink, "cannot be read: No such file or directory; give the"),
    "directory": (become_a_directory, "cannot be read: Is a directory; give the"),
    "loop": (become_a_loop, "cannot be read: Too many levels"),
}


@pytest.mark.parametrize("flag", ["ca", "cert", "key"])
@pytest.mark.parametrize("name", MISSING)
def test_file_that_is_not_there(profile: Profile, flag: str, name: str) -> None:
    """What cannot be opened is named, with its flag and the reason."""
    path: Path = getattr(profile, flag)
    befall, words = MISSING[name]
    befall(path)

    text = refused(profile)

    assert text.startswith(f"--{flag} {path} ")
    assert words in text


def test_path_that_is_none(profile: Profile) -> None:
    """A path that no file can have is said as that."""
    odd = Profile("h", 1, Path("a\0b"), profile.cert, profile.key)

    assert "is no path" in refused(odd)
