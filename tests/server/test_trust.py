"""Whether somebody who is connected would still be let in, and what ends soon."""

import ssl
import time
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from teleworkerd.certfiles import CertificateFiles, read_files
from teleworkerd.server.auth import Principal
from teleworkerd.server.certificates import Certificate
from teleworkerd.server.trust import Trust, warnings
from tests.e2e.authority import Authority, Signed, directory_of
from tests.e2e.pki import DAY
from tests.server.handshakes import shake_hands


NOW: Final = time.time()
ROOT: Final = Authority.root(ends=400 * DAY)
BELOW: Final = ROOT.authority("below", ends=400 * DAY)


def principal(client: Signed, root: Authority = ROOT) -> Principal:
    """Return who *client* was taken for when *root* was trusted."""
    chain = (*client.der, root.certificate.public_bytes(Encoding.DER))
    links = [Certificate.read(der) for der in chain]
    return Principal("alice", links[0].serial, min(link.ends for link in links), chain)


def files_of(
    path: Path, *authorities: Authority, lists: bytes | None = None
) -> CertificateFiles:
    """Return the files of a server that trusts *authorities* alone."""
    certs = directory_of(path, authorities[0].server(), *authorities, lists=lists)
    return read_files(certs.directory)


def refusal(
    path: Path,
    peer: Principal,
    *authorities: Authority,
    lists: bytes | None = None,
    now: float = NOW,
) -> str | None:
    """Return why *peer* would not be let in by a server that trusts *authorities*."""
    error = Trust(files_of(path, *authorities, lists=lists)).refusal(peer, now)
    return None if error is None else str(error)


def test_nothing_has_changed(tmp_path: Path) -> None:
    """Who was let in by the same files stays."""
    peer = principal(ROOT.client())

    assert refusal(tmp_path, peer, ROOT) is None
    assert refusal(tmp_path, peer, ROOT, lists=ROOT.revoke()) is None


def test_expired(tmp_path: Path) -> None:
    """Who has a certificate that is over goes, and not a second before."""
    peer = principal(ROOT.client(ends=DAY))
    ends = peer.expires_at
    moment = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(ends))

    assert refusal(tmp_path, peer, ROOT, now=ends) is None
    assert refusal(tmp_path, peer, ROOT, now=ends + 0.5) == (
        f"your certificate (serial {peer.serial}) expired at {moment}"
    )


def test_expired_authority(tmp_path: Path) -> None:
    """If that of an authority is over, it is not said of the client's own."""
    peer = principal(ROOT.authority("short", ends=DAY).client(ends=2 * DAY))

    message = refusal(tmp_path, peer, ROOT, now=peer.expires_at + 1)

    assert message is not None
    assert message.startswith("the authority of your certificate (serial ")


def test_revoked(tmp_path: Path) -> None:
    """Who is on the list of the authority goes; others stay."""
    alice, other = ROOT.client(), ROOT.client()
    lists = ROOT.revoke(alice.certificate)
    peer = principal(alice)

    assert refusal(tmp_path, peer, ROOT, lists=lists) == (
        f"your certificate (serial {peer.serial}) was revoked"
    )
    assert refusal(tmp_path, principal(other), ROOT, lists=lists) is None


def test_number_on_the_list_of_another(tmp_path: Path) -> None:
    """The same number by another authority is another certificate."""
    other = Authority.root("Other")
    alice = ROOT.client()
    lists = ROOT.revoke() + other.revoke(alice.certificate)

    assert refusal(tmp_path, principal(alice), ROOT, other, lists=lists) is None


def test_revoked_by_a_renewed_authority(tmp_path: Path) -> None:
    """The list of an authority that was renewed is for what it signed before."""
    renewed = Authority.root(key=ROOT.key)
    alice = ROOT.client()
    lists = renewed.revoke(alice.certificate)

    message = refusal(tmp_path, principal(alice), renewed, lists=lists)

    assert message is not None
    assert "was revoked" in message


