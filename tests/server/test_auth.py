"""Who a certificate belongs to: exactly one decent name, or nobody."""

from typing import Any, Final

import pytest

from teleworkerd.protocol.errors import PermissionDenied
from teleworkerd.server.auth import authenticate


# As `getpeercert` has it: a subject is a tuple of RDNs, each a tuple of pairs.
CN: Final = "commonName"
ORG: Final = (("organizationName", "Example"),)
UNIT: Final = ("organizationalUnitName", "ops")


def certificate(*subject: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """Return a certificate with the RDNs of *subject*."""
    return {"subject": subject, "serialNumber": "0A"}


@pytest.mark.parametrize(
    "name",
    [
        "alice",
        "Alice",
        "0",
        "a" * 64,
        "ci-runner.example.org",
        "alice@example.org",
        "a_b",
        "..".join("ab"),
    ],
)
def test_decent(name: str) -> None:
    """A name of harmless characters is taken as it is."""
    principal = authenticate(certificate(ORG, ((CN, name),)))

    assert (principal.name, principal.serial) == (name, "0A")


def test_multi_valued_rdn() -> None:
    """The name may share its RDN with others, in any place."""
    assert authenticate(certificate((UNIT, (CN, "alice")))).name == "alice"
    assert authenticate(certificate(((CN, "alice"), UNIT))).name == "alice"


@pytest.mark.parametrize(
    "subject",
    [
        (),
        (ORG,),
        (((CN, "alice"),), ((CN, "root"),)),
        (((CN, "alice"), (CN, "alice")),),
        (((CN, "alice"),), (UNIT, (CN, "root"))),
    ],
    ids=["none", "no CN", "two RDNs", "two in an RDN", "hidden second"],
)
def test_not_one_name(subject: tuple[tuple[tuple[str, str], ...], ...]) -> None:
    """No name, or more than one, is nobody."""
    with pytest.raises(PermissionDenied, match="common names; it needs exactly one"):
        authenticate(certificate(*subject))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a" * 65,
        "alice\n",
        "alice\nroot",
        "alice\0root",
        "\0",
        "../etc",
        "a/b",
        ".hidden",
        "-rf",
        "@home",
        "alice bob",
        " alice",
        "älice",
        "аlice",  # noqa: RUF001  a Cyrillic letter is the point
        "alice\u200b",
        "\u202eecila",
        "ａlice",  # noqa: RUF001  so is a full-width one
        "\u0661",
        "a" * 100_000,
    ],
)
def test_odd(name: str) -> None:
    """A name that could be mistaken for another, or for a path, is nobody."""
    with pytest.raises(PermissionDenied) as caught:
        authenticate(certificate(((CN, name),)))

    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("nothing", [None, {}])
def test_no_certificate(nothing: dict[str, Any] | None) -> None:
    """Without a certificate there is nobody."""
    with pytest.raises(PermissionDenied):
        authenticate(nothing)
