"""The main process of a job without the descriptor that stands for it."""

import os
import signal

import pytest

from teleworkerd.keeper.main_process import MainProcess
from tests.scarce import no_descriptors


async def test_no_descriptor(caplog: pytest.LogCaptureFixture) -> None:
    """It is told once, and nobody else is signalled instead."""
    with no_descriptors():
        main = MainProcess("one", os.getpid())

    main.signal(signal.SIGTERM)
    main.signal(signal.SIGTERM)
    main.close()

    (record,) = caplog.records
    assert record.getMessage().startswith("job one: only its tree can be signalled")
    assert main.used is None