def test_revoked_authority(tmp_path: Path) -> None:
    """With an authority, all of its clients go: OpenSSL looks at theirs alone."""
    peer = principal(BELOW.client())
    lists = ROOT.revoke(BELOW.certificate) + BELOW.revoke()

    message = refusal(tmp_path, peer, ROOT, BELOW, lists=lists)

    assert message is not None
    assert message.startswith("your authority (serial ")
    assert message.endswith("was revoked")


def test_list_of_its_authority_is_missing(tmp_path: Path) -> None:
    """Where there are lists, an authority without one vouches for nobody."""
    peer = principal(BELOW.client())

    message = refusal(tmp_path, peer, ROOT, lists=ROOT.revoke())

    assert message is not None
    assert "has no revocation list of the authority of your certificate" in message


def test_list_that_has_ended(tmp_path: Path) -> None:
    """A list that is over keeps others out, and drops nobody."""
    lists = ROOT.revoke(begins=-2 * DAY, ends=-DAY)

    assert refusal(tmp_path, principal(ROOT.client()), ROOT, lists=lists) is None


def test_unknown_authority(tmp_path: Path) -> None:
    """When the authority is not trusted any more, its clients go."""
    peer = principal(ROOT.client())

    assert refusal(tmp_path, peer, Authority.root()) == (
        "the server does not trust the authority of your certificate any more"
        f" (serial {peer.serial}); ask its operator for a new one"
    )


@pytest.mark.parametrize("issuer", [ROOT, BELOW], ids=["root", "below"])
def test_renewed_authority(tmp_path: Path, issuer: Authority) -> None:
    """An authority that was renewed with its key vouches for what it did before."""
    renewed = Authority.root(key=ROOT.key, ends=500 * DAY)

    assert refusal(tmp_path, principal(issuer.client()), renewed) is None


def test_authority_beside_another(tmp_path: Path) -> None:
    """While both are trusted, everybody stays."""
    assert refusal(tmp_path, principal(ROOT.client()), Authority.root(), ROOT) is None


def test_intermediate_without_its_root(tmp_path: Path) -> None:
    """One below vouches for nobody while nobody vouches for it, as with OpenSSL."""
    peer, other = principal(BELOW.client()), Authority.root("Other")

    assert refusal(tmp_path, peer, other, BELOW) is not None


def test_intermediate_under_another_root(tmp_path: Path) -> None:
    """A way to a root that is trusted may be another than it was."""
    old, new = Authority.root("Old"), Authority.root("New")
    below = old.authority("below")
    crossed = new.authority("below", key=below.key)
    peer = principal(below.client(), old)

    assert refusal(tmp_path, peer, new, crossed) is None
    assert refusal(tmp_path, peer, new) is not None


def test_renewed_authority_that_is_over(tmp_path: Path) -> None:
    """A root that has ended vouches for nobody."""
    peer = principal(ROOT.client(ends=30 * DAY))
    renewed = Authority.root(key=ROOT.key, ends=DAY)

    assert refusal(tmp_path, peer, renewed) is None
    assert refusal(tmp_path, peer, renewed, now=NOW + 2 * 86_400) is not None


