"""Who a client is, by its certificate."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from teleworkerd.protocol.errors import PermissionDenied


_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


@dataclass(frozen=True, slots=True)
class Principal:
    """The authenticated name, and the serial number that vouched for it."""

    name: str
    serial: str


def authenticate(certificate: Mapping[str, Any] | None) -> Principal:
    """Return who *certificate*, as `SSLObject.getpeercert` has it, belongs to.

    Exactly one CN of harmless characters is taken; anything else raises
    `PermissionDenied`.
    """
    names = list(_common_names((certificate or {}).get("subject", ())))

    if len(names) != 1:
        raise PermissionDenied(
            f"the certificate has {len(names)} common names; it needs exactly one"
        )

    (name,) = names

    if not _NAME.fullmatch(name):
        raise PermissionDenied(
            f"the certificate's common name {name!r:.80} is not 1 to 64 characters"
            " of A-Z a-z 0-9 . _ @ - that begin with a letter or digit"
        )

    return Principal(name, str((certificate or {}).get("serialNumber", "")))


def _common_names(subject: tuple[Any, ...]) -> Iterator[str]:
    # A subject is a tuple of RDNs, each a tuple of one or more (type, value).
    for relative_name in subject:
        for kind, value in relative_name:
            if kind == "commonName":
                yield value
