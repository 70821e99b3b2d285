"""The index's records as they stand in the file."""

from hypothesis import given
from hypothesis import strategies as st

from teleworkerd.output.index import RECORD, IndexRecord
from teleworkerd.protocol.types import Stream


@given(
    time=st.integers(0, 2**64 - 1),
    stream=st.sampled_from(Stream),
    offset=st.integers(0, 2**64 - 1),
    length=st.integers(0, 2**32 - 1),
)
def test_record_survives(time: int, stream: Stream, offset: int, length: int) -> None:
    """What was packed is what is unpacked."""
    record = IndexRecord(time, stream, offset, length)

    assert record == IndexRecord.unpack(record.pack())


def test_record_is_as_documented() -> None:
    """A record has 24 bytes, little-endian, in the order that the module says."""
    packed = IndexRecord(1, Stream.STDERR, 2, 3).pack()

    assert RECORD.size == 24
    assert (
        bytes.fromhex("0100000000000000 0200000000000000 03000000 01 000000") == packed
    )
