"""What is said of the three files before anybody is connected to."""

import os
import re
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    PrivateFormat,
)

from tests.e2e.authority import ANY, SERVER, Authority, pem
from tests.e2e.pki import DAY, Identity
from tests.twctl.fake import context_of
from tests.twctl.files import (
    ALICE,
    CA,
    CERT,
    KEY,
    ROOT,
    good_files,
    key_bytes,
    read,
    refused,
    spoil,
    with_files,
)
from twctl.profile import Profile


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    """Three good files."""
    return good_files(tmp_path)


def test_good_files(profile: Profile) -> None:
    """Files that are in order are taken, and nothing ends soon."""
    assert read(profile).ending(0) == []


@pytest.mark.parametrize(
    "form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL]
)
@pytest.mark.parametrize("before", [b"", b"a comment\n", CERT])
def test_good_keys(profile: Profile, form: PrivateFormat, before: bytes) -> None:
    """A key may stand in either form, with something else before it."""
    spoil(profile.key, before + key_bytes(ALICE.key, form))

    read(profile)


def test_files_of_windows(profile: Profile) -> None:
    """Files whose lines end as on Windows are good."""
    for path in (profile.ca, profile.cert, profile.key):
        spoil(path, path.read_bytes().replace(b"\n", b"\r\n"))

    read(profile)


def test_chain(profile: Profile) -> None:
    """What signed the certificate may follow it in its file."""
    middle = ROOT.authority("middle")
    own = middle.client(ends=365 * DAY)
    spoil(profile.cert, own.pem)
    spoil(profile.key, key_bytes(own.key))

    assert b"END CERTIFICATE-----\n-----BEGIN" in own.pem
    read(profile)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o601, 0o644, 0o777])
def test_key_for_others(profile: Profile, mode: int) -> None:
    """A key that the group or others may use is refused; chmod is what to run."""
    profile.key.chmod(mode)

    text = refused(profile)

    assert f"--key {profile.key} can be used by others (mode {mode:04o})" in text
    assert text.endswith(f"run: chmod 600 {profile.key}")
    subprocess.run(text.partition("run: ")[2], shell=True, check=True)
    read(profile)


def test_command_for_an_odd_path(tmp_path: Path) -> None:
    """What is to be run can be run, whatever the file is called."""
    identity = ALICE.save(tmp_path / "a b'$(x)", "alice")
    identity.key.chmod(0o640)
    profile = Profile("h", 1, identity.cert, identity.cert, identity.key)
    spoil(profile.cert, CERT)
    ca = tmp_path / "ca.pem"
    ca.write_bytes(CA)
    profile = Profile("h", 1, ca, identity.cert, identity.key)

    subprocess.run(refused(profile).partition("run: ")[2], shell=True, check=True)

    read(profile)


def test_key_is_not_shown(profile: Profile) -> None:
    """Whoever prints what was read does not print the key."""
    assert "PRIVATE" not in repr(read(profile))


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o700])
def test_key_of_our_own(profile: Profile, mode: int) -> None:
    """A key that nobody else may use is taken."""
    profile.key.chmod(mode)

    read(profile)


def test_link_to_a_key(profile: Profile, tmp_path: Path) -> None:
    """What counts is the file that a symbolic link leads to, not the link."""
    link = tmp_path / "link.pem"
    link.symlink_to(profile.key)
    through = Profile("h", 1, profile.ca, profile.cert, link)
    read(through)

    profile.key.chmod(0o644)

    assert "can be used by others" in refused(through)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
def test_key_of_another_account(profile: Profile) -> None:
    """Root may use the key of another account, if only that account can read it."""
    os.chown(profile.key, 65_534, 65_534)
    read(profile)
    profile.key.chmod(0o640)

    assert "can be used by others (mode 0640)" in refused(profile)


def test_key_from_a_pipe(profile: Profile) -> None:
    """A key may come out of another program; no file need hold it."""
    reader, writer = os.pipe()
    os.write(writer, KEY)
    os.close(writer)

    try:
        read_end = Path(f"/dev/fd/{reader}")
        context_of(Profile("h", 1, profile.ca, profile.cert, read_end))
    finally:
        os.close(reader)