OTHER: Final = Authority.root("Other")
RENEWED: Final = Authority.root(key=ROOT.key, ends=500 * DAY)
CROSSED: Final = OTHER.authority("below", key=BELOW.key)
CLIENTS: Final = {
    "root": ROOT.client(),
    "below": BELOW.client(),
    "deeper": BELOW.authority("deeper").client(),
}
REVOKED: Final = [each.certificate for each in CLIENTS.values()]
SETS: Final[dict[str, tuple[tuple[Authority, ...], bytes | None]]] = {
    "the same": ((ROOT,), None),
    "renewed": ((RENEWED,), None),
    "both": ((ROOT, RENEWED), None),
    "another": ((OTHER,), None),
    "another as well": ((OTHER, ROOT), None),
    "below without its root": ((OTHER, BELOW), None),
    "below under another root": ((OTHER, CROSSED), None),
    "same name": ((Authority.root(),), None),
    "empty list": ((ROOT,), ROOT.revoke()),
    "list": ((ROOT,), ROOT.revoke(*REVOKED)),
    "list by the renewed": ((RENEWED,), RENEWED.revoke(*REVOKED)),
    "both lists": ((ROOT, BELOW), ROOT.revoke() + BELOW.revoke(*REVOKED)),
    "list of the one below": ((ROOT, BELOW), BELOW.revoke()),
    "list of another": ((ROOT, OTHER), ROOT.revoke() + OTHER.revoke(*REVOKED)),
}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("name", SETS)
def test_same_as_openssl(tmp_path: Path, client: str, name: str) -> None:
    """Who stays by other files is who would be let in by them."""
    authorities, lists = SETS[name]
    certs = directory_of(tmp_path, authorities[0].server(), *authorities, lists=lists)
    peer = CLIENTS[client]

    try:
        shake_hands(certs, peer.save(tmp_path / "client", "client"))
    except ssl.SSLCertVerificationError:
        is_let_in = False
    else:
        is_let_in = True

    assert (refusal(tmp_path, principal(peer), *authorities, lists=lists) is None) == (
        is_let_in
    )


def test_unreadable(tmp_path: Path) -> None:
    """What cannot be read is not trusted."""
    assert refusal(tmp_path, Principal("alice", chain=(b"nonsense",)), ROOT) is not None


def test_no_certificate(tmp_path: Path) -> None:
    """Who was not let in by a certificate is not judged by it."""
    assert refusal(tmp_path, Principal("alice"), ROOT) is None


def test_nothing_ends_soon(tmp_path: Path) -> None:
    """What is good for more than 30 days is not spoken of."""
    server = ROOT.server(ends=31 * DAY)
    directory_of(tmp_path, server, ROOT, lists=ROOT.revoke(ends=31 * DAY))

    assert warnings(read_files(tmp_path), NOW) == []


def test_all_ends_soon(tmp_path: Path) -> None:
    """Each thing that ends soon has a sentence, with when, and what to do."""
    root = Authority.root(ends=29 * DAY)
    server = root.server(ends=2 * DAY)
    directory_of(tmp_path, server, root, lists=root.revoke(ends=3 * DAY))

    found = warnings(read_files(tmp_path), NOW)

    server_line, ca_line, list_line = found
    assert server_line.startswith(f"{tmp_path / 'server.pem'} expires at 20")
    assert "remove server.pem, run gen_certs.sh again with each --host" in server_line
    assert ca_line.startswith(f"Test CA in {tmp_path / 'ca.pem'} expires at 20")
    assert "give the new one to everybody" in ca_line
    assert list_line.startswith(
        f"the list of Test CA in {tmp_path / 'crl.pem'} expires"
    )
    assert "nobody is let in from then on: make a new one with 'gen_certs" in list_line


def test_what_is_over(tmp_path: Path) -> None:
    """What has ended while the server ran is told as that."""
    directory_of(tmp_path, ROOT.server(ends=DAY), ROOT)

    (line,) = warnings(read_files(tmp_path), NOW + 2 * 86_400)

    assert "server.pem expired at 20" in line


def test_intermediate_ends_soon(tmp_path: Path) -> None:
    """What the server sends along counts as its own certificate does."""
    server = ROOT.authority("short", ends=2 * DAY).server(ends=40 * DAY)
    directory_of(tmp_path, server, ROOT)

    (line,) = warnings(read_files(tmp_path), NOW)

    assert line.startswith(f"short in {tmp_path / 'server.pem'} expires at 20")


def test_renewed_authority_is_no_news(tmp_path: Path) -> None:
    """An authority that ends soon, and has been renewed, is not spoken of."""
    old = Authority.root(key=ROOT.key, ends=DAY)
    directory_of(tmp_path, ROOT.server(ends=40 * DAY), old, ROOT)

    assert warnings(read_files(tmp_path), NOW) == []
