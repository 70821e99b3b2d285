"""The main process of a job without the descriptor that stands for it."""

import os
import signal

import pytest

from teleworkerd.keeper.main_process import MainProcess
from teleworkerd.spare import Spare
from tests.scarce import no_descriptors


async def test_no_descriptor(caplog: pytest.LogCaptureFixture) -> None:
    """It is told once, and nobody else is signalled instead."""
    spare = Spare(0)

    with no_descriptors():
        main = MainProcess("one", os.getpid(), spare)

    main.signal(signal.SIGTERM)
    main.signal(signal.SIGTERM)
    main.close()
    spare.close()

    (record,) = caplog.records
    assert record.getMessage().startswith("job one: only its tree can be signalled")
    assert main.cpu_seconds is None
