"""Whether a client that is connected would still be let in, and for how long others."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from teleworkerd.certfiles import CertificateFiles
from teleworkerd.protocol.errors import PermissionDenied
from teleworkerd.server.auth import Principal
from teleworkerd.server.certificates import Certificate, CertificateError, format_moment
from teleworkerd.server.material import (
    RENEW_CA,
    RENEW_LIST,
    RENEW_SERVER,
    read_material,
)


Identity = tuple[bytes, bytes]  # of an authority, as `Certificate` has it

_SOON: Final = 30 * 86_400  # seconds before an end from which one is warned


class Trust:
    """Judges clients by *files*; raises `CertificateError` as `read_material` does."""

    def __init__(self, files: CertificateFiles) -> None:
        material = read_material(files)
        self._authorities = {each.der: each for each in material.authorities}
        self._roots = {
            each.identity: each
            for each in sorted(material.authorities, key=lambda each: each.ends)
            if each.has_issued(each)
        }
        self._former: dict[bytes, Certificate] = {}  # roots that there were before
        self._revoked: dict[Identity, frozenset[str]] | None = None

        if material.lists is not None:
            self._revoked = {
                each.identity: found.serials()
                for each in material.authorities
                if (found := material.list_of(each)) is not None
            }

    @property
    def has_lists(self) -> bool:
        """Whether there is a list of who is revoked."""
        return self._revoked is not None

    def refusal(self, principal: Principal, now: float) -> PermissionDenied | None:
        """Return why *principal* would not be let in at *now*; None if it would.

        *now* is in seconds since the epoch. That a list has ended is no reason to
        drop anybody: it keeps out who comes anew.
        """
        try:
            why = self._refusal(principal, now)
        except CertificateError as error:
            why = str(error)

        return None if why is None else PermissionDenied(why)

    def _refusal(self, principal: Principal, now: float) -> str | None:
        if now > principal.expires_at:
            return _expiry(principal)

        # Who has no certificate was not let in by one.
        if not principal.chain:
            return None

        if not self._is_anchored(principal.chain, now):
            return (
                "the server does not trust the authority of your certificate any more"
                f" (serial {principal.serial}); ask its operator for a new one"
            )

        if self._revoked is None:
            return None

        return self._revocation(principal, self._revoked)

    def _revocation(
        self, principal: Principal, revoked: Mapping[Identity, frozenset[str]]
    ) -> str | None:
        """Return why the chain is not good by the lists.

        OpenSSL looks at its first link alone; an authority that was revoked by the one
        above it counts here as well.
        """
        first, *others = principal.chain
        serial = principal.serial
        whose = "your certificate"

        for number, der in enumerate(others or [first]):
            above = self._read(der)
            serials = revoked.get(above.identity)

            if serials is None and number == 0:
                return (
                    "the server has no revocation list of the authority of your"
                    f" certificate (serial {serial}), and cannot know whether it was"
                    " revoked"
                )

            if serials is not None and serial in serials:
                return f"{whose} (serial {serial}) was revoked"

            serial, whose = above.serial, "your authority"

        return None

    def _is_anchored(self, chain: Sequence[bytes], now: float) -> bool:
        """Whether a root of ours vouches for a link of *chain*, of which the last was.

        A root that was renewed is another certificate, and has the same key.
        """
        last = chain[-1]

        if last in self._authorities:
            return True

        # All who have come by it are asked about after its renewal.
        if (former := self._former.get(last)) is None:
            former = self._former[last] = Certificate.read(last)

        root = self._roots.get(former.identity)

        if root is not None and root.is_valid_at(now):
            return True

        there = [each for each in self._authorities.values() if each.is_valid_at(now)]
        return any(_is_vouched_for(self._read(der), there) for der in chain)

    def _read(self, der: bytes) -> Certificate:
        return self._authorities.get(der) or Certificate.read(der)


def warnings(files: CertificateFiles, now: float) -> list[str]:
    """Return a sentence for each thing in *files* that ends within 30 days of *now*.

    Raises `CertificateError` as `read_material` does.
    """
    return [
        f"{what} {_tense(ends, now)} at {format_moment(ends)}; {remedy}"
        for what, ends, remedy in _ends(files)
        if ends - now < _SOON
    ]


def _tense(ends: float, now: float) -> str:
    return "expired" if ends < now else "expires"


def _expiry(principal: Principal) -> str:
    is_own = (
        not principal.chain
        or Certificate.read(principal.chain[0]).ends <= principal.expires_at
    )
    whose = "your certificate" if is_own else "the authority of your certificate"
    return (
        f"{whose} (serial {principal.serial}) expired at"
        f" {format_moment(principal.expires_at)}"
    )


def _is_vouched_for(link: Certificate, authorities: Sequence[Certificate]) -> bool:
    for each in authorities:
        if each.has_issued(link):
            others = [other for other in authorities if other is not each]

            if each.has_issued(each) or _is_vouched_for(each, others):
                return True

    return False


def _ends(files: CertificateFiles) -> Iterator[tuple[str, float, str]]:
    material = read_material(files)
    yield str(material.server_path), material.server.ends, RENEW_SERVER

    for link in material.chain[1:]:
        yield f"{link.name} in {material.server_path}", link.ends, RENEW_SERVER

    # One that was renewed ends with its successor.
    latest = {
        each.identity: each
        for each in sorted(material.authorities, key=lambda each: each.ends)
    }

    for authority in latest.values():
        yield f"{authority.name} in {material.ca_path}", authority.ends, RENEW_CA

    for revoked in material.lists or ():
        if revoked.ends is not None:
            yield (
                f"the list of {revoked.authority} in {material.lists_path}",
                revoked.ends,
                f"nobody is let in from then on: {RENEW_LIST}",
            )
