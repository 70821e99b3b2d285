"""The files with which we prove who we are, looked at before the server sees them."""

import binascii
import errno
import os
import re
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

from twctl.certificate import (
    CLIENT_AUTH,
    Certificate,
    format_moment,
    read_certificate,
)
from twctl.profile import Profile, ProfileError


MAX_FILE: Final = 4 << 20  # bytes; all authorities of a system have a quarter of a MiB
SOON: Final = 30 * 86_400  # seconds; who renews certificates by hand needs some days

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_BLOCK: Final = re.compile(
    rb"^-----BEGIN ([A-Z0-9 ]{1,40})-----[ \t\r]*\n(.*?)^-----END \1-----",
    re.MULTILINE | re.DOTALL,
)
_BEGIN: Final = re.compile(rb"^-----BEGIN [A-Z0-9 ]{1,40}-----", re.MULTILINE)
_NO_TEXT: Final = re.compile(rb"[^\t\n\r -~\x80-\xff]")

_CERTIFICATES: Final = frozenset(
    {"CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE"}
)
_ENCRYPTED: Final = "ENCRYPTED PRIVATE KEY"
_KEYS: Final = frozenset(
    {"PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY", _ENCRYPTED}
)
_HINTS: Final = {
    errno.ENOENT: "give the path of {what}",
    errno.ENOTDIR: "give the path of {what}",
    errno.EISDIR: "give the path of {what}",
    errno.EACCES: "use a file that you may read",
    errno.EMFILE: "close other files, or raise the limit ('ulimit -n')",
}


class _Kind(NamedTuple):
    """What one of the files should hold."""

    what: str
    labels: frozenset[str]
    convert: str


_CA: Final = _Kind(
    "the server's CA certificate", _CERTIFICATES, "openssl x509 -inform DER"
)
_CERT: Final = _Kind("your certificate", _CERTIFICATES, "openssl x509 -inform DER")
_KEY: Final = _Kind("your private key", _KEYS, "openssl pkey -inform DER")


class PemFile(NamedTuple):
    """One of the files, as it was when it was opened; its text names it."""

    kind: _Kind
    name: str
    data: bytes

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<{self}>"  # a key is not for tracebacks


class Credentials(NamedTuple):
    """The three files, each good for its purpose, and when both certificates end."""

    ca: PemFile
    cert: PemFile
    key: PemFile
    ca_ends: int
    cert_ends: int

    def ending(self, now: float) -> list[str]:
        """Return a sentence for each certificate that ends within 30 days."""
        return [
            f"{file} expires at {format_moment(ends)}, in {_span(ends - now)}; {what}"
            for file, ends, what in (
                (self.cert, self.cert_ends, "have a new one made"),
                (self.ca, self.ca_ends, "ask the server's operator for its successor"),
            )
            if 0 <= ends - now < SOON
        ]


def read_credentials(profile: Profile) -> Credentials:
    """Return the files of *profile*, each of which is read once.

    Raises `ProfileError` when one is missing, holds something else, is out of date
    or may not be used so, and for a key that others may read.
    """
    now = time.time()
    ca = _read(_CA, profile.ca, profile.file("ca"))
    authority = _check_authorities(ca, now)
    cert = _read(_CERT, profile.cert, profile.file("cert"))
    own = _check_own(cert, now)
    key = _read(_KEY, profile.key, profile.file("key"))
    _check_key(key)
    return Credentials(ca, cert, key, authority.ends, own.ends)


def read_end(cert: Path) -> int | None:
    """Return when the certificate in *cert* ends; None if it cannot be read."""
    try:
        return _certificates(_read(_CERT, cert, str(cert)))[0].ends
    except ProfileError:
        return None


def _read(kind: _Kind, path: Path, name: str) -> PemFile:
    try:
        with path.open("rb") as file:
            if kind is _KEY:
                _check_mode(path, name, os.fstat(file.fileno()))

            data = file.read(MAX_FILE + 1)
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "use another file").format(what=kind.what)
        raise ProfileError(
            f"{name} cannot be read: {error.strerror}; {hint}"
        ) from error
    except ValueError:  # a NUL in the path
        raise ProfileError(f"{name} is no path; give the path of {kind.what}") from None

    file_ = PemFile(kind, name, data)

    if len(data) > MAX_FILE:
        _refuse(file_, f"has more than {MAX_FILE >> 20} MiB")

    return file_


