"""Errors keep their class across the wire."""

import pytest

from teleworkerd.protocol.errors import (
    ConnectionClosed,
    ErrorCode,
    InternalError,
    InvalidRequest,
    LocalProtocolError,
    ProtocolError,
    RemoteProtocolError,
    RequestError,
    TeleworkerError,
)


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_has_a_class(code: ErrorCode) -> None:
    """Code, message and details make the same error again."""
    error = RequestError.from_wire(code, "what and why", {"jobs": ["a", "b"]})

    assert code == error.code
    assert type(error) in RequestError.__subclasses__()
    assert "what and why" == error.message == str(error)
    assert error.details == {"jobs": ["a", "b"]}


def test_every_class_has_its_own_code() -> None:
    """No two classes share a code."""
    codes = [cls.code for cls in RequestError.__subclasses__()]

    assert sorted(ErrorCode) == sorted(codes)


def test_an_unknown_code_is_kept() -> None:
    """A code of a newer peer reads as internal and is named."""
    error = RequestError.from_wire("on_fire", "the server burns", {})

    assert isinstance(error, InternalError)
    assert error.message == "the server burns (on_fire)"


def test_a_special_case_does_not_replace_its_class() -> None:
    """A subclass made elsewhere crosses the wire as the class with its code."""

    class UnknownSignal(InvalidRequest):
        """A special case."""

    error = RequestError.from_wire(UnknownSignal.code, "no", {})

    assert type(error) is InvalidRequest


def test_details_default_to_none() -> None:
    """An error without details has an empty map."""
    assert InternalError("no").details == {}


def test_one_root() -> None:
    """Whoever catches the root catches all."""
    kinds = (ConnectionClosed, LocalProtocolError, RemoteProtocolError, RequestError)

    assert all(issubclass(kind, TeleworkerError) for kind in kinds)
    assert issubclass(LocalProtocolError, ProtocolError)
    assert issubclass(RemoteProtocolError, ProtocolError)
