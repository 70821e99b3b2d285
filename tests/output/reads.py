"""How much of the disk is read."""

import os

import pytest


class Reads:
    """Counts what is read from disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.bytes = 0
        self._pread = os.pread
        monkeypatch.setattr(os, "pread", self)

    def __call__(self, fd: int, size: int, offset: int) -> bytes:
        data = self._pread(fd, size, offset)
        self.count += 1
        self.bytes += len(data)
        return data
