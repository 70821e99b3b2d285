"""The client's side of TLS: what is said of files, certificates and names."""

import re
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import pytest
from cryptography import x509

from tests.e2e.authority import (
    ANY,
    CLIENT,
    SERVER,
    Authority,
    Signed,
    directory_of,
)
from tests.e2e.commandline import Completed, Twctl, call, settings
from tests.e2e.daemon import Daemon
from tests.e2e.pki import DAY, Certificates, Identity
from tests.twctl.fake import FakeServer, serving
from tests.twctl.impostors import drain, listening, shaking_hands, strict_context


# `info` speaks over a blocking socket, `wait` over an event loop.
VERBS: Final = [("info",), ("wait", "abcd"), ("run", "true"), ("run", "-f", "true")]
KINDS: Final = VERBS[:2]
MONTH: Final = timedelta(days=30)


@pytest.fixture(scope="module")
def root() -> Authority:
    """The authority of those tests that have no daemon."""
    return Authority.root(ends=400 * DAY)


@pytest.fixture(scope="module")
def trusted(root: Authority, tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A daemon's directory by that authority, and a client `alice`."""
    certs = directory_of(tmp_path_factory.mktemp("trusted"), root.server(), root)
    root.client(ends=365 * DAY).save(certs.directory, "alice")
    return certs


def refused(
    address: str, certs: Certificates, verb: tuple[str, ...], identity: Identity
) -> str:
    """Return the one line with which *verb* fails; its code must be 125."""
    environment = settings(address, certs, identity, home=certs.directory)
    done = call(*verb, environment=environment)

    assert done.code == 125, done
    assert "_ssl.c" not in done.error
    return done.error


# The key


def test_key_for_others(alice: Twctl, tmp_path: Path) -> None:
    """A key that others may read is refused; the command it says makes it good."""
    key = tmp_path / "key.pem"
    key.write_bytes(Path(alice.environment["TWCTL_KEY"]).read_bytes())
    key.chmod(0o644)
    alice.environment["TWCTL_KEY"] = str(key)

    done = alice("info")

    assert done.code == 125
    assert f"key {key} (TWCTL_KEY) can be used by others (mode 0644)" in done.error
    subprocess.run(done.error.partition("run: ")[2], shell=True, check=True)
    assert alice("info").code == 0


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_nobody_is_asked(trusted: Certificates, verb: tuple[str, ...]) -> None:
    """Files that cannot be used are told of before anybody is connected to."""
    identity = Identity(trusted.of("server").cert, trusted.of("server").key)

    error = refused("127.0.0.1:1", trusted, verb, identity)

    assert f"cert {identity.cert} (TWCTL_CERT) does not say that it is for a" in error


# The end of a certificate


def ending(daemon: Daemon, into: Path, ends: timedelta) -> Twctl:
    """Return alice, whose certificate has only that long."""
    signed = Authority.of(daemon.certs).client(ends=ends)
    return Twctl(daemon, signed.save(into, "alice"))


@pytest.mark.parametrize(
    "verb",
    [
        ("info",),
        ("list",),
        ("run", "true"),
        ("run", "-f", "true"),
        ("wait", "JOB"),
        ("status", "-o", "json", "JOB"),
        ("tail", "-f", "JOB"),
        ("kill", "JOB"),
    ],
    ids=" ".join,
)
def test_warning(daemon: Daemon, tmp_path: Path, verb: tuple[str, ...]) -> None:
    """From 30 days before the end on, calls say so once a day, on stderr alone."""
    alice = ending(daemon, tmp_path, MONTH - timedelta(minutes=1))
    job = alice.run("echo", "out")
    alice("wait", job)
    alice.environment["XDG_STATE_HOME"] = str(tmp_path / "state")

    done = alice(*(job if word == "JOB" else word for word in verb))
    again = alice(*(job if word == "JOB" else word for word in verb))

    warnings = re.findall(r"(?m)^twctl: warning: .*$", done.stderr)
    assert done.code == 0
    assert len(warnings) == 1
    assert re.search(
        r"cert \S+ \(TWCTL_CERT\) expires at \S+ \S+ UTC, in 29 days; ", warnings[0]
    )
    assert b"warning" not in done.stdout
    assert "warning" not in again.stderr


def test_no_warning(daemon: Daemon, tmp_path: Path) -> None:
    """Before that, nothing is said."""
    alice = ending(daemon, tmp_path, MONTH + timedelta(minutes=5))

    assert alice("info").stderr == ""


def test_failure_without_a_warning(daemon: Daemon, tmp_path: Path) -> None:
    """Who is not let in is told why, and nothing beside it."""
    alice = ending(daemon, tmp_path, DAY)
    alice.environment["TWCTL_HOST"] = "127.0.0.1:1"

    assert "nothing listens there" in alice("info").error


# What a server says that refuses us


def with_crl(certs: Certificates, into: Path, crl: bytes) -> ssl.SSLContext:
    """Return a strict server's context with this list."""
    path = into / "crl.pem"
    path.write_bytes(crl)
    return strict_context(certs, crl=path)


def before_tls_1_3(certs: Certificates) -> ssl.SSLContext:
    """Return a context that knows nothing newer than TLS 1.2."""
    context = strict_context(certs)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


@contextmanager
def refusing(
    name: str, trusted: Certificates, root: Authority, into: Path
) -> Iterator[tuple[str, Identity]]:
    """Serve what refuses; yields the address, and who is refused."""
    alice = trusted.of("alice")
    context = strict_context(trusted)

    match name:
        case "other CA":
            stranger = Authority.root("Another CA").client(ends=365 * DAY)
            alice = stranger.save(into, "alice")
        case "damaged":
            twin = Authority.root(ends=400 * DAY).client(
                ends=365 * DAY, has_signer_id=False
            )
            alice = twin.save(into, "alice")
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        case "revoked":
            certificate = x509.load_pem_x509_certificate(alice.cert.read_bytes())
            context = with_crl(trusted, into, root.revoke(certificate))
        case "expired list":
            crl = root.revoke(begins=-2 * DAY, ends=-DAY)
            context = with_crl(trusted, into, crl)
        case "no list of this CA":
            context = with_crl(trusted, into, Authority.root("Other").revoke())
        case "not strict":
            odd = root.client(ends=365 * DAY, has_signer_id=False)
            alice = odd.save(into, "alice")
        case "TLS 1.2":
            context = before_tls_1_3(trusted)
        case _:
            raise AssertionError(name)

    with shaking_hands(context) as address:
        yield address, alice


REFUSALS: Final = {
    "other CA": r"the server does not trust the CA of your certificate \S+alice\.pem;",
    "damaged": r"the server finds the signature of your certificate \S+ wrong",
    "revoked": r"your certificate \S+alice\.pem has been revoked; have a new one made",
    "expired list": (
        r"by this machine's clock it is valid until 20\S+ \S+ UTC: the server's clock"
        r" differs, or its revocation list \(CRL\) has expired and its operator must"
    ),
    "no list of this CA": r"the server does not trust|the server rejected your cert",
    "not strict": r"the server rejected your certificate \S+; its log has the reason",
    "TLS 1.2": "no common TLS version; the server needs TLS 1.3",
}


@pytest.mark.parametrize("verb", KINDS, ids=" ".join)
@pytest.mark.parametrize("name", REFUSALS)
def test_refused_by_the_server(
    trusted: Certificates,
    root: Authority,
    tmp_path: Path,
    name: str,
    verb: tuple[str, ...],
) -> None:
    """Each alert of the server is a sentence of its own, with what to do."""
    with refusing(name, trusted, root, tmp_path) as (address, identity):
        error = refused(address, trusted, verb, identity)

    assert error.startswith(f"twctl: error: {address}: ")
    assert re.search(REFUSALS[name], error)


def test_no_certificate(daemon: Daemon) -> None:
    """Without a certificate nobody is connected to."""
    assert (
        "no certificate and key given; use --cert" in Twctl(daemon, None)("info").error
    )


NO_TLS: Final[dict[str, tuple[bytes, str]]] = {
    "closed": (b"", "closed the connection during authentication"),
    "http": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak TLS"),
    "ssh": (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak TLS"),
    "garbage": (bytes(range(255, 0, -1)), "does not speak TLS"),
}


@pytest.mark.parametrize("verb", KINDS, ids=" ".join)
@pytest.mark.parametrize("name", NO_TLS)
def test_no_tls(trusted: Certificates, name: str, verb: tuple[str, ...]) -> None:
    """What listens there and speaks no TLS is told as that."""
    data, words = NO_TLS[name]

    def answer(raw: socket.socket) -> None:
        raw.recv(4096)
        raw.sendall(data)
        drain(raw)

    with listening(answer) as address:
        assert words in refused(address, trusted, verb, trusted.of("alice"))


# Whom we take for the server


def ip(address: str) -> x509.IPAddress:
    """Return *address* as it stands in a certificate."""
    return x509.IPAddress(ip_address(address))


def dns(name: str) -> x509.DNSName:
    """Return *name* as it stands in a certificate."""
    return x509.DNSName(name)


HOST: Final = "the server's certificate is not for host"

# The server's certificate, as which host it is asked for, what is said.
ODD_SERVERS: Final[dict[str, tuple[Callable[[Authority], Signed], str, str]]] = {
    "wrong host": (
        lambda root: root.server(names=[dns("elsewhere.invalid"), ip("192.0.2.1")]),
        "localhost",
        f"{HOST} localhost but for elsewhere.invalid, 192.0.2.1; connect by",
    ),
    "wrong address": (
        lambda root: root.server(names=[dns("localhost"), ip("127.0.0.2")]),
        "127.0.0.1",
        f"{HOST} 127.0.0.1 but for localhost, 127.0.0.2; connect by",
    ),
    "address as a name": (
        lambda root: root.server(names=[dns("127.0.0.1")]),
        "127.0.0.1",
        f"{HOST} 127.0.0.1 but for 127.0.0.1; connect by",
    ),
    "common name only": (
        lambda root: root.server("localhost", names=()),
        "localhost",
        f"{HOST} localhost nor for any (subjectAltName); connect by",
    ),
    "wildcard": (
        lambda root: root.server(names=[dns("*")]),
        "localhost",
        f"{HOST} localhost but for *; connect by",
    ),
    "part of a wildcard": (
        lambda root: root.server(names=[dns("local*"), dns("*host")]),
        "localhost",
        f"{HOST} localhost but for local*, *host; connect by",
    ),
    "wildcard for an address": (
        lambda root: root.server(names=[dns("*.0.0.1")]),
        "127.0.0.1",
        f"{HOST} 127.0.0.1 but for *.0.0.1; connect by",
    ),
    "trailing dot": (
        lambda root: root.server(names=[dns("localhost.")]),
        "localhost",
        f"{HOST} localhost but for localhost.; connect by",
    ),
    "hostile name": (
        lambda root: root.server(names=[dns("a\x1b[2Jb\n")]),
        "localhost",
        f"{HOST} localhost but for a\\x1b[2Jb\\n; connect by",
    ),
    "of a client": (
        lambda root: root.server(purposes=CLIENT),
        "localhost",
        "the server's certificate may not be used by a server; its operator must",
    ),
    "without a purpose": (
        lambda root: root.server(purposes=()),
        "localhost",
        "the server's certificate may not be used by a server; its operator must",
    ),
    "for any purpose": (
        lambda root: root.server(purposes=ANY),
        "localhost",
        "the server's certificate may not be used by a server; its operator must",
    ),
    "expired": (
        lambda root: root.server(begins=-2 * DAY, ends=-DAY),
        "localhost",
        "the server's certificate has expired; its operator must renew it",
    ),
    "not yet valid": (
        lambda root: root.server(begins=DAY, ends=2 * DAY),
        "localhost",
        "the server's certificate is not valid yet (check both clocks)",
    ),
    "other CA": (
        lambda root: Authority.root("Another CA").server(),
        "localhost",
        "the server's certificate is not signed by your ca ",
    ),
    "CA of the same name": (
        lambda root: Authority.root().server(),
        "localhost",
        "the server's certificate is not signed by your ca ",
    ),
    "not strict": (
        lambda root: root.server(has_signer_id=False),
        "localhost",
        "is not as RFC 5280 has it",
    ),
}


@pytest.mark.parametrize("verb", KINDS, ids=" ".join)
@pytest.mark.parametrize("name", ODD_SERVERS)
def test_odd_server(
    trusted: Certificates,
    root: Authority,
    tmp_path: Path,
    name: str,
    verb: tuple[str, ...],
) -> None:
    """A server that is not the right one is refused, and why is said."""
    make, host, words = ODD_SERVERS[name]
    odd = directory_of(tmp_path, make(root), root)

    with serving(FakeServer(), odd, trusted) as profile:
        address = f"{host}:{profile.port}"
        error = refused(address, trusted, verb, trusted.of("alice"))

    assert error.startswith(f"twctl: error: {address}: ")
    assert words in error


@pytest.mark.parametrize("verb", [("info",), ("list",), ("run", "-f", "true")])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_right_server(
    trusted: Certificates, tmp_path: Path, host: str, verb: tuple[str, ...]
) -> None:
    """The right one is taken, by its name and by its address."""
    server = FakeServer()

    with serving(server, trusted) as profile:
        environment = settings(
            f"{host}:{profile.port}", trusted, trusted.of("alice"), home=tmp_path
        )
        call(*verb, environment=environment, within=10)

    assert server.connections == 1
    assert server.asked


def test_wrong_name_is_looked_at_without_us(
    trusted: Certificates, root: Authority, tmp_path: Path
) -> None:
    """To see whose certificate it is, we do not show ours."""
    shown: list[bytes | None] = []
    server = root.server(names=[dns("elsewhere.invalid")])
    context = strict_context(directory_of(tmp_path, server, root))
    context.verify_mode = ssl.CERT_OPTIONAL

    def shake(raw: socket.socket) -> None:
        with context.wrap_socket(raw, server_side=True) as tls:
            shown.append(tls.getpeercert(binary_form=True))

    with listening(shake) as address:
        refused(address, trusted, ("info",), trusted.of("alice"))

    assert shown == [None]


def test_both_purposes_are_enough(
    trusted: Certificates, root: Authority, tmp_path: Path
) -> None:
    """A certificate that is for servers among others is a server's."""
    server = FakeServer()
    both = directory_of(tmp_path, root.server(purposes=(*CLIENT, *SERVER)), root)

    with serving(server, both, trusted) as profile:
        environment = settings(
            profile.address, trusted, trusted.of("alice"), home=tmp_path
        )
        done: Completed = call("info", environment=environment)

    assert done.code == 0