def _check_mode(path: Path, name: str, found: os.stat_result) -> None:
    """Look at the key that is open: what its name leads to may change.

    Whose it is does not matter: only root can read one that is another account's.
    """
    if not stat.S_ISREG(found.st_mode):
        return

    if found.st_mode & _OTHERS:
        raise ProfileError(
            f"{name} can be used by others (mode {found.st_mode & 0o777:04o});"
            f" run: chmod 600 {_quote(path)}"
        )


def _quote(path: Path) -> str:
    import shlex  # noqa: PLC0415 - only for a message

    return shlex.quote(str(path))


def _check_authorities(file: PemFile, now: float) -> Certificate:
    """Return the authority that ends last; there may be an old and a new one."""
    found = _certificates(file)

    # Who signed its own certificate vouches for itself, whatever it is.
    if not any(one.is_authority or one.is_self_issued for one in found):
        raise ProfileError(
            f"{file} is not the certificate of an authority (CA);"
            f" give the path of {_CA.what}"
        )

    current = [one for one in found if one.begins <= now <= one.ends]
    last = max(current or found, key=lambda one: one.ends)
    _check_dates(file, last, now, "ask the server's operator for the new one")
    return last


def _check_own(file: PemFile, now: float) -> Certificate:
    own = _certificates(file)[0]

    if own.is_authority:
        raise ProfileError(
            f"{file} is the certificate of an authority (CA);"
            f" give the path of {_CERT.what}, which it has signed"
        )

    _check_dates(file, own, now, "get a new one")

    if CLIENT_AUTH not in own.purposes:
        raise ProfileError(
            f"{file} does not say that it is for a client (extended key usage"
            " clientAuth); have one made that does, as gen_certs.sh makes them"
        )

    return own


def _check_dates(file: PemFile, one: Certificate, now: float, what: str) -> None:
    if now > one.ends:
        raise ProfileError(
            f"{file} expired at {format_moment(one.ends)};"
            f" {what} (or set this machine's clock right)"
        )

    if now < one.begins:
        raise ProfileError(
            f"{file} is not valid yet, only from"
            f" {format_moment(one.begins)} on; is this machine's clock right?"
        )


def _check_key(file: PemFile) -> None:
    label, body = _blocks(file)[0]

    if label == _ENCRYPTED or b"ENCRYPTED" in body.partition(b"\n")[0]:
        refuse_encrypted(file)


def refuse_encrypted(file: PemFile) -> NoReturn:
    """Raise what to do with an encrypted key."""
    raise ProfileError(
        f"{file} is encrypted, which twctl cannot ask for;"
        " decrypt it with 'openssl pkey'"
    )


def _certificates(file: PemFile) -> list[Certificate]:
    try:
        return [read_certificate(binascii.a2b_base64(b)) for _, b in _blocks(file)]
    except ValueError:
        refuse_damaged(file)


def refuse_damaged(file: PemFile) -> NoReturn:
    """Raise what to do with a file that looks right and is not."""
    raise ProfileError(
        f"{file} is damaged: what it holds is no usable"
        f" {'private key' if file.kind is _KEY else 'certificate'};"
        " copy it again, or have it made again"
    )


def _blocks(file: PemFile) -> Sequence[tuple[str, bytes]]:
    """Return the parts of *file* that its kind may have, one at least."""
    found = [(label.decode(), body) for label, body in _BLOCK.findall(file.data)]
    good = [(label, body) for label, body in found if label in file.kind.labels]

    if not (good or found) and _BEGIN.search(file.data):
        raise ProfileError(
            f"{file} is cut off: its PEM has no last line; copy it again"
        )

    return good or _refuse(file, _describe(file.data, [label for label, _ in found]))


def _describe(data: bytes, labels: Sequence[str]) -> str:
    if not data.strip():
        return "is empty"

    if labels:
        name = labels[0].lower()
        return f"holds {'an' if name[0] in 'aeiou' else 'a'} {name}"

    return "is binary" if _NO_TEXT.search(data) else "holds something else"


def _refuse(file: PemFile, found: str) -> NoReturn:
    kind = file.kind

    if found == "is binary":
        found = f"{found}; '{kind.convert}' may convert it"

    raise ProfileError(f"{file} {found}; give the path of {kind.what} in PEM")


def _span(seconds: float) -> str:
    for size, unit in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        count = int(seconds // size)

        if count:
            return f"{count} {unit}{'' if count == 1 else 's'}"

    return "less than a minute"
