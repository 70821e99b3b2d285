"""From what jobs used in all to what they use a second."""

import asyncio
from dataclasses import replace

import pytest

from teleworkerd.protocol.errors import ConnectionClosed
from teleworkerd.protocol.responses import TopEnd, UsageSample
from teleworkerd.protocol.spec import Limits
from teleworkerd.protocol.status import JobStatus, StreamStatus, Usage
from teleworkerd.protocol.types import JobState
from twctl.sampling import Rates, Samples
from twctl.sizes import bar, show_size, sparkline
from twctl.usage import sample_text


SECOND = 10**9
JOB = JobStatus(
    id="0123abcd-0000-4000-8000-000000000001",
    owner="alice",
    command=(b"make",),
    state=JobState.RUNNING,
    created_at=0,
    started_at=0,
    limits=Limits(),
    applied=Limits(mem=64, pids=50),
    usage=Usage(1.0, 0, 100, 200, 3, 0, 32 << 20),
    stdout=StreamStatus(0, 10),
    stderr=StreamStatus(0, 5),
)
LATER = replace(
    JOB,
    usage=Usage(2.0, 0, 1124, 2248, 3, 0, 32 << 20),
    stdout=StreamStatus(0, 10 + 4096),
    stderr=StreamStatus(0, 5),
)


def test_first_sample() -> None:
    """There is no rate before there is a second sample."""
    (use,) = Rates().sample(SECOND, (JOB,)).jobs

    assert (use.cpu_percent, use.read_rate, use.output_rate) == (None, None, None)


def test_second_sample() -> None:
    """A rate is the difference, divided by that of the times."""
    rates = Rates()
    rates.sample(SECOND, (JOB,))
    sample = rates.sample(3 * SECOND, (LATER,))
    (use,) = sample.jobs

    assert sample.at == 3 * SECOND
    assert use.cpu_percent == pytest.approx(50)
    assert (use.read_rate, use.write_rate, use.output_rate) == (512, 1024, 2048)


def test_what_goes_back() -> None:
    """A count that is less than before, or unknown, gives no rate."""
    rates = Rates()
    rates.sample(SECOND, (LATER,))
    (use,) = rates.sample(2 * SECOND, (replace(JOB, usage=Usage(1.0)),)).jobs

    assert (use.cpu_percent, use.read_rate) == (None, None)


def test_table() -> None:
    """A table has a line for each job: use, limits, rates; without jobs it says so."""
    rates = Rates()
    rates.sample(SECOND, (JOB,))
    head, line = sample_text(rates.sample(3 * SECOND, (LATER,))).splitlines()

    assert head.split()[:5] == ["ID", "NAME", "CPU", "MEM", "PIDS"]
    assert "50%" in line
    assert "32.0 MiB/64.0 MiB" in line
    assert "3/50" in line
    assert "2.0 KiB" in line
    assert sample_text(rates.sample(4 * SECOND, ())) == "no job runs"


def test_pages() -> None:
    """A sample that comes in parts is one; only the newest whole one waits."""
    samples = Samples()
    samples.put(UsageSample(1, 5, (JOB,), more=True))
    samples.put(UsageSample(1, 5, (LATER,)))
    samples.put(UsageSample(1, 6, (JOB,)))
    samples.put(UsageSample(1, 6, (LATER,), more=True))

    assert asyncio.run(samples.next()) == (6, (JOB,))


async def test_end_and_error() -> None:
    """After the last sample comes the end, or what went wrong."""
    over, lost = Samples(), Samples()
    over.put(UsageSample(1, 5, (JOB,)))
    over.put(TopEnd(1))
    lost.put(ConnectionClosed("gone"))

    assert await over.next() == (5, (JOB,))
    assert await over.next() is None

    with pytest.raises(ConnectionClosed):
        await lost.next()


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (100 << 20, "100 MiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (5 << 40, "5.0 TiB"),
        (1 << 70, "1048576 PiB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    """A size has about three figures, and the unit that needs no more."""
    assert show_size(count) == text


def test_bar() -> None:
    """A bar shows the share; what is beyond the limit is a full one."""
    assert bar(50, 100) == "[##########----------] 50%"
    assert bar(300, 100) == "[####################] 300%"


def test_sparkline() -> None:
    """Columns are as high as their share of the greatest."""
    assert sparkline([0, 50, 100]) == "▁▅█"
    assert sparkline([0, 50], top=100) == "▁▅"
    assert sparkline([0.0, 0.0]) == "▁▁"