@pytest.mark.parametrize(
    ("begins", "ends", "words"),
    [
        (-2 * DAY, -DAY, r"expired at 20\d\d-\d\d-\d\d \S+ UTC; get a new one"),
        (DAY, 2 * DAY, r"not valid yet, only from 20\d\d-\d\d-\d\d \S+ UTC on; is"),
    ],
)
def test_dates(
    profile: Profile, begins: timedelta, ends: timedelta, words: str
) -> None:
    """A certificate out of its dates is refused here, with the date."""
    text = refused(with_files(profile, ROOT.client(begins=begins, ends=ends)))

    assert text.startswith(f"--cert {profile.cert} ")
    assert re.search(words, text)


@pytest.mark.parametrize(
    ("begins", "ends", "words"),
    [(-2 * DAY, -DAY, "expired at 20"), (DAY, 2 * DAY, "not valid yet, only from 20")],
)
def test_dates_of_the_ca(
    profile: Profile, begins: timedelta, ends: timedelta, words: str
) -> None:
    """So is a CA."""
    spoil(profile.ca, Authority.root(begins=begins, ends=ends).pem)

    text = refused(profile)

    assert text.startswith(f"--ca {profile.ca} ")
    assert words in text


def test_old_and_new_ca(profile: Profile) -> None:
    """One CA that is valid is enough, whatever else is in the file."""
    old = Authority.root(begins=-2 * DAY, ends=-DAY)
    spoil(profile.ca, old.pem + Authority.root(ends=400 * DAY).pem)

    assert read(profile).ending(0) == []


@pytest.mark.parametrize("purposes", [(), ANY, SERVER])
def test_purpose(profile: Profile, purposes: tuple[object, ...]) -> None:
    """A certificate that is not for clients is refused here."""
    text = refused(with_files(profile, ROOT.client(purposes=purposes)))

    assert f"--cert {profile.cert} does not say that it is for a client (ext" in text


def test_weak_key(profile: Profile, tmp_path: Path) -> None:
    """A key that TLS takes for too short is said as that."""
    identity = Identity(tmp_path / "weak.pem", tmp_path / "weak-key.pem")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:1024", "-nodes"),
            *("-subj", "/CN=alice", "-addext", "extendedKeyUsage=clientAuth"),
            *("-addext", "basicConstraints=critical,CA:FALSE"),
            *("-keyout", identity.key, "-out", identity.cert),
        ],
        check=True,
        capture_output=True,
    )
    weak = Profile("h", 1, profile.ca, identity.cert, identity.key)

    assert "has a key or signature that is too weak" in refused(weak)


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (timedelta(days=29, hours=1), "in 29 days"),
        (timedelta(days=1, minutes=1), "in 1 day;"),
        (timedelta(hours=5, minutes=1), "in 5 hours"),
        (timedelta(minutes=3, seconds=30), "in 3 minutes"),
        (timedelta(seconds=40), "in less than a minute"),
    ],
)
def test_end_is_near(profile: Profile, left: timedelta, words: str) -> None:
    """From 30 days before its end on, a certificate is spoken of, with the date."""
    credentials = read(with_files(profile, ROOT.client(ends=left)))

    (warning,) = credentials.ending(credentials.cert_ends - left.total_seconds())

    assert warning.startswith(f"--cert {profile.cert} expires at 20")
    assert words in warning
    assert warning.endswith("have a new one made")


def test_end_of_the_ca_is_near(profile: Profile) -> None:
    """The CA is spoken of too: the last in the file that ends."""
    spoil(profile.ca, Authority.root(ends=DAY).pem + Authority.root(ends=9 * DAY).pem)
    credentials = read(profile)

    (warning,) = credentials.ending(credentials.ca_ends - 8 * 86_400)

    assert warning.startswith(f"--ca {profile.ca} expires at 20")
    assert "in 8 days" in warning


def test_end_is_far(profile: Profile) -> None:
    """More than 30 days are not worth a word."""
    credentials = read(with_files(profile, ROOT.client(ends=31 * DAY)))

    assert credentials.ending(credentials.cert_ends - 30 * 86_400 - 60) == []


def test_bundle_of_many(profile: Profile) -> None:
    """A file with all the authorities of a system is no trouble."""
    spoil(profile.ca, pem(*[Authority.root(f"CA {n}").certificate for n in range(50)]))

    read(profile)
