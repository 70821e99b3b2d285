"""What the certificate files hold, and what is wrong with it.

OpenSSL takes nearly everything at a start and then refuses every client, each for a
reason that is not theirs; so all of that is looked at before.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from teleworkerd.certfiles import CA, CERTIFICATE, REVOCATIONS, CertificateFiles
from teleworkerd.server import certificates
from teleworkerd.server.certificates import (
    SERVER_AUTH,
    Certificate,
    CertificateError,
    RevocationList,
    format_moment,
    read_blocks,
)


RENEW_LIST: Final = "make a new one with 'gen_certs.sh --renew-crl', and reload"
RENEW_SERVER: Final = (
    f"remove {CERTIFICATE}, run gen_certs.sh again with each --host, and reload"
)
RENEW_CA: Final = (
    f"remove {CA}, run gen_certs.sh again (the key stays), give the new one to"
    " everybody, and reload"
)


@dataclass(frozen=True, slots=True)
class Material:
    """What is in the files of a directory, each by its path for messages.

    `chain` is the server's certificate and what comes with it; `lists` is None
    where there is no `crl.pem`.
    """

    server_path: Path
    ca_path: Path
    lists_path: Path
    chain: tuple[Certificate, ...]
    authorities: tuple[Certificate, ...]
    lists: tuple[RevocationList, ...] | None

    @property
    def server(self) -> Certificate:
        """The server's own certificate."""
        return self.chain[0]

    def list_of(self, authority: Certificate) -> RevocationList | None:
        """Return the list that *authority* has signed, if it is there."""
        return next((one for one in self.lists or () if one.is_of(authority)), None)

    def needs_list(self, authority: Certificate) -> bool:
        """Whether clients of *authority* have nothing but its list to be let in by.

        One that has issued another authority is not expected to issue clients.
        """
        return authority.issues_clients and not any(
            authority.has_issued(other)
            for other in self.authorities
            if other.identity != authority.identity
        )


def read_material(files: CertificateFiles) -> Material:
    """Return what is in *files*; raises `CertificateError` with path and reason."""
    server, ca, lists = (files.path(name) for name in (CERTIFICATE, CA, REVOCATIONS))
    return Material(
        server_path=server,
        ca_path=ca,
        lists_path=lists,
        chain=_certificates(server, files.certificate),
        authorities=_certificates(ca, files.ca),
        lists=(None if files.revocations is None else _lists(lists, files.revocations)),
    )


def check_material(material: Material, now: float) -> None:
    """Raise `CertificateError` for what would keep the server, or everybody, out.

    *now* is in seconds since the epoch.
    """
    _check_server(material.server, material.server_path, now)
    _check_authorities(material, now)

    for each in material.lists or ():
        _check_list(each, material, now)

    if material.lists is not None:
        _check_lists(material, now)


def _certificates(path: Path, content: bytes) -> tuple[Certificate, ...]:
    try:
        blocks = read_blocks(content, certificates.CERTIFICATE)
        return tuple(map(Certificate.read, blocks))
    except CertificateError as error:
        raise CertificateError(f"{path} cannot be used: {error}") from error


def _lists(path: Path, content: bytes) -> tuple[RevocationList, ...]:
    try:
        blocks = read_blocks(content, certificates.REVOCATION_LIST)
        return tuple(map(RevocationList.read, blocks))
    except CertificateError as error:
        raise CertificateError(f"{path} cannot be used: {error}") from error


def _check_server(server: Certificate, path: Path, now: float) -> None:
    _check_dates(path, server.begins, server.ends, now, remedy=RENEW_SERVER)

    if server.purposes is None or SERVER_AUTH not in server.purposes:
        raise CertificateError(
            f"{path} does not say that it is for a server (extended key usage"
            f" serverAuth); {RENEW_SERVER}"
        )

    if not server.is_named:
        raise CertificateError(
            f"{path} has no subject alternative name, and clients look at nothing"
            f" else; {RENEW_SERVER}"
        )


def _check_authorities(material: Material, now: float) -> None:
    path = material.ca_path

    for each in material.authorities:
        if not each.is_authority:
            raise CertificateError(
                f"{path} cannot be used: {each.name} is not an authority (basic"
                " constraints CA:TRUE); take its certificate out"
            )

        if flaws := each.flaws():
            raise CertificateError(
                f"{path} cannot be used: the strict checks of X.509 refuse"
                f" {each.name}: {', '.join(flaws)}; have the authority make its"
                " certificate anew"
            )

    # One that is over does no harm beside its successor.
    if not any(each.is_valid_at(now) for each in material.authorities):
        latest = max(material.authorities, key=lambda each: each.ends)
        _check_dates(path, latest.begins, latest.ends, now, remedy=RENEW_CA)


def _check_list(revoked: RevocationList, material: Material, now: float) -> None:
    path = material.lists_path
    signers = [each for each in material.authorities if revoked.is_of(each)]

    if not signers:
        is_named = any(map(revoked.is_named_for, material.authorities))
        raise CertificateError(
            f"{path} is of another authority: {revoked.authority}"
            + (
                f", whose name is in {material.ca_path}, has signed it with another key"
                if is_named
                else f" is not in {material.ca_path}"
            )
            + "; take the list of the right one"
        )

    if not any(each.signs_lists for each in signers):
        raise CertificateError(
            f"{path} cannot be used: the key usage of {revoked.authority} lacks"
            " cRLSign; have the authority make its certificate anew"
        )

    if not revoked.is_complete:
        raise CertificateError(
            f"{path} cannot be used: that of {revoked.authority} is only a part of a"
            " list, or the changes of one; take a complete list"
        )

    if revoked.ends is None:
        raise CertificateError(
            f"{path} cannot be used: it does not say when the next one comes"
            f" (nextUpdate); {RENEW_LIST}"
        )

    _check_dates(
        path,
        revoked.begins,
        revoked.ends,
        now,
        remedy=f"until there is a new one nobody would be let in: {RENEW_LIST}",
    )


def _check_lists(material: Material, now: float) -> None:
    """Look whether each authority has one list: without it OpenSSL takes no client."""
    path = material.lists_path
    there = [each for each in material.authorities if each.is_valid_at(now)]

    for each in there:
        if sum(one.is_of(each) for one in material.lists or ()) > 1:
            raise CertificateError(
                f"{path} has two lists of {each.name}; keep the newer one alone"
            )

    lacking = sorted(
        {
            each.name
            for each in there
            if material.needs_list(each) and material.list_of(each) is None
        }
    )

    if lacking:
        raise CertificateError(
            f"{path} has no list of {_join(lacking)}, so nobody with a certificate of"
            f" that authority would be let in; add its list to the file, or take"
            f" the authority out of {material.ca_path}"
        )


def _check_dates(
    path: Path, begins: float, ends: float, now: float, *, remedy: str
) -> None:
    if now > ends:
        raise CertificateError(f"{path} expired at {format_moment(ends)}; {remedy}")

    if now < begins:
        raise CertificateError(
            f"{path} is not valid before {format_moment(begins)}, and it is"
            f" {format_moment(now)}; look at the clock"
        )


def _join(names: Iterable[str]) -> str:
    return ", ".join(names)
