"""The keeper's limit of descriptors: raised as far as it may be, and told if low."""

import resource

import pytest

from teleworkerd.keeper import descriptors


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Note what is set; the last is what holds."""
    found = [(1024, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: found[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: found.append(pair))
    return found


def test_raised(
    limits: list[tuple[int, int]], caplog: pytest.LogCaptureFixture
) -> None:
    """We take all that there may be; jobs get what there was."""
    assert descriptors.raise_limit() == (1024, 4096)
    assert limits[-1] == (4096, 4096)
    assert caplog.text == ""


def test_few(limits: list[tuple[int, int]], caplog: pytest.LogCaptureFixture) -> None:
    """A limit that is too low for more than a few jobs is told, with what to do."""
    limits[:] = [(100, descriptors.FEW - 1)]

    assert descriptors.raise_limit() == (100, 255)
    assert "no more than 255 files may be open" in caplog.text
    assert "LimitNOFILE=" in caplog.text


def test_no_limit(limits: list[tuple[int, int]]) -> None:
    """Where there is none, a number is as good."""
    limits[:] = [(1024, resource.RLIM_INFINITY)]

    assert descriptors.raise_limit() == (1024, resource.RLIM_INFINITY)
    assert limits[-1] == (1 << 20, resource.RLIM_INFINITY)
